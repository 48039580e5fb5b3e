// Element types.

#ifndef CORTEX_DTYPE_HPP
#define CORTEX_DTYPE_HPP

#include <cortex/version.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#if defined(__has_include)
#if __has_include(<stdfloat>) && __cplusplus > 202002L
#include <stdfloat>
#endif
#endif

namespace cortex {
CORTEX_HPP_MODE {

/// The type of an element. Elements of more than one byte are little-endian.
enum class DType : std::uint32_t {
  /// IEEE 754 double.
  F64 = CORTEX_DTYPE_F64,
  /// IEEE 754 single.
  F32 = CORTEX_DTYPE_F32,
  /// IEEE 754 half.
  F16 = CORTEX_DTYPE_F16,
  /// The upper half of a single.
  BF16 = CORTEX_DTYPE_BF16,
  /// Signed, 8 bytes.
  I64 = CORTEX_DTYPE_I64,
  /// Signed, 4 bytes.
  I32 = CORTEX_DTYPE_I32,
  /// Signed, 2 bytes.
  I16 = CORTEX_DTYPE_I16,
  /// Signed, 1 byte.
  I8 = CORTEX_DTYPE_I8,
  /// Unsigned, 8 bytes.
  U64 = CORTEX_DTYPE_U64,
  /// Unsigned, 4 bytes.
  U32 = CORTEX_DTYPE_U32,
  /// Unsigned, 2 bytes.
  U16 = CORTEX_DTYPE_U16,
  /// Unsigned, 1 byte.
  U8 = CORTEX_DTYPE_U8,
  /// One byte, 0 or 1.
  Bool = CORTEX_DTYPE_BOOL,
};

/// The name of a dtype, "f32" or "bool"; empty for a number that is none. Lives for ever.
inline std::string_view dtype_name(DType dtype) noexcept {
  const char *name = cortex_dtype_name(static_cast<std::uint32_t>(dtype));
  return name ? std::string_view(name) : std::string_view();
}

/// Bytes of one element; 0 for a number that is no dtype.
inline std::size_t dtype_bytes(DType dtype) noexcept {
  return cortex_dtype_bytes(static_cast<std::uint32_t>(dtype));
}

namespace detail {

template <class T>
constexpr bool is_number =
    std::is_floating_point_v<T> ||
    (std::is_integral_v<T> && !std::is_same_v<T, char> && !std::is_same_v<T, wchar_t> &&
     !std::is_same_v<T, char16_t> && !std::is_same_v<T, char32_t>);

/// The dtype of one of C++'s own numbers; 0 for none.
template <class T>
constexpr std::uint32_t number_of() noexcept {
  if constexpr (!is_number<T>) {
    return 0;
  } else if constexpr (std::is_same_v<T, bool>) {
    return sizeof(bool) == 1 ? CORTEX_DTYPE_BOOL : 0;
  } else if constexpr (std::is_same_v<T, double>) {
    return CORTEX_DTYPE_F64;
  } else if constexpr (std::is_same_v<T, float>) {
    return CORTEX_DTYPE_F32;
#if defined(__STDCPP_FLOAT64_T__)
  } else if constexpr (std::is_same_v<T, std::float64_t>) {
    return CORTEX_DTYPE_F64;
#endif
#if defined(__STDCPP_FLOAT32_T__)
  } else if constexpr (std::is_same_v<T, std::float32_t>) {
    return CORTEX_DTYPE_F32;
#endif
#if defined(__STDCPP_FLOAT16_T__)
  } else if constexpr (std::is_same_v<T, std::float16_t>) {
    return CORTEX_DTYPE_F16;
#endif
#if defined(__STDCPP_BFLOAT16_T__)
  } else if constexpr (std::is_same_v<T, std::bfloat16_t>) {
    return CORTEX_DTYPE_BF16;
#endif
  } else if constexpr (std::is_floating_point_v<T>) {
    return 0;
  } else {
    constexpr bool is_signed = std::is_signed_v<T>;
    switch (sizeof(T)) {
      case 8: return is_signed ? CORTEX_DTYPE_I64 : CORTEX_DTYPE_U64;
      case 4: return is_signed ? CORTEX_DTYPE_I32 : CORTEX_DTYPE_U32;
      case 2: return is_signed ? CORTEX_DTYPE_I16 : CORTEX_DTYPE_U16;
      case 1: return is_signed ? CORTEX_DTYPE_I8 : CORTEX_DTYPE_U8;
      default: return 0;
    }
  }
}

}  // namespace detail

/// `dtype_of<T>::value` is the DType of a T. Known are the numbers of C++; specialise it for
/// a type of your own whose bytes are those of a dtype, such as a half:
///
///     template <> struct cortex::dtype_of<my::half> {
///       static constexpr cortex::DType value = cortex::DType::F16;
///     };
template <class T, class = void>
struct dtype_of {};

template <class T>
struct dtype_of<T, std::enable_if_t<detail::number_of<T>() != 0>> {
  static constexpr DType value = static_cast<DType>(detail::number_of<T>());
};

namespace detail {

template <class T, class = void>
constexpr bool has_dtype = false;
template <class T>
constexpr bool has_dtype<T, std::void_t<decltype(dtype_of<T>::value)>> = true;

}  // namespace detail

}  // inline namespace
}  // namespace cortex

#endif
