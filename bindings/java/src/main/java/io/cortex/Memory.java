package io.cortex;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Objects;

/**
 * Bytes {@code start} to {@code start + length} of a direct buffer, a {@code float[]} or a {@code
 * byte[]}, taken once from what the caller's buffer says, so that they lie within it whatever
 * another thread does to its position meanwhile.
 */
final class Memory {
  /** The kinds, as the native library numbers them. */
  private static final int DIRECT = 0;

  private static final int FLOATS = 1;
  private static final int BYTES = 2;

  final Object object;
  final int kind;
  final long start;
  final long length;

  private Memory(Object object, int kind, long start, long length) {
    this.object = object;
    this.kind = kind;
    this.start = start;
    this.length = length;
  }

  static Memory of(float[] data, String name) {
    Objects.requireNonNull(data, name);
    return new Memory(data, FLOATS, 0, 4L * data.length);
  }

  /** The elements of a buffer, to be read. */
  static Memory input(FloatBuffer data, String name) {
    Objects.requireNonNull(data, name);
    order(data.order(), name);
    Memory memory = inPlace(data, name, 4, FLOATS);
    if (memory == null) {
      FloatBuffer rest = data.duplicate();
      float[] copy = new float[rest.remaining()];
      rest.get(copy);
      memory = of(copy, name);
    }
    return memory;
  }

  /** The bytes of a buffer, to be read as elements of {@code size} bytes. */
  static Memory input(ByteBuffer data, int size, String name) {
    Objects.requireNonNull(data, name);
    if (size > 1) {
      order(data.order(), name);
    }
    Memory memory = inPlace(data, name, 1, BYTES);
    if (memory == null) {
      ByteBuffer rest = data.duplicate();
      byte[] copy = new byte[rest.remaining()];
      rest.get(copy);
      memory = new Memory(copy, BYTES, 0, copy.length);
    }
    return memory;
  }

  /** The elements of a buffer, to be written; {@link #finish} when that is done. */
  static Memory output(FloatBuffer out, String name) {
    Objects.requireNonNull(out, name);
    order(out.order(), name);
    writable(out, name);
    Memory memory = inPlace(out, name, 4, FLOATS);
    // A view of a byte array, as floats.
    return memory != null ? memory : of(new float[out.duplicate().remaining()], name);
  }

  /** The bytes of a buffer, to be written as elements of {@code size} bytes. */
  static Memory output(ByteBuffer out, int size, String name) {
    Objects.requireNonNull(out, name);
    if (size > 1) {
      order(out.order(), name);
    }
    writable(out, name);
    return inPlace(out, name, 1, BYTES);
  }

  /** Brings to {@code out} what was written for it elsewhere. */
  void finish(FloatBuffer out) {
    if (kind == FLOATS && !out.hasArray()) {
      out.duplicate().put((float[]) object);
    }
  }

  /** The memory of a buffer, or null if Java does not show it. */
  private static Memory inPlace(Buffer buffer, String name, int size, int array) {
    int limit = buffer.limit();
    int position = buffer.position();
    if (position > limit) {
      throw CortexException.invalid(name + " is moved by another thread");
    }
    long length = (long) size * (limit - position);
    if (buffer.isDirect()) {
      return new Memory(buffer, DIRECT, (long) size * position, length);
    }
    if (buffer.hasArray()) {
      long start = (long) size * (buffer.arrayOffset() + position);
      return new Memory(buffer.array(), array, start, length);
    }
    return null;
  }

  private static void order(ByteOrder order, String name) {
    if (order != ByteOrder.nativeOrder()) {
      throw CortexException.invalid(
          name + " has the byte order " + order + "; " + ByteOrder.nativeOrder() + " is needed");
    }
  }

  private static void writable(Buffer buffer, String name) {
    if (buffer.isReadOnly()) {
      throw CortexException.invalid(name + " is read-only");
    }
  }
}
