package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.DynamicTest.dynamicTest;

import com.google.gson.JsonObject;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;

/** The cases that every language runs; tests/vectors/README.md says what stands in them. */
class VectorsTest {
  @TempDir Path folder;

  private static Stream<DynamicTest> run(String file, String name, Consumer<JsonObject> test) {
    return Data.vectors(file).stream()
        .map(c -> dynamicTest(c.get(name).toString(), () -> test.accept(c)));
  }

  @TestFactory
  Stream<DynamicTest> spec() {
    return run(
        "spec.json",
        "spec",
        c -> {
          String spec = Data.text(c, "spec");
          if (c.has("error")) {
            Data.fails(c.getAsJsonObject("error"), () -> Cortex.specParse(spec));
          } else {
            String canonical = Data.text(c, "canonical");
            assertEquals(canonical, Cortex.specParse(spec));
            assertEquals(canonical, Cortex.specParse(canonical));
          }
        });
  }

  private static void near(JsonObject c, String key, double found) {
    double expected =
        c.get(key).isJsonNull() ? Double.POSITIVE_INFINITY : c.get(key).getAsDouble();
    assertEquals(expected, found, 1e-12 * Math.abs(expected), key);
  }

  @TestFactory
  Stream<DynamicTest> tensor() {
    return run(
        "tensor.json",
        "name",
        c -> {
          byte[] decoded = Data.bytes(c, "decoded");
          try (Tensor tensor = Data.compress(c)) {
            assertEquals(Data.text(c, "canonical"), tensor.spec());
            assertEquals(Data.text(c, "dtype"), tensor.dtype().toString());
            assertArrayEquals(Data.longs(c, "shape"), tensor.shape());
            assertEquals(decoded.length, tensor.rawBytes());
            assertEquals(c.get("stored_bytes").getAsLong(), tensor.storedBytes());
            near(c, "bits_per_weight", tensor.bitsPerWeight());
            near(c, "relative_error", tensor.relativeError());
            near(c, "max_abs_error", tensor.maxAbsError());
            near(c, "sqnr_db", tensor.sqnrDb());
            assertArrayEquals(decoded, Data.bytes(tensor.decompress()));
            ByteBuffer heap = ByteBuffer.allocate(decoded.length).order(ByteOrder.nativeOrder());
            tensor.decompress(heap);
            assertArrayEquals(decoded, heap.array());

            JsonObject rows = c.getAsJsonObject("rows");
            long start = rows.get("start").getAsLong();
            long count = rows.get("count").getAsLong();
            assertArrayEquals(
                Data.bytes(rows, "decoded"), Data.bytes(tensor.decodeRows(start, count)));
            byte[] floats = Data.bytes(rows, "decoded_f32");
            ByteBuffer out = Data.room(floats.length);
            tensor.decodeRowsF32(start, count, out.asFloatBuffer());
            assertArrayEquals(floats, Data.bytes(out));
          }
        });
  }

  private static void close(JsonObject c, FloatBuffer found) {
    float[] expected = Data.floats(Data.floats(c, "y"));
    double tolerance = c.get("tolerance").getAsDouble();
    for (int i = 0; i < expected.length; i++) {
      // The difference is NaN where only one of them is a number.
      double difference = Math.abs((double) expected[i] - found.get(i));
      boolean same = Float.compare(expected[i], found.get(i)) == 0 || difference <= tolerance;
      assertTrue(same, "y[" + i + "] is " + found.get(i) + " instead of " + expected[i]);
    }
  }

  @TestFactory
  Stream<DynamicTest> matmul() {
    return run(
        "matmul.json",
        "name",
        c -> {
          View x =
              View.of(
                  Data.direct(Data.bytes(c, "x")),
                  DType.of(Data.text(c, "x_dtype")),
                  Data.longs(c, "x_shape"));
          FloatBuffer y = Data.floatRoom(Data.floats(c, "y").remaining());
          String precision = Data.text(c, "precision").toUpperCase(Locale.ROOT);
          MatmulOptions options =
              MatmulOptions.defaults().precision(Precision.valueOf(precision));
          try (Tensor tensor = Data.compress(c)) {
            boolean transposed = Data.text(c, "op").equals("matmul_t");
            Precision computed =
                transposed ? tensor.matmulT(x, y, options) : tensor.matmul(x, y, options);
            if (!c.get("computed").isJsonNull()) {
              assertEquals(
                  Data.text(c, "computed"), computed.name().toLowerCase(Locale.ROOT));
            }
          }
          close(c, y);
        });
  }

