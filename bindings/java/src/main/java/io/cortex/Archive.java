package io.cortex;

import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.LongFunction;

/**
 * An open {@code .cai} file: many compressed tensors, read as they are used. It may be used from
 * several threads at once.
 */
public final class Archive implements AutoCloseable {
  static {
    NativeLibrary.load();
  }

  private final Handle handle;

  private Archive(long address) {
    handle = Handle.of(this, "archive", address, Archive::nativeFree);
  }

  /**
   * Opens an archive by mapping the file: what is not packed is used in place, and only what is used
   * is read. The file must not be cut or rewritten while it is open; replacing it by rename, as
   * Cortex does, is safe.
   *
   * @param path the file
   * @return the archive
   * @throws CortexException {@link ErrorKind#IO}: it cannot be read; {@link ErrorKind#CORRUPT}: it
   *     is no archive, was cut short, or its index is damaged; {@link ErrorKind#UNSUPPORTED}: a
   *     newer major version of the format
   */
  public static Archive open(Path path) {
    return new Archive(nativeOpen(Text.path(path, "path"), true));
  }

  /**
   * Opens an archive for plain reads: nothing is mapped, every chunk is read and checked each time
   * it is used. For files that somebody may cut short, and network drives.
   *
   * @param path the file
   * @return the archive
   * @throws CortexException as {@link #open}
   */
  public static Archive openUnmapped(Path path) {
    return new Archive(nativeOpen(Text.path(path, "path"), false));
  }

  /** Frees the archive. Its tensors live on. */
  @Override
  public void close() {
    handle.close();
  }

  /**
   * Number of tensors; aliases do not count.
   *
   * @return the number
   */
  public int size() {
    return (int) handle.getLong(Archive::nativeSize);
  }

  /**
   * Bytes of the whole file.
   *
   * @return number of bytes
   */
  public long fileBytes() {
    return handle.getLong(Archive::nativeFileBytes);
  }

  /**
   * The names of the tensors, in the order of the file.
   *
   * @return the names, unmodifiable
   */
  public List<String> names() {
    return List.of(handle.get(Archive::nativeNames));
  }

  /**
   * The place of the tensor of this name, or of the one that this alias names.
   *
   * @param name name or alias
   * @return the index in {@link #names()}, or -1 if there is none
   */
  public int find(String name) {
    byte[] text = Text.utf8(name, "name");
    return (int) handle.getLong(a -> nativeFind(a, text));
  }

  /**
   * Opens the tensor of this name, or the one that this alias names. Its data is read when it is
   * used. The tensor keeps the file open or mapped and may outlive the archive.
   *
   * @param name name or alias
   * @return the tensor
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: there is none of this name; {@link
   *     ErrorKind#UNSUPPORTED}: it is stored in a way that this version does not know
   */
  public Tensor tensor(String name) {
    byte[] text = Text.utf8(name, "name");
    return new Tensor(handle.getLong(a -> nativeTensor(a, text)));
  }

  /**
   * Opens the tensor at a place in {@link #names()}.
   *
   * @param index the place
   * @return the tensor
   * @throws CortexException as {@link #tensor(String)}
   */
  public Tensor tensor(int index) {
    return new Tensor(handle.getLong(a -> nativeTensorAt(a, index)));
  }

  /**
   * Further names of tensors, as of tied weights.
   *
   * @return for each alias the name of its tensor, in the order of the file, unmodifiable
   */
  public Map<String, String> aliases() {
    return pairs(Archive::nativeAliases);
  }

  /**
   * Free text about the model.
   *
   * @return the entries, in the order of the file, unmodifiable
   */
  public Map<String, String> metadata() {
    return pairs(Archive::nativeMetadata);
  }

  private Map<String, String> pairs(LongFunction<String[]> call) {
    String[] texts = handle.get(call);
    Map<String, String> pairs = new LinkedHashMap<>();
    for (int i = 0; i < texts.length; i += 2) {
      pairs.put(texts[i], texts[i + 1]);
    }
    return Collections.unmodifiableMap(pairs);
  }

  /**
   * What the archive holds, the same that {@code cortex inspect --json} prints: sizes, ratio, and for
   * each tensor name, dtype, shape, spec, raw_bytes, stored_bytes, bits_per_weight, relative_error,
   * sqnr_db and max_abs_error.
   *
   * @return one JSON object
   */
  public String inspect() {
    return handle.get(Archive::nativeInspect);
  }

  /**
   * Reads every byte of the file and checks it. The exception is the first error that was found;
   * where there are more its message says how many.
   *
   * @throws CortexException {@link ErrorKind#CORRUPT}: something is damaged; the exception names the
   *     tensor and the offset
   */
  public void verify() {
    handle.use(Archive::nativeVerify);
  }

  private static native long nativeOpen(byte[] path, boolean mapped);

  private static native void nativeFree(long archive);

  private static native int nativeSize(long archive);

  private static native long nativeFileBytes(long archive);

  private static native String[] nativeNames(long archive);

  private static native int nativeFind(long archive, byte[] name);

  private static native long nativeTensor(long archive, byte[] name);

  private static native long nativeTensorAt(long archive, int index);

  private static native String[] nativeAliases(long archive);

  private static native String[] nativeMetadata(long archive);

  private static native String nativeInspect(long archive);

  private static native void nativeVerify(long archive);
}
