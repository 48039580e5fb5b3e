package io.cortex;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.Objects;

/**
 * Dense data of the caller: a buffer or array with a dtype and a shape, row-major without gaps
 * unless it has strides. It may be used any number of times.
 *
 * <p>What position and limit of a buffer were when the view was made is what counts. The elements
 * are read when the view is used; only those of a buffer that neither is direct nor has an array of
 * its own to show (read-only ones) are copied at once.
 */
public final class View {
  final Memory memory;
  final DType dtype;
  /** Null for rows of as many elements as the tensor takes. */
  final long[] shape;

  /** Null for row-major without gaps. */
  final long[] strides;

  final long origin;

  View(Memory memory, DType dtype, long[] shape, long[] strides, long origin) {
    this.memory = memory;
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.origin = origin;
  }

  /**
   * A view of an array.
   *
   * @param data the elements
   * @param shape dimensions, outermost first; none for a scalar
   * @return the view, of dtype f32
   */
  public static View of(float[] data, long... shape) {
    return new View(Memory.of(data, "data"), DType.F32, copy(shape), null, 0);
  }

  /**
   * A view of the elements between a buffer's position and limit.
   *
   * @param data the elements
   * @param shape dimensions, outermost first; none for a scalar
   * @return the view, of dtype f32
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: another byte order than the
   *     machine's
   */
  public static View of(FloatBuffer data, long... shape) {
    return new View(Memory.input(data, "data"), DType.F32, copy(shape), null, 0);
  }

  /**
   * A view of the bytes between a buffer's position and limit.
   *
   * @param data the elements, which need not be aligned
   * @param dtype what they are
   * @param shape dimensions, outermost first; none for a scalar
   * @return the view
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: another byte order than the
   *     machine's, unless elements have one byte
   */
  public static View of(ByteBuffer data, DType dtype, long... shape) {
    Objects.requireNonNull(dtype, "dtype");
    return new View(Memory.input(data, dtype.bytes(), "data"), dtype, copy(shape), null, 0);
  }

  /**
   * The same elements with gaps, in another order, or repeated.
   *
   * @param origin place of element [0, 0, …] in the data, in elements
   * @param strides a distance from one element to the next for each dimension, in elements; they
   *     may be 0 or negative. All elements must lie in the data, which is found out when the view
   *     is used.
   * @return the new view
   */
  public View strided(long origin, long... strides) {
    Objects.requireNonNull(strides, "strides");
    return new View(memory, dtype, shape, strides.clone(), origin);
  }

  private static long[] copy(long[] shape) {
    return Objects.requireNonNull(shape, "shape").clone();
  }

  /**
   * The element type.
   *
   * @return the dtype
   */
  public DType dtype() {
    return dtype;
  }

  /**
   * The dimensions, outermost first.
   *
   * @return a copy of the shape
   */
  public long[] shape() {
    return shape.clone();
  }
}
