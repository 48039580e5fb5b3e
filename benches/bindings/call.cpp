// Times a matmul through the C++ headers.

#include "call.h"

#include <cortex.hpp>

#include <exception>
#include <vector>

static std::vector<float> values(std::size_t count) {
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; i++) out[i] = value(i);
  return out;
}

static void run(const bench_case &c) {
  const std::vector<float> w = values(c.n * c.n), x = values(c.batch * c.n);
  std::vector<float> y(c.batch * c.n);
  const cortex::Tensor tensor = cortex::Tensor::compress(cortex::View(w, {c.n, c.n}), c.spec);
  cortex::MatmulOptions options;
  options.threads = 1;

  std::vector<double> times(c.samples);
  // The first tenth is not counted.
  for (std::size_t s = 0; s < c.samples + c.samples / 10; s++) {
    const double start = now_us();
    for (std::size_t i = 0; i < c.calls; i++) {
      tensor.matmul(cortex::View(x, {c.batch, c.n}), y, options);
    }
    times[s < c.samples / 10 ? 0 : s - c.samples / 10] = (now_us() - start) / double(c.calls);
  }
  print_times("cpp", c.name, times.data(), c.samples, c.calls);
}

int main() {
  try {
    for (const bench_case &c : cases) run(c);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
