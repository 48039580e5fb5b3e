package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class CortexTest {
  private static final int TENSORS = 6;

  @TempDir Path folder;
  private Path model;
  private Path archive;

  @BeforeEach
  void make() throws IOException {
    model = Data.model(folder.resolve("Modell ß.safetensors"), TENSORS, 96, 128);
    archive = folder.resolve("Modell ß.cai");
  }

  private List<String> files() throws IOException {
    try (Stream<Path> list = Files.list(folder)) {
      return list.map(p -> p.getFileName().toString()).sorted().collect(Collectors.toList());
    }
  }

  private static List<String> specs(String report) {
    List<String> specs = new ArrayList<>();
    JsonArray tensors =
        JsonParser.parseString(report).getAsJsonObject().getAsJsonArray("tensors");
    tensors.forEach(t -> specs.add(Data.text(t.getAsJsonObject(), "spec")));
    return specs;
  }

  @Test
  void modelsGoThereAndBack() throws IOException {
    CompressOptions options =
        CompressOptions.defaults()
            .spec("int8")
            .rule("^w1$", "int4(group=64)")
            .rule("w", "q(bits=5)")
            .exclude("2$")
            .threads(2)
            .explain(true);
    String report = Cortex.compressFile(model, archive, options);
    JsonObject json = JsonParser.parseString(report).getAsJsonObject();
    assertEquals(Files.size(model), json.get("input_bytes").getAsLong());
    assertEquals(Files.size(archive), json.get("output_bytes").getAsLong());
    List<String> specs = specs(report);
    assertEquals("q(bits=5)", specs.get(0));
    assertEquals("int4(group=64)", specs.get(1));
    assertTrue(json.getAsJsonArray("tensors").get(0).getAsJsonObject().has("candidates"));

    Path back = folder.resolve("zurück.safetensors");
    assertEquals(
        Cortex.decompressFile(archive, back, DecompressOptions.defaults().threads(1)),
        Files.size(back));
    String lossless = Cortex.compressFile(model, archive, CompressOptions.defaults().spec("dense"));
    assertEquals(Collections.nCopies(TENSORS, "dense"), specs(lossless));
    Cortex.decompressFile(archive, back);
    Cortex.compressFile(model, archive);
    try (Archive a = Archive.open(archive);
        Tensor t = a.tensor("w0")) {
      assertTrue(t.relativeError() > 0 && t.relativeError() <= 0.01);
    }
  }

  @Test
  void calibrationIsRead() throws IOException {
    CompressOptions options = CompressOptions.defaults().calibration(folder.resolve("fehlt.npz"));
    Data.fails(ErrorKind.IO, () -> Cortex.compressFile(model, archive, options), "fehlt.npz");
    Path diagonals = Data.model(folder.resolve("moments.safetensors"), TENSORS, 128, 0);
    String report =
        Cortex.compressFile(model, archive, options.calibration(diagonals).spec("int4(search=gptq)"));
    assertTrue(report.contains("\"calibrated\":true"), report);
  }

  @Test
  void progressIsTold() {
    List<Progress> told = Collections.synchronizedList(new ArrayList<>());
    CompressOptions options = CompressOptions.defaults().spec("int8").progress(told::add);
    Cortex.compressFile(model, archive, options);
    checkProgress(told);
    told.clear();
    Cortex.decompressFile(
        archive, folder.resolve("b"), DecompressOptions.defaults().progress(told::add).threads(2));
    checkProgress(told);
  }

  private static void checkProgress(List<Progress> told) {
    assertTrue(told.size() >= TENSORS);
    long before = 0;
    for (Progress p : told) {
      assertEquals(TENSORS, p.totalTensors());
      assertEquals(4L * TENSORS * 96 * 128, p.totalBytes());
      assertTrue(p.doneBytes() >= before && p.tensor().startsWith("w"));
      before = p.doneBytes();
    }
    Progress last = told.get(told.size() - 1);
    assertEquals(TENSORS, last.doneTensors());
    assertEquals(last.totalBytes(), last.doneBytes());
  }

  @Test
  void cancelInTheMiddleLeavesNothing() throws IOException {
    List<String> before = files();
    ProgressListener stop = p -> p.doneTensors() < 2;
    CompressOptions options = CompressOptions.defaults().spec("int8").progress(stop);
    Data.fails(ErrorKind.CANCELLED, () -> Cortex.compressFile(model, archive, options));
    assertEquals(before, files());
    Cortex.compressFile(model, archive);
    List<String> after = files();
    Path back = folder.resolve("back");
    DecompressOptions stopped = DecompressOptions.defaults().progress(stop);
    Data.fails(ErrorKind.CANCELLED, () -> Cortex.decompressFile(archive, back, stopped));
    assertEquals(after, files());
  }

  @Test
  void whatTheListenerThrowsComesOut() throws IOException {
    List<String> before = files();
    for (Throwable thrown : List.of(new IllegalStateException("x"), new AssertionError("y"))) {
      ProgressListener listener =
          p -> {
            if (thrown instanceof Error) {
              throw (Error) thrown;
            }
            throw (RuntimeException) thrown;
          };
      CompressOptions options = CompressOptions.defaults().spec("int8").progress(listener);
      assertSame(
          thrown,
          assertThrows(thrown.getClass(), () -> Cortex.compressFile(model, archive, options)));
      assertEquals(before, files());
    }
  }

  /** A listener may use the library itself, on whatever thread it is called. */
  @Test
  void listenersMayUseTheLibrary() {
    float[] weights = Data.weights(64 * 64);
    List<float[]> products = Collections.synchronizedList(new ArrayList<>());
    CompressOptions options =
        CompressOptions.defaults()
            .threads(2)
            .progress(
                p -> {
                  try (Tensor t = Tensor.compress(weights, "int8", 64, 64)) {
                    products.add(t.matmul(new float[64]));
                  }
                  return true;
                });
    Cortex.compressFile(model, archive, options);
    assertTrue(products.size() >= TENSORS);
    products.forEach(y -> assertArrayEquals(new float[64], y));
  }

  @Test
  void badArgumentsAreNamed() {
    CompressOptions o = CompressOptions.defaults();
    ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
    fails(o.spec("int9"), "options.spec", "int9");
    fails(o.rule("a", "int8").rule("b", "int4(group=33)"), "options.rules[1].spec");
    fails(o.rule("(", "int8"), "options.rules[0].pattern");
    fails(o.exclude("["), "options.exclude");
    fails(o.threads(5000), "options.threads is 5000", "4096");
    fails(o.threads(-2), "options.threads is -2");
    fails(o.spec("int8\ud83d"), "options.spec holds half");
    Data.fails(invalid, () -> Cortex.compressFile(model, model), "both input and output");
    Data.fails(invalid, () -> Cortex.compressFile(Path.of(""), archive), "input is empty");
    Data.fails(invalid, () -> Cortex.compressFile(model, Path.of("")), "output is empty");
    Data.fails(ErrorKind.IO, () -> Cortex.compressFile(folder.resolve("fehlt"), archive), "fehlt");
    Data.fails(ErrorKind.IO, () -> Cortex.decompressFile(archive, folder.resolve("b")));
    Data.fails(ErrorKind.CORRUPT, () -> Cortex.decompressFile(model, folder.resolve("b")));
    Class<NullPointerException> npe = NullPointerException.class;
    assertThrows(npe, () -> Cortex.compressFile(null, archive));
    assertThrows(npe, () -> Cortex.compressFile(model, null));
    assertThrows(npe, () -> Cortex.compressFile(model, archive, null));
    assertThrows(npe, () -> Cortex.decompressFile(null, archive));
    assertThrows(npe, () -> Cortex.specParse(null));
    assertThrows(npe, () -> o.spec(null));
    assertThrows(npe, () -> o.rule("x", null));
  }

  private void fails(CompressOptions options, String... texts) {
    Data.fails(
        ErrorKind.INVALID_ARGUMENT, () -> Cortex.compressFile(model, archive, options), texts);
  }

  @Test
  void specsAndVersions() throws IOException {
    assertEquals("int4(search=lsq)", Cortex.specParse(" q(4, search=lsq) "));
    JsonObject codecs = JsonParser.parseString(Cortex.codecs()).getAsJsonObject();
    assertTrue(codecs.getAsJsonArray("forms").size() > 5);
    String manifest = Files.readString(Data.ROOT.resolve("bindings/java/native/Cargo.toml"));
    assertTrue(manifest.contains("version = \"" + Cortex.version() + "\""), Cortex.version());
    String header = Files.readString(Data.ROOT.resolve("include/cortex.h"));
    assertTrue(header.contains("#define CORTEX_ABI_VERSION " + Cortex.abiVersion() + "\n"));
  }

  /** The kinds, and what later versions may add. */
  @Test
  void kinds() throws IOException {
    String header = Files.readString(Data.ROOT.resolve("include/cortex.h"));
    for (ErrorKind kind : ErrorKind.values()) {
      assertEquals(kind.name().toLowerCase(Locale.ROOT), kind.toString());
      assertTrue(kind == ErrorKind.UNKNOWN || header.contains("#define CORTEX_" + kind.name() + " "));
    }
    CortexException later = new CortexException(1234, "new", null, -1);
    assertEquals(ErrorKind.UNKNOWN, later.kind());
    assertTrue(later.tensor().isEmpty() && later.offset().isEmpty());
  }
}
