package io.cortex;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Optional;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class TensorTest {
  private static final int ROWS = 24;
  private static final int COLS = 40;

  private static Tensor tensor() {
    return Tensor.compress(Data.weights(ROWS * COLS), "int8", ROWS, COLS);
  }

  @Test
  void tellsWhatItIs() {
    try (Tensor t = tensor()) {
      assertEquals(Optional.empty(), t.name());
      assertEquals("int8", t.spec());
      assertEquals(DType.F32, t.dtype());
      assertArrayEquals(new long[] {ROWS, COLS}, t.shape());
      assertEquals(ROWS, t.rows());
      assertEquals(COLS, t.cols());
      assertEquals(4 * ROWS * COLS, t.rawBytes());
      assertTrue(t.storedBytes() < t.rawBytes());
      assertEquals(8.0 * t.storedBytes() / (ROWS * COLS), t.bitsPerWeight(), 1e-12);
      assertTrue(t.relativeError() > 0 && t.relativeError() < 0.01);
      assertTrue(t.maxAbsError() > 0 && t.maxAbsError() < 0.01);
      assertEquals(-20 * Math.log10(t.relativeError()), t.sqnrDb(), 1e-9);
      t.verify();
    }
  }

  @Test
  void nullSpecIsTheDefault() {
    try (Tensor large = Tensor.compress(Data.weights(64 * 64), null, 64, 64);
        Tensor small = Tensor.compress(Data.weights(12), null, 3, 4)) {
      assertTrue(large.relativeError() > 0 && large.relativeError() <= 0.01);
      assertEquals(0, small.relativeError());
      assertEquals(Double.POSITIVE_INFINITY, small.sqnrDb());
    }
  }

  @ParameterizedTest
  @EnumSource
  void everyDTypeComesBack(DType dtype) {
    byte[] bytes = new byte[6 * dtype.bytes()];
    for (int i = 0; i < bytes.length; i++) {
      bytes[i] = (byte) (dtype == DType.BOOL ? i % 2 : 3 * i);
    }
    assertEquals(dtype, DType.of(dtype.toString()));
    try (Tensor t = Tensor.compress(View.of(Data.direct(bytes), dtype, 2, 3), "dense")) {
      assertEquals(dtype, t.dtype());
      assertEquals(bytes.length, t.rawBytes());
      assertArrayEquals(bytes, Data.bytes(t.decompress()));
      float[] floats = t.decodeRowsF32(0, 2);
      assertEquals(6, floats.length);
    }
  }

  @Test
  void emptyTensorsAndScalars() {
    try (Tensor empty = Tensor.compress(new float[0], "int8", 0, 7);
        Tensor scalar = Tensor.compress(new float[] {3}, "dense")) {
      assertEquals(0, empty.rows());
      assertEquals(0, empty.decompress().remaining());
      assertEquals(0, empty.bitsPerWeight());
      assertEquals(0, empty.matmul(new float[14]).length);
      assertEquals(0, empty.matmulT(new float[0]).length);
      assertArrayEquals(new long[0], scalar.shape());
      assertEquals(3, scalar.decompress().getFloat(0));
      assertArrayEquals(new float[] {6}, scalar.matmul(new float[] {2}));
    }
  }

  @Test
  void windowsOfRows() {
    try (Tensor t = tensor()) {
      float[] all = t.decodeRowsF32(0, ROWS);
      for (int start = 0; start < ROWS; start += 5) {
        int count = Math.min(5, ROWS - start);
        float[] expected = new float[count * COLS];
        System.arraycopy(all, start * COLS, expected, 0, expected.length);
        assertArrayEquals(expected, t.decodeRowsF32(start, count));
        assertArrayEquals(expected, Data.floats(t.decodeRows(start, count).asFloatBuffer()));
      }
      ByteBuffer out = Data.room(4 * COLS);
      Data.fails(
          ErrorKind.INVALID_ARGUMENT, () -> t.decodeRows(ROWS, 1, out), "24", "start", "count");
      Data.fails(ErrorKind.INVALID_ARGUMENT, () -> t.decodeRows(-1, 1, out), "start is -1");
      Data.fails(ErrorKind.INVALID_ARGUMENT, () -> t.decodeRows(0, -1, out), "count is -1");
      Data.fails(ErrorKind.INVALID_ARGUMENT, () -> t.decodeRows(Long.MAX_VALUE, Long.MAX_VALUE));
      Data.fails(ErrorKind.INVALID_ARGUMENT, () -> t.decodeRowsF32(20, 5), "24");
      Data.fails(ErrorKind.INVALID_ARGUMENT, () -> t.decodeRows(0, 2, out), "160 bytes");
    }
  }

  @Test
  void products() {
    float[] x = Data.weights(3 * COLS);
    float[] g = Data.weights(3 * ROWS);
    try (Tensor t = tensor()) {
      float[] w = t.decodeRowsF32(0, ROWS);
      double[] expected = Data.product(x, w, ROWS, COLS);
      MatmulOptions exact =
          MatmulOptions.defaults().precision(Precision.EXACT).threads(2).scratchBytes(1 << 16);
      FloatBuffer y = Data.floatRoom(3 * ROWS);
      assertEquals(Precision.EXACT, t.matmul(FloatBuffer.wrap(x), y, exact));
      Data.assertClose(expected, Data.floats(y), 1e-4);
      assertEquals(
          Precision.FAST,
          t.matmul(View.of(x, 3, COLS), y, exact.precision(Precision.FAST)));
      Data.assertClose(expected, Data.floats(y), 0.1);
      t.matmul(View.of(x, 3, COLS), y);
      t.matmul(FloatBuffer.wrap(x), y);
      assertArrayEquals(Data.floats(y), t.matmul(x));
      // Any number of leading dimensions is the batch.
      t.matmul(View.of(x, 3, 1, 1, COLS), y);
      assertArrayEquals(t.matmul(x), Data.floats(y));

      float[] transposed = new float[w.length];
      for (int i = 0; i < w.length; i++) {
        transposed[i % COLS * ROWS + i / COLS] = w[i];
      }
      double[] expectedT = Data.product(g, transposed, COLS, ROWS);
      FloatBuffer yT = Data.floatRoom(3 * COLS);
      assertEquals(Precision.EXACT, t.matmulT(FloatBuffer.wrap(g), yT, exact));
      Data.assertClose(expectedT, Data.floats(yT), 1e-4);
      Data.assertClose(expectedT, t.matmulT(g), 1e-4);
      t.matmulT(View.of(g, 3, ROWS), yT, exact);
      t.matmulT(View.of(g, 3, ROWS), yT);
      t.matmulT(FloatBuffer.wrap(g), yT);
      Data.assertClose(expectedT, Data.floats(yT), 1e-4);
    }
  }

  @Test
  void wrongShapesAndDtypesAreRefused() {
    try (Tensor t = tensor()) {
      FloatBuffer y = Data.floatRoom(ROWS);
      ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
      Data.fails(invalid, () -> t.matmul(new float[COLS + 1]), "x has shape", "40");
      Data.fails(invalid, () -> t.matmulT(new float[ROWS - 1]), "g has shape", "24");
      Data.fails(invalid, () -> t.matmul(View.of(new float[COLS], COLS, 1), y), "40");
      Data.fails(invalid, () -> t.matmul(View.of(new float[COLS], 2, COLS), y), "x: ", "320 bytes");
      Data.fails(invalid, () -> t.matmul(View.of(new float[COLS], -1, COLS), y), "-1");
      Data.fails(invalid, () -> t.matmul(View.of(new float[COLS], new long[17]), y), "17");
      Data.fails(invalid, () -> t.matmul(FloatBuffer.allocate(2 * COLS), y), "24 values", "2 × 24");
      View ints = View.of(Data.room(4 * COLS), DType.I32, 1, COLS);
      Data.fails(invalid, () -> t.matmul(ints, y), "x.dtype is i32");
      MatmulOptions options = MatmulOptions.defaults();
      FloatBuffer x = Data.floatRoom(COLS);
      Data.fails(invalid, () -> t.matmul(x, y, options.threads(-1)), "options.threads is -1");
      Data.fails(invalid, () -> t.matmul(x, y, options.scratchBytes(-5)), "scratchBytes is -5");
      Data.fails(
          invalid, () -> Tensor.compress(new float[5], "int8", 2, 3), "view", "24 bytes", "20");
      Data.fails(ErrorKind.LIMIT_EXCEEDED, () -> Tensor.compress(new float[5], "int8", 1L << 62, 3));
      Data.fails(invalid, () -> DType.of("f31"), "f31");
    }
  }

  @Test
  void valuesThatAreNotFiniteAreNamed() {
    float[] values = Data.weights(100);
    values[57] = Float.NaN;
    Data.fails(
        ErrorKind.INVALID_ARGUMENT, () -> Tensor.compress(values, "int4", 10, 10), "57", "NaN");
    try (Tensor t = Tensor.compress(values, "lossless", 10, 10)) {
      assertTrue(Float.isNaN(t.decodeRowsF32(5, 1)[7]));
    }
  }

  @Test
  void convolution() {
    float[] w = Data.weights(4 * 2 * 3);
    float[] x = Data.weights(2 * 2 * 9);
    ConvOptions options =
        ConvOptions.defaults()
            .padding(0, 0, 1, 2)
            .stride(0, 2)
            .dilation(1, 2)
            .matmul(MatmulOptions.defaults().precision(Precision.EXACT));
    try (Tensor t = Tensor.compress(w, "dense", 4, 2, 3)) {
      assertArrayEquals(new long[] {2, 4, 4}, t.convOutputShape(options, 2, 2, 9));
      double[] expected = new double[2 * 4 * 4];
      double[] expectedG = new double[x.length];
      float[] g = Data.weights(expected.length);
      for (int b = 0; b < 2; b++) {
        for (int o = 0; o < 4; o++) {
          for (int j = 0; j < 4; j++) {
            int at = (b * 4 + o) * 4 + j;
            for (int c = 0; c < 2; c++) {
              for (int v = 0; v < 3; v++) {
                int from = j * 2 + v * 2 - 1;
                if (from >= 0 && from < 9) {
                  int place = (b * 2 + c) * 9 + from;
                  expected[at] += (double) w[(o * 2 + c) * 3 + v] * x[place];
                  expectedG[place] += (double) w[(o * 2 + c) * 3 + v] * g[at];
                }
              }
            }
          }
        }
      }
      View viewX = View.of(x, 2, 2, 9);
      View viewG = View.of(g, 2, 4, 4);
      Data.assertClose(expected, t.conv(viewX, options), 1e-5);
      FloatBuffer y = Data.floatRoom(expected.length);
      assertEquals(Precision.EXACT, t.conv(viewX, y, options));
      Data.assertClose(expected, Data.floats(y), 1e-5);
      long[] xShape = {2, 2, 9};
      Data.assertClose(expectedG, t.convT(viewG, xShape, options), 1e-5);

      ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
      Data.fails(invalid, () -> t.convOutputShape(options, 2, 3, 9), "3 channels");
      Data.fails(invalid, () -> t.convOutputShape(options.groups(3), 2, 6, 9), "groups is 3");
      Data.fails(invalid, () -> t.convOutputShape(options, 2, 2, -9), "-9");
      Data.fails(invalid, () -> t.convOutputShape(options.stride(1, -1), xShape), "strideWidth is -1");
      Data.fails(invalid, () -> t.conv(viewX, Data.floatRoom(3), options), "y holds 3 values");
      Data.fails(invalid, () -> t.convT(viewX, xShape, options), "g has shape");
      Data.fails(
          invalid, () -> t.convT(viewG, xShape, Data.floatRoom(3), options), "xGradient holds 3");
    }
  }

  @Test
  void aSecondHandleLivesByItself() {
    Tensor first = tensor();
    try (Tensor second = first.duplicate()) {
      float[] expected = first.matmul(new float[COLS]);
      first.close();
      assertArrayEquals(expected, second.matmul(new float[COLS]));
    }
  }

  @Test
  void closedTensorsAreRefused() {
    Tensor t = tensor();
    t.close();
    t.close();
    ErrorKind invalid = ErrorKind.INVALID_ARGUMENT;
    Data.fails(invalid, t::rows, "the tensor is closed");
    Data.fails(invalid, t::name, "closed");
    Data.fails(invalid, t::sqnrDb, "closed");
    Data.fails(invalid, t::verify, "closed");
    Data.fails(invalid, t::duplicate, "closed");
    Data.fails(invalid, t::decompress, "closed");
    Data.fails(invalid, () -> t.matmul(new float[COLS]), "closed");
    Data.fails(invalid, () -> t.matmul(Data.floatRoom(COLS), Data.floatRoom(ROWS)), "closed");
  }

  @Test
  void nullIsRefused() {
    try (Tensor t = tensor()) {
      FloatBuffer b = Data.floatRoom(COLS);
      Class<NullPointerException> npe = NullPointerException.class;
      assertThrows(npe, () -> Tensor.compress((View) null, "int8"));
      assertThrows(npe, () -> Tensor.compress((float[]) null, "int8", 1));
      assertThrows(npe, () -> Tensor.compress(new float[1], "int8", (long[]) null));
      assertThrows(npe, () -> t.matmul((View) null, b));
      assertThrows(npe, () -> t.matmul((FloatBuffer) null, b));
      assertThrows(npe, () -> t.matmul((float[]) null));
      assertThrows(npe, () -> t.matmul(b, null));
      assertThrows(npe, () -> t.matmul(b, b, null));
      assertThrows(npe, () -> t.decompress(null));
      assertThrows(npe, () -> t.decodeRowsF32(0, 1, null));
      assertThrows(npe, () -> t.convOutputShape(null, 1, 1, 1));
      assertThrows(npe, () -> t.convOutputShape(ConvOptions.defaults(), (long[]) null));
      assertThrows(npe, () -> View.of((ByteBuffer) null, DType.F32));
      assertThrows(npe, () -> View.of(Data.room(4), null));
      assertThrows(npe, () -> MatmulOptions.defaults().precision(null));
      assertThrows(npe, () -> DType.of(null));
    }
  }

  /** Rows of a tensor that is too large for one buffer are had in windows. */
  @Test
  void largerThanABuffer() {
    // 2³¹ elements: the same row, lent 65,536 times.
    byte[] row = new byte[1 << 15];
    Arrays.fill(row, (byte) 7);
    View rows = View.of(Data.direct(row), DType.U8, 1 << 16, 1 << 15).strided(0, 0, 1);
    try (Tensor t = Tensor.compress(rows, "dense | rle")) {
      assertEquals(1L << 31, t.rawBytes());
      Data.fails(ErrorKind.LIMIT_EXCEEDED, t::decompress, "windows");
      Data.fails(ErrorKind.LIMIT_EXCEEDED, () -> t.decodeRowsF32(0, 1 << 16), "windows");
      ByteBuffer window = Data.room(1 << 16);
      t.decodeRows((1 << 16) - 2, 2, window);
      for (byte b : Data.bytes(window)) {
        assertEquals(7, b);
      }
    }
  }
}
