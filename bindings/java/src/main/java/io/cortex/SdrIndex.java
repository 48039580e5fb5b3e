package io.cortex;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * Sparse distributed representations under numbers, searched by what they share: sets of a few
 * active bits among many. Numbers are unsigned, 64 bits.
 *
 * <p>Searches of several threads run beside each other; changes run alone.
 */
public final class SdrIndex implements AutoCloseable {
  static {
    NativeLibrary.load();
  }

  private final Handle handle;

  private SdrIndex(byte[] path) {
    handle = Handle.of(this, "index", nativeLoad(path), SdrIndex::nativeFree);
  }

  /**
   * An empty index.
   *
   * @param bits bits of every set, active or not, 1 to 1048576
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: more or fewer
   */
  public SdrIndex(long bits) {
    handle = Handle.of(this, "index", nativeCreate(bits), SdrIndex::nativeFree);
  }

  /**
   * Reads an index that {@link #save} wrote, and checks it. Nothing of the file is used afterwards.
   *
   * @param path the file
   * @return the index
   * @throws CortexException {@link ErrorKind#IO}: it cannot be read; {@link ErrorKind#CORRUPT}: it
   *     is no index, was cut short, or is damaged; {@link ErrorKind#LIMIT_EXCEEDED}: it would take
   *     far more memory than the file has bytes; {@link ErrorKind#UNSUPPORTED}: a newer version
   */
  public static SdrIndex load(Path path) {
    return new SdrIndex(Text.path(path, "path"));
  }

  /**
   * Writes the index to a file, the same bytes for the same sets in whatever order they came. The
   * file appears when it is complete; what stood there is replaced then.
   *
   * @param path the file
   * @throws CortexException {@link ErrorKind#IO}: it cannot be written
   */
  public void save(Path path) {
    byte[] text = Text.path(path, "path");
    handle.use(i -> nativeSave(i, text));
  }

  /** Frees the index. */
  @Override
  public void close() {
    handle.close();
  }

  /**
   * Bits of every set, active or not.
   *
   * @return number of bits
   */
  public long bits() {
    return handle.getLong(SdrIndex::nativeBits);
  }

  /**
   * Number of stored sets.
   *
   * @return the number
   */
  public long size() {
    return handle.getLong(SdrIndex::nativeSize);
  }

  /**
   * Bytes of memory that the sets and what finds them take, without what the allocator adds.
   *
   * @return number of bytes
   */
  public long memoryBytes() {
    return handle.getLong(SdrIndex::nativeMemoryBytes);
  }

  /**
   * Stores a set.
   *
   * @param id the number it is stored under
   * @param active its active bits, in any order
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: a bit is not below {@link #bits()}
   *     or is given twice, or the number is in use
   */
  public void add(long id, int... active) {
    Objects.requireNonNull(active, "active");
    handle.use(i -> nativeAdd(i, id, active));
  }

  /**
   * The active bits of a set, in increasing order.
   *
   * @param id the number it is stored under
   * @return the active bits
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: nothing is stored under it
   */
  public int[] get(long id) {
    return handle.get(i -> nativeGet(i, id));
  }

  /**
   * Removes a set, if there is one.
   *
   * @param id the number it is stored under
   * @return whether there was one
   */
  public boolean remove(long id) {
    return handle.get(i -> nativeRemove(i, id));
  }

  /**
   * The stored sets that share most active bits with a set, largest overlap first, the smaller number
   * first among equals; exact, and without those that share none.
   *
   * @param k how many at most
   * @param active the active bits of the set, in any order
   * @return the matches, unmodifiable
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: as for {@link #add}
   */
  public List<Match> topK(long k, int... active) {
    Objects.requireNonNull(active, "active");
    long[] found = handle.get(i -> nativeTopK(i, active, k));
    List<Match> matches = new ArrayList<>(found.length / 2);
    for (int i = 0; i < found.length; i += 2) {
      matches.add(new Match(found[i], found[i + 1]));
    }
    return List.copyOf(matches);
  }

  /** A stored set and how many active bits it shares with the one asked for. */
  public static final class Match {
    private final long id;
    private final long overlap;

    private Match(long id, long overlap) {
      this.id = id;
      this.overlap = overlap;
    }

    /**
     * The number it was added under.
     *
     * @return the number
     */
    public long id() {
      return id;
    }

    /**
     * Shared active bits.
     *
     * @return the number, at least one
     */
    public long overlap() {
      return overlap;
    }

    /**
     * Whether number and overlap are the same.
     *
     * @param other what to compare with
     * @return whether they are
     */
    @Override
    public boolean equals(Object other) {
      return other instanceof Match && ((Match) other).id == id && ((Match) other).overlap == overlap;
    }

    /**
     * A hash of number and overlap.
     *
     * @return the hash
     */
    @Override
    public int hashCode() {
      return Objects.hash(id, overlap);
    }

    /**
     * Number and overlap.
     *
     * @return such as {@code "7: 3"}
     */
    @Override
    public String toString() {
      return Long.toUnsignedString(id) + ": " + overlap;
    }
  }

  private static native long nativeCreate(long bits);

  private static native long nativeLoad(byte[] path);

  private static native void nativeSave(long index, byte[] path);

  private static native void nativeFree(long index);

  private static native long nativeBits(long index);

  private static native long nativeSize(long index);

  private static native long nativeMemoryBytes(long index);

  private static native void nativeAdd(long index, long id, int[] active);

  private static native int[] nativeGet(long index, long id);

  private static native boolean nativeRemove(long index, long id);

  private static native long[] nativeTopK(long index, int[] active, long k);
}
