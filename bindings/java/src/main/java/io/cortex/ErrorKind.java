package io.cortex;

/** What a program may branch on when a call failed. */
public enum ErrorKind {
  /** An argument, spec, shape or dtype is wrong, or the object is closed. */
  INVALID_ARGUMENT(10, "invalid_argument"),
  /** Valid, but not something that this build or version can do. */
  UNSUPPORTED(20, "unsupported"),
  /** A file is damaged or is not what it claims to be. */
  CORRUPT(30, "corrupt"),
  /** A file, or a shape, asks for more than the limits allow. */
  LIMIT_EXCEEDED(40, "limit_exceeded"),
  /** The operating system refused a read, write, map or rename. */
  IO(50, "io"),
  /** Memory could not be had. */
  OUT_OF_MEMORY(60, "out_of_memory"),
  /** The progress listener asked to stop. */
  CANCELLED(70, "cancelled"),
  /** A bug in Cortex. */
  INTERNAL(90, "internal"),
  /** A kind that this version of the package does not know. */
  UNKNOWN(-1, "unknown");

  private final int status;
  private final String text;

  ErrorKind(int status, String text) {
    this.status = status;
    this.text = text;
  }

  static ErrorKind of(int status) {
    for (ErrorKind kind : values()) {
      if (kind.status == status) {
        return kind;
      }
    }
    return UNKNOWN;
  }

  /**
   * The name of the kind in every language, such as {@code "invalid_argument"}.
   *
   * @return the name, in snake case
   */
  @Override
  public String toString() {
    return text;
  }
}
