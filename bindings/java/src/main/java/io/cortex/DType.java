package io.cortex;

import java.util.Objects;

/** Element type of a dense tensor. Elements of more than one byte are little-endian. */
public enum DType {
  /** IEEE 754 double. */
  F64(1, 8, "f64"),
  /** IEEE 754 single. */
  F32(2, 4, "f32"),
  /** IEEE 754 half. */
  F16(3, 2, "f16"),
  /** The upper half of a single. */
  BF16(4, 2, "bf16"),
  /** Signed, 8 bytes. */
  I64(5, 8, "i64"),
  /** Signed, 4 bytes. */
  I32(6, 4, "i32"),
  /** Signed, 2 bytes. */
  I16(7, 2, "i16"),
  /** Signed, 1 byte. */
  I8(8, 1, "i8"),
  /** Unsigned, 8 bytes. */
  U64(9, 8, "u64"),
  /** Unsigned, 4 bytes. */
  U32(10, 4, "u32"),
  /** Unsigned, 2 bytes. */
  U16(11, 2, "u16"),
  /** Unsigned, 1 byte. */
  U8(12, 1, "u8"),
  /** One byte, 0 or 1. */
  BOOL(13, 1, "bool");

  /** The number in the native library. */
  final int code;

  private final int bytes;
  private final String text;

  DType(int code, int bytes, String text) {
    this.code = code;
    this.bytes = bytes;
    this.text = text;
  }

  /** The dtype of a number of the native library. */
  static DType of(long code) {
    for (DType dtype : values()) {
      if (dtype.code == code) {
        return dtype;
      }
    }
    throw new CortexException(ErrorKind.INTERNAL, "dtype " + code + " is not known");
  }

  /**
   * The dtype of this name.
   *
   * @param name such as {@code "f32"}
   * @return the dtype
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: there is none of this name
   */
  public static DType of(String name) {
    Objects.requireNonNull(name, "name");
    for (DType dtype : values()) {
      if (dtype.text.equals(name)) {
        return dtype;
      }
    }
    throw CortexException.invalid("'" + name + "' is no dtype");
  }

  /**
   * Bytes of one element.
   *
   * @return 1, 2, 4 or 8
   */
  public int bytes() {
    return bytes;
  }

  /**
   * The name of the dtype in every language, such as {@code "f32"}.
   *
   * @return the name
   */
  @Override
  public String toString() {
    return text;
  }
}
