package io.cortex;

/** Told how far a long call has come, and asked whether it is to go on. */
@FunctionalInterface
public interface ProgressListener {
  /**
   * Called at most every 50 ms, and after each tensor; from any thread, one call at a time.
   *
   * <p>What it throws cancels the call as well, and comes out of it.
   *
   * @param progress how far the call has come
   * @return false to stop the call, which then throws {@link ErrorKind#CANCELLED} and leaves no file
   *     behind
   */
  boolean onProgress(Progress progress);
}
