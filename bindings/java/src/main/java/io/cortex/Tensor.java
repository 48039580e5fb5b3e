package io.cortex;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Objects;
import java.util.Optional;

/**
 * A compressed tensor. Seen as a matrix it is W[rows, cols], row-major: {@code rows} is the first
 * dimension, {@code cols} the product of the others. It may be used from several threads at once.
 */
public final class Tensor implements AutoCloseable {
  static {
    NativeLibrary.load();
  }

  private final Handle handle;

  Tensor(long address) {
    handle = Handle.of(this, "tensor", address, Tensor::nativeFree);
  }

  /** Lends the native tensor to another class of the package. */
  Handle handle() {
    return handle;
  }

  /**
   * Compresses a dense tensor of any dtype and strides, on all cores. A spec is followed to the
   * letter.
   *
   * @param dense the tensor
   * @param spec how it is to be stored; null for {@code auto(error=1%)} for float tensors of at
   *     least two dimensions and 4096 elements, and {@code lossless} for all others
   * @return the compressed tensor
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: a bad spec (the message names the
   *     column), data that does not fit the shape, or a value that is not finite under a lossy spec
   *     (it names the index)
   */
  public static Tensor compress(View dense, String spec) {
    Memory data = dense.memory;
    return new Tensor(
        nativeCompress(
            data.object,
            data.kind,
            data.start,
            data.length,
            dense.dtype.code,
            dense.shape,
            dense.strides,
            dense.origin,
            Text.optionalUtf8(spec, "spec")));
  }

  /**
   * Compresses an array of f32.
   *
   * @param data the elements, row-major
   * @param spec how they are to be stored, as for {@link #compress(View, String)}
   * @param shape dimensions, outermost first; none for a scalar
   * @return the compressed tensor
   * @throws CortexException as {@link #compress(View, String)}
   */
  public static Tensor compress(float[] data, String spec, long... shape) {
    return compress(View.of(data, shape), spec);
  }

  /**
   * A second handle on the same tensor: cheap, nothing is copied. Each is closed by itself.
   *
   * @return the second handle
   */
  public Tensor duplicate() {
    return new Tensor(handle.getLong(Tensor::nativeDuplicate));
  }

  /** Frees the tensor. */
  @Override
  public void close() {
    handle.close();
  }

  /**
   * The name under which it stands in its archive.
   *
   * @return the name, or nothing if it is from no archive
   */
  public Optional<String> name() {
    return Optional.ofNullable(handle.get(Tensor::nativeName));
  }

  /**
   * The canonical spec that it was stored with; compressing the same dense tensor with it gives the
   * same bytes.
   *
   * @return the spec
   */
  public String spec() {
    return handle.get(Tensor::nativeSpec);
  }

  /**
   * The element type that it decodes to.
   *
   * @return the dtype
   */
  public DType dtype() {
    return DType.of(handle.getLong(Tensor::nativeDtype));
  }

  /**
   * The dimensions, outermost first, in elements.
   *
   * @return the shape; empty for a scalar
   */
  public long[] shape() {
    return handle.get(Tensor::nativeShape);
  }

  /**
   * Rows as a matrix.
   *
   * @return the first dimension; 1 for a scalar
   */
  public long rows() {
    return handle.getLong(Tensor::nativeRows);
  }

  /**
   * Columns as a matrix.
   *
   * @return the product of all dimensions but the first
   */
  public long cols() {
    return handle.getLong(Tensor::nativeCols);
  }

  /**
   * Bytes of the dense tensor: what {@link #decompress(ByteBuffer)} writes.
   *
   * @return number of bytes
   */
  public long rawBytes() {
    return handle.getLong(Tensor::nativeRawBytes);
  }

  /**
   * Bytes that it takes in an archive, everything counted (codes, scales, masks, padding) but its
   * entry in the index.
   *
   * @return number of bytes
   */
  public long storedBytes() {
    return handle.getLong(Tensor::nativeStoredBytes);
  }

  /**
   * Stored bits per element.
   *
   * @return number of bits; 0 for a tensor without elements
   */
  public double bitsPerWeight() {
    return handle.getDouble(Tensor::nativeBitsPerWeight);
  }

