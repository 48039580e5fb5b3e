// Tensors: products against plain loops, every way in and out, and what is refused.

#include "check.hpp"

#include <array>
#include <atomic>
#include <cmath>
#include <new>

// Allocations of the C++ side; the library has an allocator of its own. Not to be inlined: the
// compiler would see malloc in one place and delete in another, and warn of it.
#define NOT_INLINED __attribute__((noinline))
static std::atomic<long> allocations{0};
NOT_INLINED void *operator new(std::size_t size) {
  allocations++;
  if (void *memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
NOT_INLINED void operator delete(void *memory) noexcept { std::free(memory); }
NOT_INLINED void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }

static const std::size_t ROWS = 48, COLS = 96;

static cortex::Tensor compressed(const char *spec) {
  const std::vector<float> w = weights(ROWS * COLS);
  return cortex::Tensor::compress(cortex::View(w, {ROWS, COLS}), spec);
}

static void properties() {
  const cortex::Tensor t = compressed("int8");
  CHECK(t && t.spec() == "int8" && !t.name() && t.dtype() == cortex::DType::F32);
  CHECK(cortex::Shape(t.shape()) == cortex::Shape({ROWS, COLS}));
  CHECK(t.rows() == ROWS && t.cols() == COLS && t.raw_bytes() == ROWS * COLS * 4);
  CHECK(t.stored_bytes() > ROWS * COLS && t.stored_bytes() < ROWS * COLS * 2);
  CHECK(std::fabs(t.bits_per_weight() - 8.0 * double(t.stored_bytes()) / (ROWS * COLS)) < 1e-9);
  CHECK(t.relative_error() > 0 && t.relative_error() < 0.01 && t.max_abs_error() > 0);
  CHECK(std::fabs(t.sqnr_db() + 20 * std::log10(t.relative_error())) < 1e-4);
  t.verify();

  const cortex::Tensor twin = t.clone();
  CHECK(same_bytes(twin.decompress(), t.decompress()));
  const std::vector<float> scalar = {7};
  const cortex::Tensor s = cortex::Tensor::compress(cortex::View(scalar, {}));
  CHECK(s.shape().empty() && s.rows() == 1 && s.cols() == 1);
  CHECK(s.decompress_as<float>() == scalar);
}

static void decoding() {
  const std::vector<float> w = weights(ROWS * COLS);
  const cortex::Tensor t = cortex::Tensor::compress(cortex::View(w, {ROWS, COLS}), "dense");
  const std::vector<float> all = t.decompress_as<float>();
  CHECK(all == w);
  std::vector<std::byte> bytes = t.decompress();
  CHECK(bytes.size() == t.raw_bytes() && !std::memcmp(bytes.data(), w.data(), bytes.size()));
  // Not aligned.
  bytes.resize(bytes.size() + 1);
  t.decompress(bytes.data() + 1, bytes.size() - 1);
  CHECK(!std::memcmp(bytes.data() + 1, w.data(), bytes.size() - 1));
  const std::vector<float> window(w.begin() + 5 * COLS, w.begin() + 8 * COLS);
  CHECK(t.decode_rows_as<float>(5, 3) == window && t.decode_rows_f32(5, 3) == window);
  CHECK(t.decode_rows(5, 3).size() == 3 * COLS * 4);
  CHECK(t.decode_rows(ROWS, 0).empty() && t.decode_rows_f32(0, 0).empty());

  THROWS(InvalidArgument, "f32, not f64", t.decompress_as<double>());
  THROWS(InvalidArgument, "f32, not i32", t.decode_rows_as<std::int32_t>(0, 1));
  THROWS(InvalidArgument, "out_bytes is 3", t.decompress(bytes.data(), 3));
  THROWS(InvalidArgument, "48 rows", t.decode_rows(47, 2));
  THROWS(InvalidArgument, "48 rows", t.decode_rows(1, SIZE_MAX));
  THROWS(InvalidArgument, "48 rows", t.decode_rows_f32(SIZE_MAX, SIZE_MAX));
  THROWS(InvalidArgument, "48 rows", t.decode_rows_as<float>(0, std::size_t(1) << 60));
  std::vector<float> small(COLS - 1);
  THROWS(InvalidArgument, "out_len is 95", t.decode_rows_f32(0, 1, small));

  // Other dtypes decode to themselves, and to f32.
  const std::vector<std::int16_t> numbers = {-300, 5, 7, 11, -13, 17};
  const cortex::Tensor n = cortex::Tensor::compress(cortex::View(numbers, {2, 3}));
  CHECK(n.dtype() == cortex::DType::I16 && n.decompress_as<std::int16_t>() == numbers);
  CHECK(n.decode_rows_as<std::int16_t>(1, 1) == std::vector<std::int16_t>({11, -13, 17}));
  CHECK(n.decode_rows_f32(0, 1) == std::vector<float>({-300, 5, 7}));
  // An odd number of bytes that no vector of T has.
  const std::vector<std::uint8_t> odd = {1, 2, 3};
  CHECK(cortex::Tensor::compress(odd).decompress_as<std::uint8_t>() == odd);
}

// y[b, out] by a plain loop, in f64.
static bool product(const std::vector<float> &w, const std::vector<float> &x,
                    const std::vector<float> &y, std::size_t batch, bool transposed) {
  const std::size_t in = transposed ? ROWS : COLS, out = transposed ? COLS : ROWS;
  for (std::size_t b = 0; b < batch; b++) {
    for (std::size_t o = 0; o < out; o++) {
      double sum = 0, scale = 0;
      for (std::size_t i = 0; i < in; i++) {
        const double p = double(x[b * in + i]) * w[transposed ? i * COLS + o : o * COLS + i];
        sum += p;
        scale += std::fabs(p);
      }
      if (!(std::fabs(y[b * out + o] - sum) <= 1e-5 * scale + 1e-6)) return false;
    }
  }
  return y.size() == batch * out;
}

static void products() {
  for (const char *spec : {"dense", "int8", "int4(group=32)", "mask(keep=50%)"}) {
    const cortex::Tensor t = compressed(spec);
    const std::vector<float> w = t.decompress_as<float>();
    const std::vector<float> x = weights(3 * COLS), g = weights(3 * ROWS);
    cortex::Precision computed{};
    cortex::MatmulOptions exact;
    exact.precision = cortex::Precision::Exact;
    exact.computed = &computed;
    CHECK(product(w, x, t.matmul(cortex::View(x, {3, COLS}), exact), 3, false));
    CHECK(computed == cortex::Precision::Exact);
    CHECK(product(w, g, t.matmul_t(cortex::View(g, {3, ROWS}), exact), 3, true));
    // A vector, and more dimensions than two.
    const std::vector<float> one(x.begin(), x.begin() + COLS);
    CHECK(product(w, one, t.matmul(one, exact), 1, false));
    CHECK(product(w, x, t.matmul(cortex::View(x, {1, 3, COLS}), exact), 3, false));

    // In the caller's memory, without an allocation.
    std::vector<float> y(3 * ROWS), z(3 * COLS);
    exact.threads = 1;
    const long before = allocations;
    t.matmul(cortex::View(x, {3, COLS}), y, exact);
    t.matmul_t(cortex::View(g, {3, ROWS}), z, exact);
    const bool done = t.try_matmul(cortex::View(x, {3, COLS}), y, exact).ok();
    t.matmul(cortex::View(x.data(), {3, COLS}, {COLS, 1}), y);
    CHECK(allocations == before && done);
    CHECK(product(w, g, z, 3, true));
  }
}

// Views of other dtypes and strides, and of every kind of container.
static void views() {
  const cortex::Tensor t = compressed("int8");
  std::vector<float> x(2 * COLS), mixed(2 * COLS);
  std::vector<double> wide(2 * COLS);
  std::vector<std::uint16_t> halves(2 * COLS);
  for (std::size_t i = 0; i < 2 * COLS; i++) {
    x[i] = float(i % 7) - 3;  // whole numbers, which every float dtype holds
    wide[i] = x[i];
    mixed[i % COLS * 2 + i / COLS] = x[i];
    std::uint32_t bits;
    std::memcpy(&bits, &x[i], 4);
    halves[i] = static_cast<std::uint16_t>(bits >> 16);
  }
  const std::vector<float> y = t.matmul(cortex::View(x, {2, COLS}));
  CHECK(t.matmul(cortex::View(wide, {2, COLS})) == y);
  CHECK(t.matmul(cortex::View(mixed.data(), {2, COLS}, {1, 2})) == y);
  CHECK(t.matmul(cortex::View(halves.data(), cortex::DType::BF16, {2, COLS})) == y);
  const float *pointer = x.data();
  CHECK(t.matmul(cortex::View(pointer, {2, COLS})) == y);
  CHECK(t.matmul(cortex::View(cortex::Span<const float>(x), {2, COLS})) == y);
  CHECK(t.matmul(cortex::View(cortex::Span<float>(x), {2, COLS})) == y);
  std::array<float, 2 * COLS> array;
  std::copy(x.begin(), x.end(), array.begin());
  CHECK(t.matmul(cortex::View(array, {2, COLS})) == y);
  float plain[2][COLS];
  std::memcpy(plain, x.data(), sizeof plain);
  CHECK(t.matmul(cortex::View(&plain[0][0], {2, COLS})) == y);
  const std::vector<std::size_t> shape = {2, COLS};
  CHECK(t.matmul(cortex::View(x, shape)) == y);

  // What does not fit.
  std::vector<float> out(2 * ROWS, 7);
  THROWS(InvalidArgument, "x has shape [2, 95]", t.matmul(cortex::View(x.data(), {2, 95}), out));
  THROWS(InvalidArgument, "x has 192 elements, but its shape is [3, 96]",
         t.matmul(cortex::View(x, {3, COLS})));
  THROWS(InvalidArgument, "x has 192 elements, but its shape is []", t.matmul(cortex::View(x, {})));
  THROWS(InvalidArgument, "view has 192 elements",
         cortex::Tensor::compress(cortex::View(x, {SIZE_MAX, 3}), "int8"));
  THROWS(InvalidArgument, "x has 1 strides for 2 dimensions",
         t.matmul(cortex::View(x.data(), {2, COLS}, {1})));
  THROWS(InvalidArgument, "ndim is 17; at most 16",
         t.matmul(cortex::View(x.data(), cortex::Shape(std::vector<std::size_t>(17, 1)))));
  THROWS(InvalidArgument, "ndim is 17",
         cortex::Tensor::compress(cortex::View(x, std::vector<std::size_t>(17, 1))));
  THROWS(InvalidArgument, "y_len is 95", t.matmul(cortex::View(x, {2, COLS}), cortex::Span<float>(out.data(), 95)));
  THROWS(InvalidArgument, "y_len is 0", t.matmul(cortex::View(x, {2, COLS}), cortex::Span<float>()));
  THROWS(InvalidArgument, "g has shape", t.matmul_t(cortex::View(x, {2, COLS}), out));
  THROWS(InvalidArgument, "y overlaps x",
         t.matmul(cortex::View(x, {2, COLS}), cortex::Span<float>(x.data(), 2 * ROWS)));
  const std::vector<int> integers(COLS);
  THROWS(InvalidArgument, "i32", t.matmul(integers));
  THROWS(InvalidArgument, "dtype",
         t.matmul(cortex::View(x.data(), static_cast<cortex::DType>(99), {2, COLS}), out));
  THROWS(InvalidArgument, "x.data is NULL",
         t.matmul(cortex::View(static_cast<const float *>(nullptr), {2, COLS}), out));
  THROWS(InvalidArgument, "shape", t.matmul(std::vector<float>()));
  cortex::MatmulOptions bad;
  bad.precision = static_cast<cortex::Precision>(99);
  cortex::Precision untouched = cortex::Precision::Auto;
  bad.computed = &untouched;
  THROWS(InvalidArgument, "precision", t.matmul(cortex::View(x, {2, COLS}), bad));
  CHECK(untouched == cortex::Precision::Auto && out == std::vector<float>(2 * ROWS, 7));

  // No elements at all.
  const std::vector<float> none;
  const cortex::Tensor empty = cortex::Tensor::compress(cortex::View(none, {0, 8}), "int8");
  CHECK(empty.decompress().empty() && empty.matmul(std::vector<float>(8)).empty());
  CHECK(t.matmul(cortex::View(none, {0, COLS})).empty());
}

static void specs() {
  std::vector<float> w = weights(ROWS * COLS);
  const cortex::View view(w, {ROWS, COLS});
  CHECK(cortex::Tensor::compress(view).relative_error() <= 0.01);
  CHECK(cortex::Tensor::compress(view, std::string("lossless")).relative_error() == 0);
  THROWS(InvalidArgument, "column 1", cortex::Tensor::compress(view, "int9"));
  THROWS(InvalidArgument, "column", cortex::Tensor::compress(view, ""));
  THROWS(InvalidArgument, "spec holds a NUL at byte 4",
         cortex::Tensor::compress(view, std::string_view("int8\0 ", 6)));
  w[37] = NAN;
  THROWS(InvalidArgument, "index 37", cortex::Tensor::compress(view, "int8"));
  CHECK(cortex::spec_parse(" q( bits = 8 ) ") == "int8");
  THROWS(InvalidArgument, "column 5", cortex::spec_parse("int8)"));
  CHECK(cortex::codecs_json().find("\"int4\"") != std::string_view::npos);
  CHECK(cortex::dtype_name(cortex::DType::BF16) == "bf16");
  CHECK(cortex::dtype_bytes(cortex::DType::I64) == 8);
  CHECK(cortex::dtype_name(static_cast<cortex::DType>(99)).empty());
  CHECK(cortex::version() == CORTEX_VERSION_STRING && cortex::abi_version() == CORTEX_ABI_VERSION);
}

static void convolutions() {
  const std::vector<float> w = weights(4 * 3 * 3 * 3), x = weights(3 * 6 * 5);
  const cortex::Tensor t = cortex::Tensor::compress(cortex::View(w, {4, 3, 3, 3}), "dense");
  cortex::ConvOptions options;
  options.padding_top = options.padding_left = options.padding_right = 1;
  options.stride_width = 2;
  const cortex::Shape shape = t.conv_output_shape({1, 3, 6, 5}, options);
  CHECK(shape == cortex::Shape({1, 4, 5, 3}));
  const std::vector<float> y = t.conv(cortex::View(x, {1, 3, 6, 5}), options);
  bool good = y.size() == 4 * 5 * 3;
  for (std::size_t o = 0; good && o < 4; o++) {
    for (std::size_t i = 0; i < 5; i++) {
      for (std::size_t j = 0; j < 3; j++) {
        double sum = 0;
        for (std::size_t c = 0; c < 3; c++) {
          for (std::size_t u = 0; u < 3; u++) {
            for (std::size_t v = 0; v < 3; v++) {
              const std::size_t r = i + u - 1, k = 2 * j + v - 1;  // wraps below 0
              if (r < 6 && k < 5) sum += double(w[((o * 3 + c) * 3 + u) * 3 + v]) * x[(c * 6 + r) * 5 + k];
            }
          }
        }
        good = good && std::fabs(y[(o * 5 + i) * 3 + j] - sum) < 1e-6;
      }
    }
  }
  CHECK(good);
  // <conv(x), g> = <x, conv_t(g)>.
  const std::vector<float> g = weights(y.size());
  const std::vector<float> back = t.conv_t(cortex::View(g, shape), {1, 3, 6, 5}, options);
  double left = 0, right = 0;
  for (std::size_t i = 0; i < y.size(); i++) left += double(y[i]) * g[i];
  for (std::size_t i = 0; i < x.size(); i++) right += double(x[i]) * back[i];
  CHECK(back.size() == x.size() && std::fabs(left - right) < 1e-6);

  std::vector<float> out(y.size());
  cortex::Precision computed{};
  options.matmul.computed = &computed;
  t.conv(cortex::View(x, {1, 3, 6, 5}), out, options);
  CHECK(out == y && computed == cortex::Precision::Exact);
  THROWS(InvalidArgument, "", t.conv_output_shape({3, 6, 5}));
  THROWS(InvalidArgument, "x_ndim is 17", t.conv_output_shape(std::vector<std::size_t>(17, 1)));
  THROWS(InvalidArgument, "", t.conv(cortex::View(x, {1, 2, 9, 5})));
  THROWS(InvalidArgument, "x has 90 elements", t.conv(cortex::View(x, {1, 3, 6, 6})));
  THROWS(InvalidArgument, "y_len", t.conv(cortex::View(x, {1, 3, 6, 5}), cortex::Span<float>(out).first(3)));
  THROWS(InvalidArgument, "x_ndim", t.conv_t(cortex::View(g, shape), std::vector<std::size_t>(17, 1), options));
}

static void moved() {
  const std::vector<float> x(COLS, 1);
  cortex::Tensor t = compressed("int8");
  const std::vector<float> y = t.matmul(x);
  cortex::Tensor there = std::move(t);
  CHECK(!t && there);  // what was moved from is empty
  CHECK(there.matmul(x) == y);
  CHECK(!t.name() && t.spec().empty() && t.shape().empty() && t.rows() == 0 && t.raw_bytes() == 0);
  CHECK(t.dtype() == cortex::DType() && std::isnan(t.relative_error()));
  THROWS(InvalidArgument, "tensor is NULL", t.matmul(x));
  THROWS(InvalidArgument, "tensor is NULL", t.decompress());
  THROWS(InvalidArgument, "tensor is NULL", t.decompress_as<float>());
  THROWS(InvalidArgument, "tensor is NULL", t.clone());
  THROWS(InvalidArgument, "tensor is NULL", t.verify());
  THROWS(InvalidArgument, "tensor is NULL", t.conv_output_shape({1, 3, 6, 5}));
  THROWS(InvalidArgument, "tensor is NULL", t.decode_rows(0, 1));

  cortex::Tensor &same = there;
  there = std::move(same);
  CHECK(there && there.matmul(x) == y);
  t = std::move(there);
  CHECK(t.matmul(x) == y);
  // Replaced while it holds one, swapped, kept in a container that moves it.
  t = compressed("int4(group=64)");
  std::vector<cortex::Tensor> many;
  for (int i = 0; i < 20; i++) many.push_back(t.clone());
  std::swap(many[0], t);
  CHECK(many[19].spec() == "int4(group=64)" && t.spec() == many[0].spec());

  // Out of C and back.
  cortex::Tensor again(t.release());
  CHECK(!t && again && cortex_tensor_rows(again.handle()) == ROWS);
  again.close();
  again.close();
  CHECK(!again);
  THROWS(InvalidArgument, "tensor is NULL", again.matmul(x));
  static_assert(!std::is_copy_constructible_v<cortex::Tensor>);
  static_assert(std::is_nothrow_move_constructible_v<cortex::Tensor>);
  static_assert(std::is_nothrow_move_assignable_v<cortex::Tensor>);
  static_assert(sizeof(cortex::Tensor) == sizeof(void *));
}

int main() {
  properties();
  decoding();
  products();
  views();
  specs();
  convolutions();
  moved();
  return report();
}
