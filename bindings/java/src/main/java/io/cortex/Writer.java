package io.cortex;

import java.nio.file.Path;

/**
 * A {@code .cai} file in the making, written a tensor at a time, in bounded memory. The file appears
 * under its name when it is finished, whole; until then, and for ever if the writer is closed before
 * or the program is killed, what stood there stays.
 *
 * <p>Calls from several threads wait for each other.
 */
public final class Writer implements AutoCloseable {
  static {
    NativeLibrary.load();
  }

  private final Handle handle;

  private Writer(long address) {
    handle = Handle.of(this, "writer", address, Writer::nativeFree);
  }

  /**
   * Starts an archive.
   *
   * @param path what it will be. Its folder must exist and be writable: the file is written beside
   *     its place and renamed.
   * @return the writer
   * @throws CortexException {@link ErrorKind#IO}: nothing can be written there
   */
  public static Writer create(Path path) {
    return new Writer(nativeCreate(Text.path(path, "path")));
  }

  /**
   * Writes a tensor, which may be closed afterwards.
   *
   * @param name its name, which no other tensor or alias of this file may have
   * @param tensor the tensor
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}, {@link ErrorKind#LIMIT_EXCEEDED}:
   *     the name; after any other the writer can only be closed
   */
  public void add(String name, Tensor tensor) {
    byte[] text = Text.utf8(name, "name");
    tensor.handle().use(t -> handle.use(w -> nativeAdd(w, text, t)));
  }

  /**
   * Makes an alias.
   *
   * @param alias another name
   * @param target of this tensor, which was added before
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: there is no such tensor, or the name
   *     is taken
   */
  public void alias(String alias, String target) {
    byte[] aliasText = Text.utf8(alias, "alias");
    byte[] targetText = Text.utf8(target, "target");
    handle.use(w -> nativeAlias(w, aliasText, targetText));
  }

  /**
   * Sets free text about the model; a key that is set again has its last value.
   *
   * @param key the key
   * @param value the text
   * @throws CortexException the writer is finished or closed
   */
  public void setMetadata(String key, String value) {
    byte[] keyText = Text.utf8(key, "key");
    byte[] valueText = Text.utf8(value, "value");
    handle.use(w -> nativeSetMetadata(w, keyText, valueText));
  }

  /**
   * Completes the file, brings it to the disk and gives it its name. Whatever comes of it, the
   * writer can then only be closed.
   *
   * @return bytes of the file
   * @throws CortexException {@link ErrorKind#IO}: it could not be written; what stood there stays
   */
  public long finish() {
    return handle.getLong(Writer::nativeFinish);
  }

  /** Frees the writer; one that was not finished leaves no file behind. */
  @Override
  public void close() {
    handle.close();
  }

  private static native long nativeCreate(byte[] path);

  private static native void nativeFree(long writer);

  private static native void nativeAdd(long writer, byte[] name, long tensor);

  private static native void nativeAlias(long writer, byte[] alias, byte[] target);

  private static native void nativeSetMetadata(long writer, byte[] key, byte[] value);

  private static native long nativeFinish(long writer);
}
