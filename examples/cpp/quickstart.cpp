// Opens an archive, lists its tensors, and multiplies the first matrix by a vector, on the
// compressed weights: quickstart MODEL.cai

#include <cortex.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

// y = W x with x all ones: the sum of each row of W.
static void multiply(const cortex::Tensor &w) {
  const std::vector<float> x(w.cols(), 1.0f);
  const std::vector<float> y = w.matmul(x);
  std::printf("\ny = W x for %s, x all ones:", std::string(w.name().value_or("")).c_str());
  for (std::size_t i = 0; i < y.size() && i < 8; i++) std::printf(" %g", double(y[i]));
  std::printf("%s\n", y.size() > 8 ? " ..." : "");
}

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s MODEL.cai\n", argv[0]);
    return 2;
  }
  try {
    const cortex::Archive model = cortex::Archive::open(argv[1]);
    bool multiplied = false;
    for (const std::string &name : model.names()) {
      const cortex::Tensor w = model.tensor(name);
      const std::string dtype(cortex::dtype_name(w.dtype())), spec(w.spec());
      std::printf("%-32s %s[%zu x %zu]  %-24s %5.2f bits, error %.4f\n", name.c_str(), dtype.c_str(),
                  w.rows(), w.cols(), spec.c_str(), w.bits_per_weight(), w.relative_error());
      if (!multiplied && w.shape().size() == 2) {
        multiply(w);
        multiplied = true;
      }
    }
  } catch (const cortex::Error &error) {
    const std::string kind(error.kind_name());
    std::fprintf(stderr, "%s: %s\n", kind.c_str(), error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
