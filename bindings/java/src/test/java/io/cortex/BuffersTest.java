package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Every kind of buffer gives the same result, and what lies beside the elements is left alone. */
class BuffersTest {
  private static final int ROWS = 16;
  private static final int COLS = 32;
  private static final float[] X = Data.weights(COLS);
  private static final ByteOrder FOREIGN =
      ByteOrder.nativeOrder() == ByteOrder.BIG_ENDIAN ? ByteOrder.LITTLE_ENDIAN : ByteOrder.BIG_ENDIAN;

  private static Tensor tensor;
  private static float[] expected;

  @BeforeAll
  static void make() {
    tensor = Tensor.compress(Data.weights(ROWS * COLS), "int8", ROWS, COLS);
    expected = tensor.matmul(X);
  }

  @AfterAll
  static void close() {
    tensor.close();
  }

  /** The values in the middle of a longer buffer, between position and limit. */
  private static FloatBuffer within(FloatBuffer buffer, float[] values) {
    buffer.position(3).put(values);
    buffer.limit(buffer.position()).position(3);
    return buffer;
  }

  private static void multiplies(FloatBuffer x, FloatBuffer y) {
    int[] before = {x.position(), x.limit(), y.position(), y.limit()};
    tensor.matmul(x, y);
    assertArrayEquals(expected, Data.floats(y));
    assertArrayEquals(before, new int[] {x.position(), x.limit(), y.position(), y.limit()});
    FloatBuffer all = y.duplicate();
    all.clear();
    for (int i = 0; i < all.capacity(); i++) {
      if (i < y.position() || i >= y.limit()) {
        assertEquals(0, all.get(i), "beside the elements");
      }
    }
  }

  @Test
  void positionAndLimitCount() {
    float[] zeros = new float[ROWS];
    int x = COLS + 7;
    int y = ROWS + 7;
    ByteOrder own = ByteOrder.nativeOrder();
    FloatBuffer[] xs = {
      within(Data.floatRoom(x), X),
      within(FloatBuffer.allocate(x), X),
      within(ByteBuffer.allocate(4 * x).order(own).asFloatBuffer(), X),
      within(Data.floatRoom(x + 2).position(2).slice(), X),
      within(FloatBuffer.wrap(new float[x + 2], 2, x).slice(), X),
      within(Data.floatRoom(x), X).asReadOnlyBuffer(),
      within(FloatBuffer.allocate(x), X).asReadOnlyBuffer(),
      // Not aligned to four bytes: copied.
      within(Data.room(4 * x + 1).position(1).slice().order(own).asFloatBuffer(), X),
    };
    for (FloatBuffer in : xs) {
      multiplies(in, within(Data.floatRoom(y), zeros));
      multiplies(in, within(FloatBuffer.allocate(y), zeros));
      multiplies(in, within(ByteBuffer.allocate(4 * y).order(own).asFloatBuffer(), zeros));
      multiplies(in, within(FloatBuffer.wrap(new float[y + 2], 2, y).slice(), zeros));
    }
  }

  @Test
  void bytesDecodeIntoEveryKindOfBuffer() {
    byte[] all = Data.bytes(tensor.decompress());
    ByteBuffer[] outs = {
      Data.room(all.length + 9),
      ByteBuffer.allocate(all.length + 9).order(ByteOrder.nativeOrder()),
      ByteBuffer.wrap(new byte[all.length + 20], 5, all.length + 9).slice().order(ByteOrder.nativeOrder()),
    };
    for (ByteBuffer out : outs) {
      // Elements need not be aligned.
      out.position(1).limit(1 + all.length);
      tensor.decompress(out);
      assertArrayEquals(all, Data.bytes(out));
      assertEquals(1, out.position());
      out.clear();
      assertEquals(0, out.get(0));
      for (int i = 1 + all.length; i < out.capacity(); i++) {
        assertEquals(0, out.get(i));
      }
    }
  }

  @Test
  void halvesAndDoublesAreConverted() {
    byte[] doubles = new byte[8 * COLS];
    ByteBuffer view = ByteBuffer.wrap(doubles).order(ByteOrder.nativeOrder());
    for (float x : X) {
      view.putDouble(x);
    }
    ByteBuffer readOnly =
        ByteBuffer.wrap(doubles).asReadOnlyBuffer().order(ByteOrder.nativeOrder());
    FloatBuffer y = Data.floatRoom(ROWS);
    tensor.matmul(View.of(readOnly, DType.F64, COLS), y);
    assertArrayEquals(expected, Data.floats(y));
    Arrays.fill(doubles, (byte) 0);
    ByteBuffer heap = ByteBuffer.wrap(doubles).order(ByteOrder.nativeOrder());
    tensor.matmul(View.of(heap, DType.F64, COLS), y);
    assertArrayEquals(new float[ROWS], Data.floats(y));
  }

