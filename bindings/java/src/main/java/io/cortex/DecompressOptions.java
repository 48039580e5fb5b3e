package io.cortex;

/**
 * How an archive is decompressed. Every method but the first gives changed options and leaves these
 * as they are.
 */
public final class DecompressOptions {
  private static final DecompressOptions DEFAULTS = new DecompressOptions(0, null);

  final int threads;
  final ProgressListener progress;

  private DecompressOptions(int threads, ProgressListener progress) {
    this.threads = threads;
    this.progress = progress;
  }

  /**
   * All cores.
   *
   * @return the options that a call without options has
   */
  public static DecompressOptions defaults() {
    return DEFAULTS;
  }

  /**
   * Sets the number of threads.
   *
   * @param threads at most 4096; 0 for all cores
   * @return the changed options
   */
  public DecompressOptions threads(int threads) {
    return new DecompressOptions(threads, progress);
  }

  /**
   * Sets who is told how far the call has come.
   *
   * @param listener who; null for nobody
   * @return the changed options
   */
  public DecompressOptions progress(ProgressListener listener) {
    return new DecompressOptions(threads, listener);
  }
}
