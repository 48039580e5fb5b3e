package io.cortex;

/** How far a long call has come. */
public final class Progress {
  private final long doneBytes;
  private final long totalBytes;
  private final long doneTensors;
  private final long totalTensors;
  private final String tensor;

  Progress(long doneBytes, long totalBytes, long doneTensors, long totalTensors, String tensor) {
    this.doneBytes = doneBytes;
    this.totalBytes = totalBytes;
    this.doneTensors = doneTensors;
    this.totalTensors = totalTensors;
    this.tensor = tensor;
  }

  /**
   * Dense bytes of the tensors that are done.
   *
   * @return number of bytes
   */
  public long doneBytes() {
    return doneBytes;
  }

  /**
   * Dense bytes of all tensors.
   *
   * @return number of bytes
   */
  public long totalBytes() {
    return totalBytes;
  }

  /**
   * Tensors that are done.
   *
   * @return number of tensors
   */
  public long doneTensors() {
    return doneTensors;
  }

  /**
   * All tensors.
   *
   * @return number of tensors
   */
  public long totalTensors() {
    return totalTensors;
  }

  /**
   * The tensor at work.
   *
   * @return its name
   */
  public String tensor() {
    return tensor;
  }
}
