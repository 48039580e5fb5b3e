// How a convolution is computed.

#ifndef CORTEX_CONV_HPP
#define CORTEX_CONV_HPP

#include <cortex/matmul.hpp>

#include <cstddef>
#include <cstdint>

namespace cortex {
CORTEX_HPP_MODE {

/// How a convolution is computed. As it stands: one sample from one output to the next, no
/// padding, one group. Weights of three dimensions have no height: what belongs to it stays 0.
///
///     cortex::ConvOptions same;      // 3×3, and y is as large as x
///     same.padding_top = same.padding_bottom = same.padding_left = same.padding_right = 1;
struct ConvOptions {
  /// Samples from one output to the one below it; 0 for 1.
  std::size_t stride_height = 0;
  /// Samples from one output to the next; 0 for 1.
  std::size_t stride_width = 0;
  /// Rows of zeros above x.
  std::size_t padding_top = 0;
  /// Rows of zeros below x.
  std::size_t padding_bottom = 0;
  /// Zeros before each row of x.
  std::size_t padding_left = 0;
  /// Zeros after each row of x.
  std::size_t padding_right = 0;
  /// Samples from one tap to the one below it; 0 for 1.
  std::size_t dilation_height = 0;
  /// Samples from one tap to the next; 0 for 1.
  std::size_t dilation_width = 0;
  /// Parts of the channels that are convolved apart; 0 for 1.
  std::size_t groups = 0;
  /// Threads, memory and precision. The memory is for decoded weights, patches, padded samples
  /// and sums alike.
  MatmulOptions matmul;
};

namespace detail {

/// The options of the C interface; `matmul` and `computed` live as long as they are used.
inline cortex_conv_options c_options(const ConvOptions &options, cortex_matmul_options *matmul,
                                     std::uint32_t *computed) noexcept {
  *matmul = c_options(options.matmul, computed);
  cortex_conv_options out{};
  out.struct_size = sizeof out;
  out.stride_height = options.stride_height;
  out.stride_width = options.stride_width;
  out.padding_top = options.padding_top;
  out.padding_bottom = options.padding_bottom;
  out.padding_left = options.padding_left;
  out.padding_right = options.padding_right;
  out.dilation_height = options.dilation_height;
  out.dilation_width = options.dilation_width;
  out.groups = options.groups;
  out.matmul = matmul;
  return out;
}

}  // namespace detail

}  // inline namespace
}  // namespace cortex

#endif
