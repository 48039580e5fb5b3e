import io.cortex.MatmulOptions;
import io.cortex.Tensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Locale;

/**
 * How long products take from Java, a JSON line a case: calls with direct buffers, which are used
 * in place, and with arrays, which are copied.
 */
public final class Call {
  private static final MatmulOptions ONE_THREAD = MatmulOptions.defaults().threads(1);

  public static void main(String[] args) {
    small();
    large();
  }

  private static void small() {
    try (Tensor w = Tensor.compress(weights(64 * 64), "int8", 64, 64)) {
      FloatBuffer x = direct(64);
      FloatBuffer y = direct(64);
      fill(x);
      report("call_64x64_int8", 500, 1000, () -> w.matmul(x, y, ONE_THREAD));
      float[] arrayX = new float[64];
      x.duplicate().get(arrayX);
      FloatBuffer heapX = FloatBuffer.wrap(arrayX);
      FloatBuffer heapY = FloatBuffer.allocate(64);
      report("call_64x64_int8_arrays", 500, 1000, () -> w.matmul(heapX, heapY, ONE_THREAD));
    }
  }

  private static void large() {
    int n = 4096;
    try (Tensor w = Tensor.compress(weights(n * n), "int4(group=32)", n, n)) {
      FloatBuffer x = direct(8 * n);
      FloatBuffer y = direct(8 * n);
      fill(x);
      report("matmul_4096_b8", 100, 1, () -> w.matmul(x, y, ONE_THREAD));
    }
  }

  /** Times rounds of calls, after as many to warm up. */
  private static void report(String name, int rounds, int calls, Runnable call) {
    double[] micros = new double[rounds];
    for (int warm = 1; warm >= 0; warm--) {
      for (int round = 0; round < rounds; round++) {
        long start = System.nanoTime();
        for (int i = 0; i < calls; i++) {
          call.run();
        }
        micros[round] = (System.nanoTime() - start) / 1e3 / calls;
      }
    }
    Arrays.sort(micros);
    System.out.printf(
        Locale.ROOT,
        "{\"language\": \"java\", \"case\": \"%s\", \"min_us\": %.4f, \"median_us\": %.4f, "
            + "\"calls\": %d}%n",
        name,
        micros[0],
        micros[rounds / 2],
        rounds * calls);
  }

  private static float weight(int i) {
    return (float) ((i * 2654435761L & 0xffffffffL) / 4294967296.0 - 0.5);
  }

  private static float[] weights(int count) {
    float[] w = new float[count];
    for (int i = 0; i < count; i++) {
      w[i] = weight(i);
    }
    return w;
  }

  private static FloatBuffer direct(int count) {
    return ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder()).asFloatBuffer();
  }

  private static void fill(FloatBuffer x) {
    for (int i = 0; i < x.capacity(); i++) {
      x.put(i, weight(i));
    }
  }
}
