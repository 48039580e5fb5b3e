package io.cortex;

import java.util.Objects;

/**
 * How a convolution is computed. Every method but the first gives changed options and leaves these
 * as they are. Weights of three dimensions have no height: what belongs to it stays 0.
 *
 * <p>{@code ConvOptions.defaults().padding(1, 1, 1, 1)} keeps the size under a kernel of 3×3.
 */
public final class ConvOptions {
  private static final ConvOptions DEFAULTS =
      new ConvOptions(new long[9], MatmulOptions.defaults());

  private static final int STRIDE = 0;
  private static final int PADDING = 2;
  private static final int DILATION = 6;
  private static final int GROUPS = 8;

  private final long[] numbers;
  private final MatmulOptions matmul;

  private ConvOptions(long[] numbers, MatmulOptions matmul) {
    this.numbers = numbers;
    this.matmul = matmul;
  }

  /**
   * Strides, dilations and groups of 1, no padding, and the defaults of {@link MatmulOptions}.
   *
   * @return the options that calls without options have
   */
  public static ConvOptions defaults() {
    return DEFAULTS;
  }

  /**
   * Sets the samples from one output to the next.
   *
   * @param height to the one below; 0 for 1
   * @param width to the one beside; 0 for 1
   * @return the changed options
   */
  public ConvOptions stride(long height, long width) {
    return with(STRIDE, height, width);
  }

  /**
   * Sets the zeros around x.
   *
   * @param top rows above
   * @param bottom rows below
   * @param left samples before each row
   * @param right samples after each row
   * @return the changed options
   */
  public ConvOptions padding(long top, long bottom, long left, long right) {
    return with(PADDING, top, bottom, left, right);
  }

  /**
   * Sets the samples from one tap to the next.
   *
   * @param height to the one below; 0 for 1
   * @param width to the one beside; 0 for 1
   * @return the changed options
   */
  public ConvOptions dilation(long height, long width) {
    return with(DILATION, height, width);
  }

  /**
   * Sets the parts of the channels that are convolved apart.
   *
   * @param groups number of parts; 0 for 1
   * @return the changed options
   */
  public ConvOptions groups(long groups) {
    return with(GROUPS, groups);
  }

  /**
   * Sets threads, memory and precision. The memory is for decoded weights, patches, padded samples
   * and sums alike.
   *
   * @param matmul the options
   * @return the changed options
   */
  public ConvOptions matmul(MatmulOptions matmul) {
    return new ConvOptions(numbers, Objects.requireNonNull(matmul, "matmul"));
  }

  private ConvOptions with(int at, long... values) {
    long[] changed = numbers.clone();
    System.arraycopy(values, 0, changed, at, values.length);
    return new ConvOptions(changed, matmul);
  }

  /** All numbers in the order that the native library expects. */
  long[] all() {
    long[] all = new long[numbers.length + 3];
    System.arraycopy(numbers, 0, all, 0, numbers.length);
    all[numbers.length] = matmul.threads;
    all[numbers.length + 1] = matmul.scratchBytes;
    all[numbers.length + 2] = matmul.precision.code();
    return all;
  }
}