  /**
   * ‖W − Ŵ‖ / ‖W‖ (Frobenius norm), measured when it was compressed.
   *
   * @return the error; 0 when every bit came back, infinity for an all-zero tensor that did not
   */
  public double relativeError() {
    return handle.getDouble(Tensor::nativeRelativeError);
  }

  /**
   * max |w − ŵ|, measured when it was compressed.
   *
   * @return the error
   */
  public double maxAbsError() {
    return handle.getDouble(Tensor::nativeMaxAbsError);
  }

  /**
   * Signal to quantisation noise, −20·log10(relative error).
   *
   * @return the ratio in dB; infinity when every bit came back
   */
  public double sqnrDb() {
    return handle.getDouble(Tensor::nativeSqnrDb);
  }

  /**
   * Decodes the whole tensor to its dtype, row-major, on all cores.
   *
   * @param out room for {@link #rawBytes()} bytes, which need not be aligned
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: more or less room, or the wrong byte
   *     order; {@link ErrorKind#CORRUPT}: the file is damaged
   */
  public void decompress(ByteBuffer out) {
    decodeRows(0, rows(), out);
  }

  /**
   * Decodes the whole tensor to its dtype, row-major, on all cores.
   *
   * @return a new direct buffer in the machine's byte order
   * @throws CortexException {@link ErrorKind#LIMIT_EXCEEDED}: a buffer does not hold so much; decode
   *     windows of rows; {@link ErrorKind#CORRUPT}: the file is damaged
   */
  public ByteBuffer decompress() {
    return decodeRows(0, rows());
  }

  /**
   * Decodes rows {@code start} to {@code start + count} to the tensor's dtype, row-major, on all
   * cores. Only the parts of the file that hold them are read.
   *
   * @param start the first row
   * @param count number of rows
   * @param out room for {@code count · cols · dtype.bytes()} bytes, which need not be aligned
   * @throws CortexException as {@link #decompress(ByteBuffer)}, and for rows that there are not
   */
  public void decodeRows(long start, long count, ByteBuffer out) {
    Memory memory = Memory.output(out, dtype().bytes(), "out");
    handle.use(
        t ->
            nativeDecodeRows(
                t, start, count, memory.object, memory.kind, memory.start, memory.length));
  }

  /**
   * Decodes rows {@code start} to {@code start + count} to the tensor's dtype, row-major, on all
   * cores. Only the parts of the file that hold them are read.
   *
   * @param start the first row
   * @param count number of rows
   * @return a new direct buffer in the machine's byte order
   * @throws CortexException as {@link #decompress()}, and for rows that there are not
   */
  public ByteBuffer decodeRows(long start, long count) {
    int bytes = room(window(start, count), cols(), dtype().bytes());
    ByteBuffer out = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
    decodeRows(start, count, out);
    return out;
  }

  /**
   * Decodes rows {@code start} to {@code start + count} to f32, whatever the dtype, on all cores.
   *
   * @param start the first row
   * @param count number of rows
   * @param out room for {@code out[count, cols]}
   * @throws CortexException as {@link #decodeRows(long, long, ByteBuffer)}
   */
  public void decodeRowsF32(long start, long count, FloatBuffer out) {
    Memory memory = Memory.output(out, "out");
    handle.use(
        t ->
            nativeDecodeRowsF32(
                t, start, count, memory.object, memory.kind, memory.start, memory.length));
    memory.finish(out);
  }

  /**
   * Decodes rows {@code start} to {@code start + count} to f32, whatever the dtype, on all cores.
   *
   * @param start the first row
   * @param count number of rows
   * @return out[count, cols]
   * @throws CortexException as {@link #decodeRows(long, long)}
   */
  public float[] decodeRowsF32(long start, long count) {
    float[] out = new float[room(window(start, count), cols())];
    decodeRowsF32(start, count, FloatBuffer.wrap(out));
    return out;
  }

  /** As many rows as there are room for at most; the native library refuses what is no window. */
  private long window(long start, long count) {
    long rows = rows();
    return start < 0 || count < 0 || count > rows || start > rows - count ? 0 : count;
  }

  /** The product of sizes, if a buffer or an array can be that long. */
  private static int room(long... sizes) {
    long product = 1;
    for (long size : sizes) {
      if (size == 0) {
        return 0;
      }
      if (size < 0 || size > Integer.MAX_VALUE || (product *= size) > Integer.MAX_VALUE) {
        throw new CortexException(
            ErrorKind.LIMIT_EXCEEDED, "the result does not fit a buffer; use windows of rows");
      }
    }
    return (int) product;
  }

