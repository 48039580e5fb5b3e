package io.cortex;

import java.util.Objects;

/**
 * How a product is computed. Every method but the first gives changed options and leaves these as
 * they are: {@code MatmulOptions.defaults().threads(1).precision(Precision.EXACT)}.
 */
public final class MatmulOptions {
  private static final MatmulOptions DEFAULTS = new MatmulOptions(0, 0, Precision.AUTO);

  final long threads;
  final long scratchBytes;
  final Precision precision;

  private MatmulOptions(long threads, long scratchBytes, Precision precision) {
    this.threads = threads;
    this.scratchBytes = scratchBytes;
    this.precision = precision;
  }

  /**
   * All cores, 32 MiB, {@link Precision#AUTO}.
   *
   * @return the options that calls without options have
   */
  public static MatmulOptions defaults() {
    return DEFAULTS;
  }

  /**
   * Sets the threads to use at most. The result does not depend on it.
   *
   * @param threads number of threads; 0 for all cores
   * @return the changed options
   */
  public MatmulOptions threads(int threads) {
    return new MatmulOptions(threads, scratchBytes, precision);
  }

  /**
   * Sets the memory for decoded windows of weights, all threads together. One window of the smallest
   * size is used even if it needs more.
   *
   * @param bytes number of bytes; 0 for 32 MiB
   * @return the changed options
   */
  public MatmulOptions scratchBytes(long bytes) {
    return new MatmulOptions(threads, bytes, precision);
  }

  /**
   * Sets how activations enter.
   *
   * @param precision how
   * @return the changed options
   */
  public MatmulOptions precision(Precision precision) {
    return new MatmulOptions(threads, scratchBytes, Objects.requireNonNull(precision, "precision"));
  }
}
