import io.cortex.Archive;
import io.cortex.CortexException;
import io.cortex.Tensor;
import java.nio.file.Path;
import java.util.Arrays;

/**
 * Opens an archive, lists its tensors, and multiplies the first matrix by a vector, on the
 * compressed weights: Quickstart MODEL.cai
 */
public final class Quickstart {
  public static void main(String[] args) {
    if (args.length != 1) {
      System.err.println("usage: Quickstart MODEL.cai");
      System.exit(2);
    }
    try (Archive model = Archive.open(Path.of(args[0]))) {
      boolean multiplied = false;
      for (String name : model.names()) {
        try (Tensor w = model.tensor(name)) {
          System.out.printf(
              "%-32s %s[%d x %d]  %-24s %5.2f bits, error %.4f%n",
              name, w.dtype(), w.rows(), w.cols(), w.spec(), w.bitsPerWeight(), w.relativeError());
          if (!multiplied && w.shape().length == 2) {
            multiply(name, w);
            multiplied = true;
          }
        }
      }
    } catch (CortexException e) {
      System.err.println(e.kind() + ": " + e.getMessage());
      System.exit(1);
    }
  }

  /** y = W x with x all ones: the sum of each row of W. */
  private static void multiply(String name, Tensor w) {
    float[] x = new float[(int) w.cols()];
    Arrays.fill(x, 1);
    float[] y = w.matmul(x);
    System.out.printf("%ny = W x for %s, x all ones:", name);
    for (int i = 0; i < y.length && i < 8; i++) {
      System.out.printf(" %.6g", y[i]);
    }
    System.out.println(y.length > 8 ? " ..." : "");
  }
}