  /**
   * y = x · Wᵀ, computed on the compressed weights: y[b, rows] = Σ x[b, cols] · W[rows, cols]. Sums
   * are in f32.
   *
   * @param x any float dtype and strides; its last dimension is {@link #cols()}, and the product of
   *     the others is the batch b (1 if there is none). f32 without gaps in a direct buffer is used
   *     in place, anything else is copied first.
   * @param y room for y[b, rows]; it must not overlap {@code x}
   * @param options threads, memory and precision
   * @return {@link Precision#FAST} if activations were rounded, or else {@link Precision#EXACT}
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: shapes or dtypes do not fit; {@link
   *     ErrorKind#CORRUPT}: the file is damaged
   */
  public Precision matmul(View x, FloatBuffer y, MatmulOptions options) {
    return product(false, x, y, options);
  }

  /**
   * y = x · Wᵀ, as {@link #matmul(View, FloatBuffer, MatmulOptions)} with the defaults.
   *
   * @param x x[b, cols]
   * @param y room for y[b, rows]
   * @return how it was computed
   * @throws CortexException shapes or dtypes do not fit, or the file is damaged
   */
  public Precision matmul(View x, FloatBuffer y) {
    return product(false, x, y, MatmulOptions.defaults());
  }

  /**
   * y = x · Wᵀ, as {@link #matmul(View, FloatBuffer, MatmulOptions)} of all rows that {@code x}
   * holds.
   *
   * @param x x[b, cols]
   * @param y room for y[b, rows]; it must not overlap {@code x}
   * @param options threads, memory and precision
   * @return how it was computed
   * @throws CortexException shapes do not fit, or the file is damaged
   */
  public Precision matmul(FloatBuffer x, FloatBuffer y, MatmulOptions options) {
    return product(false, rowsOf(Memory.input(x, "x")), y, options);
  }

  /**
   * y = x · Wᵀ, as {@link #matmul(FloatBuffer, FloatBuffer, MatmulOptions)} with the defaults.
   *
   * @param x x[b, cols]
   * @param y room for y[b, rows]
   * @return how it was computed
   * @throws CortexException shapes do not fit, or the file is damaged
   */
  public Precision matmul(FloatBuffer x, FloatBuffer y) {
    return matmul(x, y, MatmulOptions.defaults());
  }

  /**
   * y = x · Wᵀ of all rows that {@code x} holds, with the defaults.
   *
   * @param x x[b, cols]
   * @return y[b, rows]
   * @throws CortexException shapes do not fit, or the file is damaged
   */
  public float[] matmul(float[] x) {
    return product(false, x, cols(), rows());
  }

  /**
   * y = g · W, the product that gradients need: y[b, cols] = Σ g[b, rows] · W[rows, cols]. Always
   * exact.
   *
   * @param g any float dtype and strides; its last dimension is {@link #rows()}, and the product of
   *     the others is the batch b (1 if there is none)
   * @param y room for y[b, cols]; it must not overlap {@code g}
   * @param options threads and memory
   * @return {@link Precision#EXACT}
   * @throws CortexException as {@link #matmul(View, FloatBuffer, MatmulOptions)}
   */
  public Precision matmulT(View g, FloatBuffer y, MatmulOptions options) {
    return product(true, g, y, options);
  }

  /**
   * y = g · W, as {@link #matmulT(View, FloatBuffer, MatmulOptions)} with the defaults.
   *
   * @param g g[b, rows]
   * @param y room for y[b, cols]
   * @return how it was computed
   * @throws CortexException shapes or dtypes do not fit, or the file is damaged
   */
  public Precision matmulT(View g, FloatBuffer y) {
    return product(true, g, y, MatmulOptions.defaults());
  }

  /**
   * y = g · W, as {@link #matmulT(View, FloatBuffer, MatmulOptions)} of all rows that {@code g}
   * holds.
   *
   * @param g g[b, rows]
   * @param y room for y[b, cols]; it must not overlap {@code g}
   * @param options threads and memory
   * @return how it was computed
   * @throws CortexException shapes do not fit, or the file is damaged
   */
  public Precision matmulT(FloatBuffer g, FloatBuffer y, MatmulOptions options) {
    return product(true, rowsOf(Memory.input(g, "g")), y, options);
  }