  @Test
  void strides() {
    // Every other element, from the last to the first.
    float[] spread = new float[2 * COLS];
    for (int i = 0; i < COLS; i++) {
      spread[2 * (COLS - 1 - i)] = X[i];
    }
    FloatBuffer y = Data.floatRoom(ROWS);
    View x = View.of(spread, 1, COLS).strided(2 * (COLS - 1), 0, -2);
    assertEquals(DType.F32, x.dtype());
    assertArrayEquals(new long[] {1, COLS}, x.shape());
    tensor.matmul(x, y);
    assertArrayEquals(expected, Data.floats(y));

    ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
    View outside = View.of(spread, 1, COLS).strided(0, 0, -2);
    Data.fails(invalid, () -> tensor.matmul(outside, y), "x: ", "outside");
    Data.fails(invalid, () -> tensor.matmul(x.strided(0, 1), y), "1 strides for 2 dimensions");
    Data.fails(invalid, () -> tensor.matmul(x.strided(-1, 0, 1), y), "origin is -1");
    Data.fails(invalid, () -> tensor.matmul(x.strided(Long.MAX_VALUE, 0, 1), y), "origin");
    Data.fails(
        invalid, () -> tensor.matmul(x.strided(0, Long.MIN_VALUE, Long.MAX_VALUE), y), "outside");
  }

  @Test
  void foreignByteOrderIsRefused() {
    ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
    FloatBuffer x = Data.floatRoom(COLS);
    FloatBuffer y = Data.floatRoom(ROWS);
    FloatBuffer foreignX = ByteBuffer.allocateDirect(4 * COLS).order(FOREIGN).asFloatBuffer();
    FloatBuffer foreignY = ByteBuffer.allocate(4 * ROWS).order(FOREIGN).asFloatBuffer();
    Data.fails(invalid, () -> tensor.matmul(foreignX, y), "x has the byte order");
    Data.fails(invalid, () -> tensor.matmul(x, foreignY), "y has the byte order");
    ByteBuffer raw = ByteBuffer.allocateDirect(4 * ROWS * COLS).order(FOREIGN);
    Data.fails(invalid, () -> tensor.decompress(raw), "out has the byte order");
    Data.fails(invalid, () -> View.of(raw, DType.F16, 1), "data has the byte order");
    // Single bytes have no order.
    try (Tensor bytes = Tensor.compress(View.of(raw, DType.U8, 4 * ROWS, COLS), "dense")) {
      bytes.decompress(raw);
    }
  }

  @Test
  void outputsMustBeWritableAlignedAndApart() {
    ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
    FloatBuffer x = Data.floatRoom(COLS);
    Data.fails(
        invalid, () -> tensor.matmul(x, Data.floatRoom(ROWS).asReadOnlyBuffer()), "y is read-only");
    Data.fails(
        invalid,
        () -> tensor.matmul(x, FloatBuffer.allocate(ROWS).asReadOnlyBuffer()),
        "y is read-only");
    ByteBuffer readOnly =
        Data.room(4 * ROWS * COLS).asReadOnlyBuffer().order(ByteOrder.nativeOrder());
    Data.fails(invalid, () -> tensor.decompress(readOnly), "out is read-only");
    ByteBuffer odd = Data.room(4 * ROWS + 1).position(1).slice().order(ByteOrder.nativeOrder());
    Data.fails(invalid, () -> tensor.matmul(x, odd.asFloatBuffer()), "y is not aligned");
    FloatBuffer both = Data.floatRoom(COLS + ROWS - 1);
    FloatBuffer first = both.duplicate().limit(COLS);
    FloatBuffer last = both.duplicate().position(COLS - 1);
    Data.fails(invalid, () -> tensor.matmul(first, last), "y overlaps x");
    Data.fails(invalid, () -> tensor.matmulT(last, first), "y overlaps g");
    // Beside each other they may lie.
    FloatBuffer room = Data.floatRoom(COLS + ROWS);
    room.duplicate().put(X);
    FloatBuffer y = room.duplicate().position(COLS).slice();
    tensor.matmul(room.duplicate().limit(COLS), y);
    assertArrayEquals(expected, Data.floats(y));
    // Arrays are copied, so they may be the same.
    try (Tensor square = Tensor.compress(Data.weights(64), "dense", 8, 8)) {
      float[] shared = Data.weights(8);
      float[] apart = square.matmul(shared.clone());
      square.matmul(FloatBuffer.wrap(shared), FloatBuffer.wrap(shared));
      assertArrayEquals(apart, shared);
    }
  }
}
