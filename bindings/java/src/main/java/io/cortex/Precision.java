package io.cortex;

/** How activations enter a product, as asked for and as it was done. */
public enum Precision {
  /**
   * Activations are rounded where what that adds lies at least 10 dB below the tensor's own stored
   * error.
   */
  AUTO,
  /** Activations enter as f32: what a product adds is rounding in f32. */
  EXACT,
  /**
   * Activations are rounded where the form has faster loops for that: to int8 in groups of columns
   * for quantised weights, an error of about −40 dB in the result.
   */
  FAST;

  /** The number in the native library. */
  int code() {
    return ordinal();
  }

  /** How a product was computed. */
  static Precision of(int code) {
    return code == FAST.code() ? FAST : EXACT;
  }
}