  /**
   * y = g · W, as {@link #matmulT(FloatBuffer, FloatBuffer, MatmulOptions)} with the defaults.
   *
   * @param g g[b, rows]
   * @param y room for y[b, cols]
   * @return how it was computed
   * @throws CortexException shapes do not fit, or the file is damaged
   */
  public Precision matmulT(FloatBuffer g, FloatBuffer y) {
    return matmulT(g, y, MatmulOptions.defaults());
  }

  /**
   * y = g · W of all rows that {@code g} holds, with the defaults.
   *
   * @param g g[b, rows]
   * @return y[b, cols]
   * @throws CortexException shapes do not fit, or the file is damaged
   */
  public float[] matmulT(float[] g) {
    return product(true, g, rows(), cols());
  }

  private float[] product(boolean transposed, float[] x, long inner, long outer) {
    Objects.requireNonNull(x, transposed ? "g" : "x");
    float[] y = new float[room(inner == 0 ? 0 : x.length / inner, outer)];
    View view = rowsOf(Memory.of(x, "x"));
    product(transposed, view, FloatBuffer.wrap(y), MatmulOptions.defaults());
    return y;
  }

  private static View rowsOf(Memory x) {
    return new View(x, DType.F32, null, null, 0);
  }

  private Precision product(boolean transposed, View x, FloatBuffer y, MatmulOptions options) {
    Memory in = x.memory;
    Memory out = Memory.output(y, "y");
    long tensor = handle.acquire();
    int computed;
    try {
      computed =
          nativeMatmul(
              tensor,
              transposed,
              in.object,
              in.kind,
              in.start,
              in.length,
              x.dtype.code,
              x.shape,
              x.strides,
              x.origin,
              out.object,
              out.kind,
              out.start,
              out.length,
              options.threads,
              options.scratchBytes,
              options.precision.code());
    } finally {
      handle.release();
    }
    out.finish(y);
    return Precision.of(computed);
  }

  /**
   * The shape of what {@link #conv} makes of an x of this shape.
   *
   * @param options strides, padding and the like
   * @param xShape [batch, in, width], or [batch, in, height, width] for weights of four dimensions
   * @return [batch, out, width] or [batch, out, height, width]
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: the shapes do not fit each other, or
   *     the kernel is larger than the padded x
   */
  public long[] convOutputShape(ConvOptions options, long... xShape) {
    Objects.requireNonNull(xShape, "xShape");
    long[] numbers = options.all();
    return handle.get(t -> nativeConvOutputShape(t, xShape, numbers));
  }

  /**
   * y = W ∗ x, a convolution computed on the compressed weights W[out, in / groups, width] or W[out,
   * in / groups, height, width]. The kernel is not turned round:
   *
   * <pre>
   * y[b, o, i, j] = Σ W[o, c, u, v] · x[b, first + c, i·s + u·d − top, j·s′ + v·d′ − left]
   * </pre>
   *
   * <p>over c, u, v, where x is 0 in the padding and {@code first} is the first channel of o's
   * group. Sums are in f32.
   *
   * @param x any float dtype and strides, of the shape [batch, in, width], or [batch, in, height,
   *     width] for weights of four dimensions
   * @param y room for a y of the shape that {@link #convOutputShape} tells; it must not overlap
   *     {@code x}
   * @param options strides, padding and the like
   * @return {@link Precision#FAST} if activations were rounded, or else {@link Precision#EXACT}
   * @throws CortexException {@link ErrorKind#INVALID_ARGUMENT}: shapes or dtypes do not fit; {@link
   *     ErrorKind#CORRUPT}: the file is damaged
   */
  public Precision conv(View x, FloatBuffer y, ConvOptions options) {
    return convolve(false, x, null, y, "y", options);
  }

  /**
   * y = W ∗ x, as {@link #conv(View, FloatBuffer, ConvOptions)}.
   *
   * @param x x of the shape [batch, in, width] or [batch, in, height, width]
   * @param options strides, padding and the like
   * @return y, row-major
   * @throws CortexException as {@link #conv(View, FloatBuffer, ConvOptions)}
   */
  public float[] conv(View x, ConvOptions options) {
    float[] y = new float[room(convOutputShape(options, x.shape))];
    conv(x, FloatBuffer.wrap(y), options);
    return y;
  }

