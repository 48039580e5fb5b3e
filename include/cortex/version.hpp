// Versions, and what the other headers of this folder share.

#ifndef CORTEX_VERSION_HPP
#define CORTEX_VERSION_HPP

#include <cortex.h>

#include <cstdint>
#include <string_view>

#if __cplusplus < 201703L && (!defined(_MSVC_LANG) || _MSVC_LANG < 201703L)
#error "cortex.hpp needs C++17; C and older C++ use cortex.h"
#endif

// With -fno-exceptions, what would throw ends the program instead. Such code is other code:
// it has names of its own, so that the linker cannot mix up the two in one program.
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define CORTEX_HPP_EXCEPTIONS 1
#define CORTEX_HPP_MODE inline namespace with_exceptions
#else
#define CORTEX_HPP_EXCEPTIONS 0
#define CORTEX_HPP_MODE inline namespace without_exceptions
#endif

// A type that is thrown keeps its identity from one shared library to the next, even where
// names are hidden by default.
#if defined(__GNUC__)
#define CORTEX_HPP_VISIBLE __attribute__((visibility("default")))
#else
#define CORTEX_HPP_VISIBLE
#endif

namespace cortex {
CORTEX_HPP_MODE {

/// The version of the library that is running, such as "1.2.3". Compare
/// CORTEX_VERSION_STRING, the version of the headers.
inline std::string_view version() noexcept { return cortex_version(); }

/// The ABI of the library that is running; CORTEX_ABI_VERSION is that of the headers.
inline std::uint32_t abi_version() noexcept { return cortex_abi_version(); }

}  // inline namespace
}  // namespace cortex

#endif
