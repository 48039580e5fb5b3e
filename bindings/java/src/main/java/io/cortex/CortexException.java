package io.cortex;

import java.util.Optional;
import java.util.OptionalLong;

/**
 * What the library refused or failed at.
 *
 * <p>It is unchecked: most kinds are mistakes of the caller or damaged files, which are handled far
 * from where they happen, or not at all; and products run inside streams and lambdas. Where a file
 * may be missing or damaged, catch it and ask for its {@link #kind()}.
 */
public final class CortexException extends RuntimeException {
  private static final long serialVersionUID = 1;

  /** What to branch on. */
  private final ErrorKind kind;

  /** The name of the tensor in question, or null. */
  private final String tensor;

  /** The offset in the file, or -1. */
  private final long offset;

  /** Called by the native library. */
  CortexException(int status, String message, String tensor, long offset) {
    super(message);
    this.kind = ErrorKind.of(status);
    this.tensor = tensor;
    this.offset = offset;
  }

  CortexException(ErrorKind kind, String message) {
    super(message);
    this.kind = kind;
    this.tensor = null;
    this.offset = -1;
  }

  static CortexException invalid(String message) {
    return new CortexException(ErrorKind.INVALID_ARGUMENT, message);
  }

  /**
   * What a program may branch on.
   *
   * @return the kind
   */
  public ErrorKind kind() {
    return kind;
  }

  /**
   * The whole message for people, in English. Tensor and offset, where known, are part of it.
   *
   * @return the message
   */
  @Override
  public String getMessage() {
    return super.getMessage();
  }

  /**
   * The name of the tensor in question.
   *
   * @return the name, or nothing where none is known
   */
  public Optional<String> tensor() {
    return Optional.ofNullable(tensor);
  }

  /**
   * The offset in the file, in bytes, of what is wrong.
   *
   * @return the offset, or nothing where none is known
   */
  public OptionalLong offset() {
    return offset < 0 ? OptionalLong.empty() : OptionalLong.of(offset);
  }
}
