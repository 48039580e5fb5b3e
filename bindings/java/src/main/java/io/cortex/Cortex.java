package io.cortex;

import java.nio.file.Path;

/** Whole model files, specs and versions. */
public final class Cortex {
  static {
    NativeLibrary.load();
  }

  private Cortex() {}

  /**
   * Compresses a model into an archive, holding one tensor in memory at a time. The file appears when
   * it is complete; what stood there is replaced then.
   *
   * @param input the model (safetensors, a sharded one's index.json, npy, npz; found by content)
   * @param output the archive
   * @param options specs, threads, and who is told how far the call has come
   * @return a report, one JSON object, the same that {@code cortex compress --json} prints
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: a bad spec or pattern, {@code
   *     output} is an input, or a value that is not finite under a lossy spec; {@link
   *     ErrorKind#CORRUPT}, {@link ErrorKind#LIMIT_EXCEEDED}: the model is damaged; {@link
   *     ErrorKind#IO}: reading or writing failed; {@link ErrorKind#CANCELLED}: the listener said so
   */
  public static String compressFile(Path input, Path output, CompressOptions options) {
    byte[] inputText = Text.path(input, "input");
    byte[] outputText = Text.path(output, "output");
    byte[][] rules = new byte[options.rules.size()][];
    for (int i = 0; i < rules.length; i++) {
      rules[i] = Text.utf8(options.rules.get(i), "options.rules[" + i / 2 + "]");
    }
    ProgressCall progress = ProgressCall.of(options.progress);
    return ProgressCall.run(
        progress,
        () ->
            nativeCompressFile(
                inputText,
                outputText,
                Text.optionalUtf8(options.spec, "options.spec"),
                Text.optionalUtf8(options.exclude, "options.exclude"),
                rules,
                options.threads,
                Text.optionalPath(options.calibration, "options.calibration"),
                options.explain,
                progress));
  }

  /**
   * Compresses a model into an archive, as {@link #compressFile(Path, Path, CompressOptions)} with
   * the defaults.
   *
   * @param input the model
   * @param output the archive
   * @return a report, one JSON object
   * @throws CortexException as {@link #compressFile(Path, Path, CompressOptions)}
   */
  public static String compressFile(Path input, Path output) {
    return compressFile(input, output, CompressOptions.defaults());
  }

  /**
   * Decodes every tensor of an archive into a safetensors file, under its name and in its dtype, in
   * bounded memory. The file appears when it is complete.
   *
   * @param input the archive
   * @param output the safetensors file
   * @param options threads, and who is told how far the call has come
   * @return bytes of the file
   * @throws CortexException {@link ErrorKind#CORRUPT}: the archive is damaged; the exception names
   *     the tensor and the offset; {@link ErrorKind#IO}: reading or writing failed; {@link
   *     ErrorKind#CANCELLED}: the listener said so
   */
  public static long decompressFile(Path input, Path output, DecompressOptions options) {
    byte[] inputText = Text.path(input, "input");
    byte[] outputText = Text.path(output, "output");
    ProgressCall progress = ProgressCall.of(options.progress);
    return ProgressCall.run(
        progress, () -> nativeDecompressFile(inputText, outputText, options.threads, progress));
  }

  /**
   * Decodes every tensor of an archive into a safetensors file, as {@link #decompressFile(Path, Path,
   * DecompressOptions)} with the defaults.
   *
   * @param input the archive
   * @param output the safetensors file
   * @return bytes of the file
   * @throws CortexException as {@link #decompressFile(Path, Path, DecompressOptions)}
   */
  public static long decompressFile(Path input, Path output) {
    return decompressFile(input, output, DecompressOptions.defaults());
  }

  /**
   * Every name that a spec may hold.
   *
   * @return JSON: {@code {"directives": […], "forms": […], "packs": […]}}, each entry with "name",
   *     "summary" and "options", each option with "key", "values", "default" and "doc"
   */
  public static String codecs() {
    return nativeCodecs();
  }

  /**
   * Checks a spec and gives it in canonical form: options in a fixed order, defaults left out. Two
   * specs that mean the same have the same canonical form.
   *
   * @param spec the spec
   * @return the canonical form
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: the message names the column, what
   *     stood there and what was expected
   */
  public static String specParse(String spec) {
    return nativeSpecParse(Text.utf8(spec, "spec"));
  }

  /**
   * The version of the native library that is running.
   *
   * @return such as {@code "1.2.3"}
   */
  public static String version() {
    return nativeVersion();
  }

  /**
   * The number of the C ABI that the native library belongs to.
   *
   * @return the number
   */
  public static int abiVersion() {
    return nativeAbiVersion();
  }

  private static native String nativeCompressFile(
      byte[] input,
      byte[] output,
      byte[] spec,
      byte[] exclude,
      byte[][] rules,
      long threads,
      byte[] calibration,
      boolean explain,
      Object progress);

  private static native long nativeDecompressFile(
      byte[] input, byte[] output, long threads, Object progress);

  private static native String nativeCodecs();

  private static native String nativeSpecParse(byte[] spec);

  private static native String nativeVersion();

  private static native int nativeAbiVersion();
}
