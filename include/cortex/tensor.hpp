// Compressed tensors.

#ifndef CORTEX_TENSOR_HPP
#define CORTEX_TENSOR_HPP

#include <cortex/conv.hpp>
#include <cortex/error.hpp>
#include <cortex/matmul.hpp>
#include <cortex/view.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace cortex {
CORTEX_HPP_MODE {

/// A compressed tensor. Seen as a matrix it is W[rows, cols], row-major: `rows` is the first
/// dimension, `cols` the product of the others.
///
/// Const functions may be called from several threads at once. What moved elsewhere is empty:
/// its properties are 0, empty or NaN, and any other call is an InvalidArgument that says so.
class Tensor {
 public:
  /// An empty one, to be assigned to.
  Tensor() noexcept = default;

  /// Takes over a tensor of the C interface.
  explicit Tensor(cortex_tensor *tensor) noexcept : tensor_(tensor) {}

  /// Compresses a dense tensor of any dtype and strides as `spec` says, on all cores. A spec is
  /// followed to the letter; without one the library takes its default.
  ///
  /// InvalidArgument: a bad spec (the message names the column), or a value that is not finite
  /// under a lossy spec (it names the index).
  static Tensor compress(const View &view, std::optional<std::string_view> spec = std::nullopt) {
    return try_compress(view, spec).value();
  }

  /// As compress.
  static Result<Tensor> try_compress(const View &view,
                                     std::optional<std::string_view> spec = std::nullopt) {
    const detail::OptionalText c_spec(spec, "spec");
    if (auto checked = c_spec.check(); !checked) return checked.error();
    if (auto checked = view.check("view"); !checked) return checked.error();
    const cortex_view c_view = view.c_view();
    cortex_tensor *out = nullptr;
    return detail::call<Tensor>(
        [&](cortex_error **err) { return cortex_tensor_compress(&c_view, c_spec.c_str(), &out, err); },
        [&] { return Tensor(out); });
  }

  /// A second handle on the same tensor: cheap, nothing is copied.
  Tensor clone() const { return try_clone().value(); }

  /// As clone.
  Result<Tensor> try_clone() const {
    cortex_tensor *out = nullptr;
    return detail::call<Tensor>(
        [&](cortex_error **err) { return cortex_tensor_clone(handle(), &out, err); },
        [&] { return Tensor(out); });
  }

  /// The name under which it stands in its archive; nothing if it is from none. Lives as long
  /// as this handle.
  std::optional<std::string_view> name() const noexcept {
    return detail::optional_view_of(cortex_tensor_name(handle()));
  }

  /// The canonical spec that it was stored with; compressing the same dense tensor with it
  /// gives the same bytes. Lives as long as this handle.
  std::string_view spec() const noexcept { return detail::view_of(cortex_tensor_spec(handle())); }

  /// The element type that it decodes to.
  DType dtype() const noexcept { return static_cast<DType>(cortex_tensor_dtype(handle())); }

  /// The dimensions, outermost first, in elements; none for a scalar. Lives as long as this
  /// handle.
  Span<const std::size_t> shape() const noexcept {
    return {cortex_tensor_shape(handle()), cortex_tensor_ndim(handle())};
  }

  /// Rows as a matrix: the first dimension, 1 for a scalar.
  std::size_t rows() const noexcept { return cortex_tensor_rows(handle()); }

  /// Columns as a matrix: the product of all dimensions but the first.
  std::size_t cols() const noexcept { return cortex_tensor_cols(handle()); }

  /// Bytes of the dense tensor: what decompress writes.
  std::uint64_t raw_bytes() const noexcept { return cortex_tensor_raw_bytes(handle()); }

  /// Bytes that it takes in an archive, everything counted (codes, scales, masks, padding) but
  /// its entry in the index.
  std::uint64_t stored_bytes() const noexcept { return cortex_tensor_stored_bytes(handle()); }

  /// Stored bits per element; 0 for a tensor without elements.
  double bits_per_weight() const noexcept { return cortex_tensor_bits_per_weight(handle()); }

  /// ‖W − Ŵ‖ / ‖W‖ (Frobenius norm), measured when it was compressed. 0 when every bit came
  /// back; infinity for an all-zero tensor that did not.
  double relative_error() const noexcept { return cortex_tensor_relative_error(handle()); }

  /// max |w − ŵ|, measured when it was compressed.
  double max_abs_error() const noexcept { return cortex_tensor_max_abs_error(handle()); }

  /// Signal to quantisation noise, −20·log10(relative error), in dB; infinity when every bit
  /// came back.
  double sqnr_db() const noexcept { return cortex_tensor_sqnr_db(handle()); }

  /// Decodes the whole tensor to its dtype, row-major, on all cores. `out_bytes` must be
  /// raw_bytes(); `out` need not be aligned. Corrupt: its file is damaged; `out` may then hold
  /// part of the result.
  void decompress(void *out, std::size_t out_bytes) const {
    try_decompress(out, out_bytes).value();
  }

  /// As decompress.
  Result<void> try_decompress(void *out, std::size_t out_bytes) const {
    return detail::call([&](cortex_error **err) {
      return cortex_tensor_decompress(handle(), out, out_bytes, err);
    });
  }

  /// The whole tensor, decoded: the bytes of its elements, row-major.
  std::vector<std::byte> decompress() const { return try_decompress().value(); }

  /// As decompress.
  Result<std::vector<std::byte>> try_decompress() const {
    return decoded<std::byte>(raw_size(), [&](auto &out) {
      return try_decompress(out.data(), out.size());
    });
  }

  /// The whole tensor, decoded: its elements, row-major. InvalidArgument: T is not what dtype()
  /// says.
  template <class T>
  std::vector<T> decompress_as() const {
    return try_decompress_as<T>().value();
  }

  /// As decompress_as.
  template <class T>
  Result<std::vector<T>> try_decompress_as() const {
    if (auto checked = check_type<T>(); !checked) return checked.error();
    return decoded<T>(raw_size() / sizeof(T), [&](auto &out) {
      return try_decompress(out.data(), out.size() * sizeof(T));
    });
  }

  /// Decodes rows `start` to `start + count` to the tensor's dtype, row-major, on all cores.
  /// Only the parts of the file that hold them are read. `out_bytes` must be
  /// count · cols · the bytes of the dtype; `out` need not be aligned.
  void decode_rows(std::size_t start, std::size_t count, void *out, std::size_t out_bytes) const {
    try_decode_rows(start, count, out, out_bytes).value();
  }

  /// As decode_rows.
  Result<void> try_decode_rows(std::size_t start, std::size_t count, void *out,
                               std::size_t out_bytes) const {
    return detail::call([&](cortex_error **err) {
      return cortex_tensor_decode_rows(handle(), start, count, out, out_bytes, err);
    });
  }

  /// Rows `start` to `start + count`, decoded: the bytes of their elements, row-major.
  std::vector<std::byte> decode_rows(std::size_t start, std::size_t count) const {
    return try_decode_rows(start, count).value();
  }

  /// As decode_rows.
  Result<std::vector<std::byte>> try_decode_rows(std::size_t start, std::size_t count) const {
    return decoded<std::byte>(window(start, count) * dtype_bytes(dtype()), [&](auto &out) {
      return try_decode_rows(start, count, out.data(), out.size());
    });
  }

  /// Rows `start` to `start + count`, decoded: their elements, row-major. InvalidArgument: T is
  /// not what dtype() says.
  template <class T>
  std::vector<T> decode_rows_as(std::size_t start, std::size_t count) const {
    return try_decode_rows_as<T>(start, count).value();
  }

  /// As decode_rows_as.
  template <class T>
  Result<std::vector<T>> try_decode_rows_as(std::size_t start, std::size_t count) const {
    if (auto checked = check_type<T>(); !checked) return checked.error();
    return decoded<T>(window(start, count), [&](auto &out) {
      return try_decode_rows(start, count, out.data(), out.size() * sizeof(T));
    });
  }

  /// Decodes rows `start` to `start + count` to f32, whatever the dtype: out[count, cols],
  /// row-major. `out` must have count · cols elements.
  void decode_rows_f32(std::size_t start, std::size_t count, Span<float> out) const {
    try_decode_rows_f32(start, count, out).value();
  }

  /// As decode_rows_f32.
  Result<void> try_decode_rows_f32(std::size_t start, std::size_t count, Span<float> out) const {
    return detail::call([&](cortex_error **err) {
      return cortex_tensor_decode_rows_f32(handle(), start, count, out.data(), out.size(), err);
    });
  }

  /// Rows `start` to `start + count` as f32, whatever the dtype, row-major.
  std::vector<float> decode_rows_f32(std::size_t start, std::size_t count) const {
    return try_decode_rows_f32(start, count).value();
  }

  /// As decode_rows_f32.
  Result<std::vector<float>> try_decode_rows_f32(std::size_t start, std::size_t count) const {
    return decoded<float>(window(start, count), [&](auto &out) {
      return try_decode_rows_f32(start, count, Span<float>(out));
    });
  }

  /// y = x · Wᵀ, computed on the compressed weights: y[b, rows] = Σ x[b, cols] · W[rows, cols].
  ///
  /// `x` has any float dtype and strides, its last dimension is cols(), and the product of the
  /// others is the batch b (1 if there is none). f32 without gaps is used in place, anything
  /// else is converted to f32 first. `y` is row-major and must have b · rows() elements. `x` and
  /// `y` must not overlap. Sums are in f32. This class allocates nothing for it.
  void matmul(const View &x, Span<float> y, const MatmulOptions &options = {}) const {
    try_matmul(x, y, options).value();
  }

  /// As matmul.
  Result<void> try_matmul(const View &x, Span<float> y, const MatmulOptions &options = {}) const {
    return multiply(cortex_tensor_matmul, x, "x", y, options);
  }

  /// y = x · Wᵀ in memory of its own: y[b, rows].
  std::vector<float> matmul(const View &x, const MatmulOptions &options = {}) const {
    return try_matmul(x, options).value();
  }

  /// As matmul.
  Result<std::vector<float>> try_matmul(const View &x, const MatmulOptions &options = {}) const {
    return decoded<float>(batch_of(x, rows()), [&](auto &y) {
      return try_matmul(x, Span<float>(y), options);
    });
  }

  /// y = g · W, the product that gradients need: y[b, cols] = Σ g[b, rows] · W[rows, cols].
  ///
  /// As matmul, but the last dimension of `g` is rows() and `y` must have b · cols() elements.
  void matmul_t(const View &g, Span<float> y, const MatmulOptions &options = {}) const {
    try_matmul_t(g, y, options).value();
  }

  /// As matmul_t.
  Result<void> try_matmul_t(const View &g, Span<float> y, const MatmulOptions &options = {}) const {
    return multiply(cortex_tensor_matmul_t, g, "g", y, options);
  }

  /// y = g · W in memory of its own: y[b, cols].
  std::vector<float> matmul_t(const View &g, const MatmulOptions &options = {}) const {
    return try_matmul_t(g, options).value();
  }

  /// As matmul_t.
  Result<std::vector<float>> try_matmul_t(const View &g, const MatmulOptions &options = {}) const {
    return decoded<float>(batch_of(g, cols()), [&](auto &y) {
      return try_matmul_t(g, Span<float>(y), options);
    });
  }

  /// The shape of what conv makes of an x of the shape `x_shape`. InvalidArgument: the shapes
  /// do not fit each other, or the kernel is larger than the padded x.
  Shape conv_output_shape(const Shape &x_shape, const ConvOptions &options = {}) const {
    return try_conv_output_shape(x_shape, options).value();
  }

  /// As conv_output_shape.
  Result<Shape> try_conv_output_shape(const Shape &x_shape, const ConvOptions &options = {}) const {
    std::uint32_t computed = 0;
    cortex_matmul_options matmul;
    const cortex_conv_options c_options = detail::c_options(options, &matmul, &computed);
    Shape out;
    return detail::call<Shape>(
        [&](cortex_error **err) {
          return cortex_tensor_conv_output_shape(handle(), x_shape.data(), x_shape.count(), &c_options,
                                                 out.values_, err);
        },
        [&] {
          out.count_ = x_shape.count();
          return out;
        });
  }

  /// y = W ∗ x, computed on the compressed weights W[out, in / groups, width] or
  /// W[out, in / groups, height, width]. The kernel is not turned round.
  ///
  /// `x` has any float dtype and strides and the shape [batch, in, width], or [batch, in,
  /// height, width] for weights of four dimensions. `y` is row-major and must have as many
  /// elements as conv_output_shape says. `x` and `y` must not overlap. Sums are in f32.
  void conv(const View &x, Span<float> y, const ConvOptions &options = {}) const {
    try_conv(x, y, options).value();
  }

  /// As conv.
  Result<void> try_conv(const View &x, Span<float> y, const ConvOptions &options = {}) const {
    return convolve(x, "x", options, [&](auto *c_x, auto *c_options, auto **err) {
      return cortex_tensor_conv(handle(), c_x, c_options, y.data(), y.size(), err);
    });
  }

  /// y = W ∗ x in memory of its own, of the shape that conv_output_shape says.
  std::vector<float> conv(const View &x, const ConvOptions &options = {}) const {
    return try_conv(x, options).value();
  }

  /// As conv.
  Result<std::vector<float>> try_conv(const View &x, const ConvOptions &options = {}) const {
    const Result<Shape> shape = try_conv_output_shape(x.shape(), options);
    if (!shape) return shape.error();
    return decoded<float>(elements(*shape), [&](auto &y) {
      return try_conv(x, Span<float>(y), options);
    });
  }

  /// The gradient of a convolution with respect to x, a transposed convolution: what `g`, of
  /// the shape of y, makes of each element of an x of the shape `x_shape`.
  ///
  /// `g` has any float dtype and strides. `x_gradient` is row-major and must have as many
  /// elements as `x_shape` says. They must not overlap. Precision is always exact.
  void conv_t(const View &g, const Shape &x_shape, Span<float> x_gradient,
              const ConvOptions &options = {}) const {
    try_conv_t(g, x_shape, x_gradient, options).value();
  }

  /// As conv_t.
  Result<void> try_conv_t(const View &g, const Shape &x_shape, Span<float> x_gradient,
                          const ConvOptions &options = {}) const {
    return convolve(g, "g", options, [&](auto *c_g, auto *c_options, auto **err) {
      return cortex_tensor_conv_t(handle(), c_g, x_shape.data(), x_shape.count(), c_options,
                                  x_gradient.data(), x_gradient.size(), err);
    });
  }

  /// The gradient of a convolution with respect to x, in memory of its own.
  std::vector<float> conv_t(const View &g, const Shape &x_shape,
                            const ConvOptions &options = {}) const {
    return try_conv_t(g, x_shape, options).value();
  }

  /// As conv_t.
  Result<std::vector<float>> try_conv_t(const View &g, const Shape &x_shape,
                                        const ConvOptions &options = {}) const {
    return decoded<float>(elements(x_shape), [&](auto &x_gradient) {
      return try_conv_t(g, x_shape, Span<float>(x_gradient), options);
    });
  }

  /// Reads every stored chunk of the tensor and checks it against its checksum. Corrupt: a
  /// chunk is damaged; the error names the tensor and the offset.
  void verify() const { try_verify().value(); }

  /// As verify.
  Result<void> try_verify() const {
    return detail::call([&](cortex_error **err) { return cortex_tensor_verify(handle(), err); });
  }

  /// Whether there is a tensor: not made empty, and not moved from.
  explicit operator bool() const noexcept { return tensor_ != nullptr; }

  /// The tensor of the C interface, which stays this one's; null if there is none.
  cortex_tensor *handle() const noexcept { return tensor_.get(); }

  /// Gives the tensor of the C interface away, to be freed with cortex_tensor_free.
  cortex_tensor *release() noexcept { return tensor_.release(); }

  /// Frees the tensor. What it lent must not be used any more.
  void close() noexcept { tensor_.reset(); }

 private:
  /// A vector of `len` elements, filled in by `fill`.
  template <class T, class Fill>
  static Result<std::vector<T>> decoded(std::size_t len, Fill &&fill) {
    Result<std::vector<T>> out = detail::make_vector<T>(len);
    if (!out) return out;
    const Result<void> done = std::forward<Fill>(fill)(*out);
    if (!done) return done.error();
    return out;
  }

  template <class T>
  Result<void> check_type() const {
    static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no bytes to decode to");
    if (dtype_of<T>::value == dtype() || !*this) return {};
    return Error(ErrorKind::InvalidArgument, "the tensor is " + std::string(dtype_name(dtype())) +
                                                 ", not " +
                                                 std::string(dtype_name(dtype_of<T>::value)));
  }

  /// raw_bytes() as a size, which it always is on a machine that can hold the tensor.
  std::size_t raw_size() const noexcept {
    const std::uint64_t bytes = raw_bytes();
    return bytes <= SIZE_MAX ? static_cast<std::size_t>(bytes) : SIZE_MAX;
  }

  /// Elements of these rows; 0 for such as do not exist, which the library then refuses before
  /// memory is asked for.
  std::size_t window(std::size_t start, std::size_t count) const noexcept {
    const bool inside = start <= rows() && count <= rows() - start;
    return inside ? count * cols() : 0;
  }

  /// `across` for each of the batch; 0 for a batch that no memory could hold.
  static std::size_t batch_of(const View &x, std::size_t across) noexcept {
    std::optional<std::size_t> product = across;
    for (std::size_t i = 0; product && i + 1 < x.shape().size(); i++) {
      product = detail::product(*product, x.shape()[i]);
    }
    return product.value_or(0);
  }

  /// Elements of a shape; 0 for more than a memory could hold.
  static std::size_t elements(const Shape &shape) noexcept {
    std::optional<std::size_t> product = 1;
    for (std::size_t i = 0; product && i < shape.size(); i++) {
      product = detail::product(*product, shape[i]);
    }
    return product.value_or(0);
  }

  template <class Function>
  Result<void> multiply(Function *function, const View &x, const char *name, Span<float> y,
                        const MatmulOptions &options) const {
    if (!x.fits()) return x.check(name);
    std::uint32_t computed = 0;
    const cortex_view c_view = x.c_view();
    const cortex_matmul_options c_options = detail::c_options(options, &computed);
    cortex_error *err = nullptr;
    const cortex_status status = function(handle(), &c_view, &c_options, y.data(), y.size(), &err);
    if (status != CORTEX_OK) return Error(status, err);
    if (options.computed) *options.computed = static_cast<Precision>(computed);
    return {};
  }

  template <class Function>
  static Result<void> convolve(const View &x, const char *name, const ConvOptions &options,
                               Function &&function) {
    if (!x.fits()) return x.check(name);
    std::uint32_t computed = 0;
    cortex_matmul_options matmul;
    const cortex_view c_view = x.c_view();
    const cortex_conv_options c_options = detail::c_options(options, &matmul, &computed);
    cortex_error *err = nullptr;
    const cortex_status status = function(&c_view, &c_options, &err);
    if (status != CORTEX_OK) return Error(status, err);
    Precision *told = options.matmul.computed;
    if (told) *told = static_cast<Precision>(computed);
    return {};
  }

  std::unique_ptr<cortex_tensor, detail::Free<cortex_tensor_free>> tensor_;
};

}  // inline namespace
}  // namespace cortex

#endif
