package io.cortex;

import java.util.function.Supplier;

/** A listener as the native library calls it: nothing is thrown through native code. */
final class ProgressCall {
  private final ProgressListener listener;
  private volatile Throwable thrown;

  private ProgressCall(ProgressListener listener) {
    this.listener = listener;
  }

  /** A call for a listener; null for null. */
  static ProgressCall of(ProgressListener listener) {
    return listener == null ? null : new ProgressCall(listener);
  }

  /** Called by the native library. */
  boolean call(
      long doneBytes, long totalBytes, long doneTensors, long totalTensors, String tensor) {
    try {
      return listener.onProgress(
          new Progress(doneBytes, totalBytes, doneTensors, totalTensors, tensor));
    } catch (Throwable t) {
      thrown = t;
      return false;
    }
  }

  /** Runs a long call. What the listener threw comes out instead of the cancellation. */
  static <T> T run(ProgressCall progress, Supplier<T> call) {
    try {
      return call.get();
    } catch (CortexException cancelled) {
      if (progress != null && progress.thrown != null) {
        throw ProgressCall.<RuntimeException>asIs(progress.thrown);
      }
      throw cancelled;
    }
  }

  /** A listener written in another language may throw what the compiler thinks is impossible. */
  @SuppressWarnings("unchecked")
  private static <T extends Throwable> T asIs(Throwable thrown) throws T {
    throw (T) thrown;
  }
}
