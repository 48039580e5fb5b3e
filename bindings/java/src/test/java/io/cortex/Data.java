package io.cortex;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import org.junit.jupiter.api.function.Executable;

/** What several tests need: files of the repository, buffers, expected errors. */
final class Data {
  /** The repository. */
  static final Path ROOT = Path.of(System.getProperty("cortex.root", "../.."));

  static final Path GOLDEN = ROOT.resolve("tests/golden/v1");

  private Data() {}

  static JsonObject json(Path file) {
    try {
      return JsonParser.parseString(Files.readString(file)).getAsJsonObject();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** The cases of a file of vectors. */
  static List<JsonObject> vectors(String file) {
    return objects(json(ROOT.resolve("tests/vectors").resolve(file)), "cases");
  }

  static List<JsonObject> objects(JsonObject parent, String key) {
    List<JsonObject> list = new ArrayList<>();
    parent.getAsJsonArray(key).forEach(e -> list.add(e.getAsJsonObject()));
    assertFalse(list.isEmpty(), key);
    return list;
  }

  static String text(JsonObject object, String key) {
    return object.get(key).getAsString();
  }

  static byte[] bytes(JsonObject object, String key) {
    return Base64.getDecoder().decode(text(object, key));
  }

  static FloatBuffer floats(JsonObject object, String key) {
    return direct(bytes(object, key)).asFloatBuffer();
  }

  static long[] longs(JsonObject object, String key) {
    JsonArray array = object.getAsJsonArray(key);
    long[] values = new long[array.size()];
    for (int i = 0; i < values.length; i++) {
      values[i] = array.get(i).getAsLong();
    }
    return values;
  }

  static int[] ints(JsonObject object, String key) {
    long[] values = longs(object, key);
    int[] ints = new int[values.length];
    for (int i = 0; i < ints.length; i++) {
      ints[i] = Math.toIntExact(values[i]);
    }
    return ints;
  }

  /** The dense tensor of a case. */
  static View view(JsonObject test) {
    DType dtype = DType.of(text(test, "dtype"));
    return View.of(direct(bytes(test, "data")), dtype, longs(test, "shape"));
  }

  static Tensor compress(JsonObject test) {
    return Tensor.compress(view(test), text(test, "spec"));
  }

  /** A direct buffer of these bytes. */
  static ByteBuffer direct(byte[] bytes) {
    return room(bytes.length).put(bytes).flip();
  }

  /** A direct buffer. */
  static ByteBuffer room(int bytes) {
    return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
  }

  static FloatBuffer floatRoom(int values) {
    return room(4 * values).asFloatBuffer();
  }

  static byte[] bytes(ByteBuffer buffer) {
    byte[] bytes = new byte[buffer.remaining()];
    buffer.duplicate().get(bytes);
    return bytes;
  }

  static float[] floats(FloatBuffer buffer) {
    float[] values = new float[buffer.remaining()];
    buffer.duplicate().get(values);
    return values;
  }

  /** Small weights that differ from one another. */
  static float[] weights(int count) {
    float[] values = new float[count];
    for (int i = 0; i < count; i++) {
      values[i] = (float) ((i * 2654435761L & 0xffffffffL) / 4294967296.0 - 0.5);
    }
    return values;
  }

  /** x · Wᵀ of decoded weights, summed in double. */
  static double[] product(float[] x, float[] w, int rows, int cols) {
    double[] y = new double[x.length / cols * rows];
    for (int i = 0; i < y.length; i++) {
      int b = i / rows;
      int r = i % rows;
      for (int c = 0; c < cols; c++) {
        y[i] += (double) x[b * cols + c] * w[r * cols + c];
      }
    }
    return y;
  }

  static void assertClose(double[] expected, float[] found, double tolerance) {
    assertEquals(expected.length, found.length);
    for (int i = 0; i < found.length; i++) {
      assertEquals(expected[i], found[i], tolerance, "element " + i);
    }
  }

  /** A safetensors file of f32 tensors [rows, cols], or [rows], not negative, for 0 columns, named w0, w1, …. */
  static Path model(Path file, int tensors, int rows, int cols) throws IOException {
    JsonObject header = new JsonObject();
    int values = rows * Math.max(1, cols);
    long bytes = 4L * values;
    for (int i = 0; i < tensors; i++) {
      JsonObject entry = new JsonObject();
      entry.addProperty("dtype", "F32");
      JsonArray shape = new JsonArray();
      shape.add(rows);
      if (cols > 0) {
        shape.add(cols);
      }
      entry.add("shape", shape);
      JsonArray offsets = new JsonArray();
      offsets.add(i * bytes);
      offsets.add((i + 1) * bytes);
      entry.add("data_offsets", offsets);
      header.add("w" + i, entry);
    }
    byte[] text = header.toString().getBytes(StandardCharsets.UTF_8);
    ByteBuffer out =
        ByteBuffer.allocate(Math.toIntExact(8 + text.length + tensors * bytes))
            .order(ByteOrder.LITTLE_ENDIAN);
    out.putLong(text.length).put(text);
    // No two are the same: those would be stored once.
    for (float w : weights(tensors * values)) {
      out.putFloat(cols == 0 ? w * w : w);
    }
    return Files.write(file, out.array());
  }

  /** Writes an archive of one tensor, "w", int8 of f32 [rows, cols]. */
  static Path archive(Path file, int rows, int cols) {
    try (Tensor tensor = Tensor.compress(weights(rows * cols), "int8", rows, cols);
        Writer writer = Writer.create(file)) {
      writer.add("w", tensor);
      writer.finish();
    }
    return file;
  }

  static CortexException fails(ErrorKind kind, Executable call, String... contains) {
    CortexException error = assertThrows(CortexException.class, call);
    assertEquals(kind, error.kind(), error.getMessage());
    for (String text : contains) {
      assertTrue(error.getMessage().contains(text), error.getMessage() + " without " + text);
    }
    return error;
  }

  /** The call fails as a case of the vectors says. */
  static void fails(JsonObject expected, Executable call) {
    List<String> texts = new ArrayList<>();
    for (JsonElement text : expected.getAsJsonArray("contains")) {
      texts.add(text.getAsString());
    }
    CortexException error = assertThrows(CortexException.class, call);
    assertEquals(text(expected, "kind"), error.kind().toString(), error.getMessage());
    for (String text : texts) {
      assertTrue(error.getMessage().contains(text), error.getMessage() + " without " + text);
    }
  }
}