  @TestFactory
  Stream<DynamicTest> conv() {
    return run(
        "conv.json",
        "name",
        c -> {
          View x = View.of(Data.floats(c, "x"), shapeOfX(c));
          FloatBuffer y = Data.floatRoom(Data.floats(c, "y").remaining());
          long[] stride = Data.longs(c, "stride");
          long[] padding = Data.longs(c, "padding");
          long[] dilation = Data.longs(c, "dilation");
          ConvOptions options =
              ConvOptions.defaults()
                  .stride(stride[0], stride[1])
                  .padding(padding[0], padding[1], padding[2], padding[3])
                  .dilation(dilation[0], dilation[1])
                  .groups(c.get("groups").getAsLong());
          try (Tensor tensor = Data.compress(c)) {
            long[] yShape = Data.longs(c, "y_shape");
            if (Data.text(c, "op").equals("conv_t")) {
              assertArrayEquals(shapeOfX(c), tensor.convOutputShape(options, yShape));
              tensor.convT(x, yShape, y, options);
            } else {
              assertArrayEquals(yShape, tensor.convOutputShape(options, shapeOfX(c)));
              tensor.conv(x, y, options);
            }
          }
          close(c, y);
        });
  }

  private static long[] shapeOfX(JsonObject c) {
    return Data.longs(c, "x_shape");
  }

  @TestFactory
  Stream<DynamicTest> sdr() {
    return run(
        "sdr.json",
        "bits",
        c -> {
          List<JsonObject> items = list(c, "items");
          try (SdrIndex index = new SdrIndex(c.get("bits").getAsLong())) {
            for (JsonObject item : items) {
              index.add(item.get("id").getAsLong(), Data.ints(item, "active"));
            }
            assertEquals(items.size(), index.size());
            list(c, "queries").forEach(q -> query(index, q));
            for (long id : Data.longs(c, "removed")) {
              assertTrue(index.remove(id));
            }
            list(c, "after").forEach(q -> query(index, q));
          }
        });
  }

  private static List<JsonObject> list(JsonObject c, String key) {
    List<JsonObject> list = new ArrayList<>();
    c.getAsJsonArray(key).forEach(e -> list.add(e.getAsJsonObject()));
    return list;
  }

  private static void query(SdrIndex index, JsonObject query) {
    List<String> expected = new ArrayList<>();
    for (JsonObject m : list(query, "matches")) {
      expected.add(m.get("id").getAsLong() + ": " + m.get("overlap").getAsLong());
    }
    List<String> found = new ArrayList<>();
    for (SdrIndex.Match m : index.topK(query.get("k").getAsLong(), Data.ints(query, "active"))) {
      found.add(m.id() + ": " + m.overlap());
    }
    assertEquals(expected, found);
  }

  @TestFactory
  Stream<DynamicTest> errors() {
    return run("errors.json", "name", c -> Data.fails(c.getAsJsonObject("error"), call(c)));
  }

  /** The part of a case that fails; what must not is done at once. */
  private Executable call(JsonObject c) {
    switch (Data.text(c, "call")) {
      case "compress":
        return () -> Data.compress(c).close();
      case "matmul":
        {
          Tensor tensor = Data.compress(c);
          long[] shape = Data.longs(c, "x_shape");
          long elements = 1;
          for (long d : shape) {
            elements *= d;
          }
          View x = View.of(new float[(int) elements], shape);
          long batch = elements / shape[shape.length - 1];
          FloatBuffer y = Data.floatRoom((int) (batch * tensor.rows()));
          return () -> tensor.matmul(x, y);
        }
      case "decode_rows":
        {
          Tensor tensor = Data.compress(c);
          long start = c.get("start").getAsLong();
          long count = c.get("count").getAsLong();
          return () -> tensor.decodeRows(start, count);
        }
      case "open":
        return () -> {
          Path file = Files.write(folder.resolve("vector.cai"), Data.bytes(c, "file"));
          Archive.open(file).close();
        };
      case "tensor":
        {
          Archive archive = Archive.open(Data.GOLDEN.resolve(Data.text(c, "file")));
          return () -> archive.tensor(Data.text(c, "tensor")).close();
        }
      case "sdr_add":
        {
          SdrIndex index = new SdrIndex(c.get("bits").getAsLong());
          return () -> index.add(1, Data.ints(c, "active"));
        }
      default:
        throw new AssertionError("no such call: " + Data.text(c, "call"));
    }
  }
}