  /**
   * The gradient of a convolution with respect to x, a transposed convolution: what {@code g}, of
   * the shape of y, makes of each element of an x of the shape {@code xShape}. Always exact.
   *
   * @param g any float dtype and strides
   * @param xShape the shape of x
   * @param xGradient room for an x; it must not overlap {@code g}
   * @param options strides, padding and the like
   * @return {@link Precision#EXACT}
   * @throws CortexException as {@link #conv(View, FloatBuffer, ConvOptions)}
   */
  public Precision convT(View g, long[] xShape, FloatBuffer xGradient, ConvOptions options) {
    Objects.requireNonNull(xShape, "xShape");
    return convolve(true, g, xShape, xGradient, "xGradient", options);
  }

  /**
   * The gradient of a convolution with respect to x, as {@link #convT(View, long[], FloatBuffer,
   * ConvOptions)}.
   *
   * @param g any float dtype and strides
   * @param xShape the shape of x
   * @param options strides, padding and the like
   * @return the gradient, row-major
   * @throws CortexException as {@link #conv(View, FloatBuffer, ConvOptions)}
   */
  public float[] convT(View g, long[] xShape, ConvOptions options) {
    convOutputShape(options, xShape);
    float[] gradient = new float[room(xShape)];
    convT(g, xShape, FloatBuffer.wrap(gradient), options);
    return gradient;
  }

  private Precision convolve(
      boolean backward, View x, long[] xShape, FloatBuffer y, String yName, ConvOptions options) {
    Memory in = x.memory;
    Memory out = Memory.output(y, yName);
    long[] numbers = options.all();
    long computed =
        handle.getLong(
            t ->
                nativeConv(
                    t,
                    in.object,
                    in.kind,
                    in.start,
                    in.length,
                    x.dtype.code,
                    x.shape,
                    x.strides,
                    x.origin,
                    numbers,
                    backward,
                    xShape,
                    out.object,
                    out.kind,
                    out.start,
                    out.length));
    out.finish(y);
    return Precision.of((int) computed);
  }

  /**
   * Reads every stored chunk of the tensor and checks it against its checksum.
   *
   * @throws CortexException {@link ErrorKind#CORRUPT}: a chunk is damaged; the exception names the
   *     tensor and the offset
   */
  public void verify() {
    handle.use(Tensor::nativeVerify);
  }

  private static native long nativeCompress(
      Object data,
      int kind,
      long start,
      long length,
      int dtype,
      long[] shape,
      long[] strides,
      long origin,
      byte[] spec);

  private static native long nativeDuplicate(long tensor);

  private static native void nativeFree(long tensor);

  private static native String nativeName(long tensor);

  private static native String nativeSpec(long tensor);

  private static native int nativeDtype(long tensor);

  private static native long[] nativeShape(long tensor);

  private static native long nativeRows(long tensor);

  private static native long nativeCols(long tensor);

  private static native long nativeRawBytes(long tensor);

  private static native long nativeStoredBytes(long tensor);

  private static native double nativeBitsPerWeight(long tensor);

  private static native double nativeRelativeError(long tensor);

  private static native double nativeMaxAbsError(long tensor);

  private static native double nativeSqnrDb(long tensor);

  private static native void nativeDecodeRows(
      long tensor, long first, long count, Object out, int kind, long start, long length);

  private static native void nativeDecodeRowsF32(
      long tensor, long first, long count, Object out, int kind, long start, long length);

  private static native int nativeMatmul(
      long tensor,
      boolean transposed,
      Object x,
      int xKind,
      long xStart,
      long xLength,
      int dtype,
      long[] shape,
      long[] strides,
      long origin,
      Object y,
      int yKind,
      long yStart,
      long yLength,
      long threads,
      long scratchBytes,
      int precision);

  private static native long[] nativeConvOutputShape(long tensor, long[] xShape, long[] options);

  private static native int nativeConv(
      long tensor,
      Object x,
      int xKind,
      long xStart,
      long xLength,
      int dtype,
      long[] shape,
      long[] strides,
      long origin,
      long[] options,
      boolean backward,
      long[] xShape,
      Object y,
      int yKind,
      long yStart,
      long yLength);

  private static native void nativeVerify(long tensor);
}
