// How a product is computed.

#ifndef CORTEX_MATMUL_HPP
#define CORTEX_MATMUL_HPP

#include <cortex/version.hpp>

#include <cstddef>
#include <cstdint>

namespace cortex {
CORTEX_HPP_MODE {

/// How activations enter a product.
enum class Precision : std::uint32_t {
  /// They are rounded where what that adds lies at least 10 dB below the tensor's own stored
  /// error.
  Auto = CORTEX_PRECISION_AUTO,
  /// They enter as f32: what a product adds is rounding in f32.
  Exact = CORTEX_PRECISION_EXACT,
  /// They are rounded where the form has faster loops for that: to int8 in groups of columns
  /// for quantised weights, an error of about -40 dB in the result.
  Fast = CORTEX_PRECISION_FAST,
};

/// How a product is computed. As it stands it means the library's defaults.
struct MatmulOptions {
  /// Threads to use at most; 0 for all cores. The result does not depend on it.
  std::size_t threads = 0;
  /// Memory for decoded windows of weights, all threads together, in bytes; 0 for the default.
  std::size_t scratch_bytes = 0;
  /// How activations enter.
  Precision precision = Precision::Auto;
  /// Where Exact or Fast is written, if the product succeeds: whether activations were
  /// rounded. May be null.
  Precision *computed = nullptr;
};

namespace detail {

/// The options of the C interface; `computed` lives as long as they are used.
inline cortex_matmul_options c_options(const MatmulOptions &options, std::uint32_t *computed) noexcept {
  cortex_matmul_options out{};
  out.struct_size = sizeof out;
  out.threads = options.threads;
  out.scratch_bytes = options.scratch_bytes;
  out.precision = static_cast<std::uint32_t>(options.precision);
  out.computed = options.computed ? computed : nullptr;
  return out;
}

}  // namespace detail

}  // inline namespace
}  // namespace cortex

#endif
