// Errors: thrown, or returned in a Result by the `try_` form of the same function.

#ifndef CORTEX_ERROR_HPP
#define CORTEX_ERROR_HPP

#include <cortex/version.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace cortex {
CORTEX_HPP_MODE {

/// What a program may branch on. Further values may come; treat one that you do not know as
/// a failure.
enum class ErrorKind : cortex_status {
  /// No error: the kind of a Result that holds a value.
  Ok = CORTEX_OK,
  /// An argument, spec, shape or dtype is wrong; the message names it.
  InvalidArgument = CORTEX_INVALID_ARGUMENT,
  /// Valid, but not something that this build or version can do.
  Unsupported = CORTEX_UNSUPPORTED,
  /// A file is damaged or is not what it claims to be.
  Corrupt = CORTEX_CORRUPT,
  /// A file, or a shape, asks for more than the limits allow.
  LimitExceeded = CORTEX_LIMIT_EXCEEDED,
  /// The operating system refused a read, write, map or rename.
  Io = CORTEX_IO,
  /// Memory could not be had.
  OutOfMemory = CORTEX_OUT_OF_MEMORY,
  /// The progress callback asked to stop.
  Cancelled = CORTEX_CANCELLED,
  /// A bug in Cortex.
  Internal = CORTEX_INTERNAL,
};

/// The name of a kind: "ok", "invalid_argument", "unsupported", "corrupt", "limit_exceeded",
/// "io", "out_of_memory", "cancelled", "internal"; "unknown" for any other. Lives for ever.
inline std::string_view error_kind_name(ErrorKind kind) noexcept {
  return cortex_status_name(static_cast<cortex_status>(kind));
}

template <class T>
class Result;

/// What went wrong, and where. Copies share their text.
class CORTEX_HPP_VISIBLE Error : public std::exception {
 public:
  /// An error of the caller's own, to return or throw where Cortex's are expected.
  Error(ErrorKind kind, std::string message)
      : info_(std::make_shared<const Info>(Info{kind, std::move(message), {}, {}})) {}

  /// Takes over what a function of the C interface left behind: `error` is freed. It may be
  /// null, as it is when there was no memory for it; then only the status is known.
  Error(cortex_status status, cortex_error *error) {
    const std::unique_ptr<cortex_error, void (*)(cortex_error *)> owner(error, cortex_error_free);
    const char *message = cortex_error_message(error);
    const char *tensor = cortex_error_tensor(error);
    const std::int64_t offset = cortex_error_offset(error);
    Info info{static_cast<ErrorKind>(status), message ? message : cortex_status_name(status), {}, {}};
    if (tensor) info.tensor = tensor;
    if (offset >= 0) info.offset = static_cast<std::uint64_t>(offset);
    info_ = std::make_shared<const Info>(std::move(info));
  }

  /// What a program may branch on.
  ErrorKind kind() const noexcept { return info_ ? info_->kind : ErrorKind::Ok; }

  /// The name of the kind, such as "invalid_argument".
  std::string_view kind_name() const noexcept { return error_kind_name(kind()); }

  /// The whole message for people, in English, without a line end. Tensor and offset, where
  /// known, are part of it. Lives as long as this error or a copy of it.
  const char *what() const noexcept override { return info_ ? info_->message.c_str() : ""; }

  /// The same message.
  std::string_view message() const noexcept { return what(); }

  /// The name of the tensor in question, if one is known. Lives as long as the message.
  std::optional<std::string_view> tensor() const noexcept {
    if (!info_ || !info_->tensor) return std::nullopt;
    return std::string_view(*info_->tensor);
  }

  /// The offset in the file, in bytes, of what is wrong, if it is known.
  std::optional<std::uint64_t> offset() const noexcept {
    return info_ ? info_->offset : std::nullopt;
  }

 private:
  struct Info {
    ErrorKind kind;
    std::string message;
    std::optional<std::string> tensor;
    std::optional<std::uint64_t> offset;
  };

  template <class T>
  friend class Result;
  /// No error.
  Error() = default;

  std::shared_ptr<const Info> info_;
};

namespace detail {

/// Throws the error, or ends the program with its message where there are no exceptions.
[[noreturn]] inline void raise(const Error &error) {
#if CORTEX_HPP_EXCEPTIONS
  throw error;
#else
  std::fprintf(stderr, "cortex: %s\n", error.what());
  std::abort();
#endif
}

}  // namespace detail

/// The value of a function, or its error: what the `try_` forms return. A small cousin of
/// C++23's std::expected.
template <class T>
class [[nodiscard]] Result {
 public:
  /// A value.
  Result(T value) : value_(std::move(value)) {}

  /// An error.
  Result(Error error) : error_(std::move(error)) {}

  /// Whether there is a value.
  bool ok() const noexcept { return value_.has_value(); }

  /// Whether there is a value.
  explicit operator bool() const noexcept { return ok(); }

  /// The value. Throws the error if there is none; without exceptions, ends the program.
  T &value() & {
    check();
    return *value_;
  }

  /// The value. Throws the error if there is none; without exceptions, ends the program.
  const T &value() const & {
    check();
    return *value_;
  }

  /// The value, to be moved from. Throws the error if there is none; without exceptions, ends
  /// the program.
  T value() && {
    check();
    return std::move(*value_);
  }

  /// As value().
  T &operator*() & { return value(); }

  /// As value().
  const T &operator*() const & { return value(); }

  /// As value().
  T operator*() && { return std::move(*this).value(); }

  /// A member of the value, which is as in value().
  T *operator->() { return &value(); }

  /// A member of the value, which is as in value().
  const T *operator->() const { return &value(); }

  /// The error; one of the kind Ok, without a message, if there is a value.
  const Error &error() const noexcept { return error_; }

 private:
  void check() const {
    if (!value_) detail::raise(error_);
  }

  std::optional<T> value_;
  Error error_;
};

/// Success, or an error.
template <>
class [[nodiscard]] Result<void> {
 public:
  /// Success.
  Result() = default;

  /// An error.
  Result(Error error) : error_(std::move(error)) {}

  /// Whether it succeeded.
  bool ok() const noexcept { return !error_.info_; }

  /// Whether it succeeded.
  explicit operator bool() const noexcept { return ok(); }

  /// Throws the error if there is one; without exceptions, ends the program.
  void value() const {
    if (!ok()) detail::raise(error_);
  }

  /// The error; one of the kind Ok, without a message, if there is none.
  const Error &error() const noexcept { return error_; }

 private:
  Error error_;
};

namespace detail {

/// Calls a function of the C interface: `function(err)` with a place for its error.
template <class Function>
Result<void> call(Function &&function) {
  cortex_error *err = nullptr;
  const cortex_status status = std::forward<Function>(function)(&err);
  if (status != CORTEX_OK) return Error(status, err);
  return {};
}

/// As `call`, for a function that makes a T out of what the C function filled in.
template <class T, class Function, class Make>
Result<T> call(Function &&function, Make &&make) {
  cortex_error *err = nullptr;
  const cortex_status status = std::forward<Function>(function)(&err);
  if (status != CORTEX_OK) return Error(status, err);
  return std::forward<Make>(make)();
}

/// A text for C, which ends where the first NUL stands. One that holds a NUL is refused; it
/// would mean something else there.
class Text {
 public:
  Text(std::string_view text, const char *name) : text_(text) {
    const std::size_t nul = text.find('\0');
    if (nul != std::string_view::npos) {
      bad_ = Error(ErrorKind::InvalidArgument,
                   std::string(name) + " holds a NUL at byte " + std::to_string(nul));
    }
  }

  Result<void> check() const { return bad_ ? Result<void>(*bad_) : Result<void>(); }
  const char *c_str() const noexcept { return text_.c_str(); }

 private:
  std::string text_;
  std::optional<Error> bad_;
};

/// As Text, where the text may be absent: null for C.
class OptionalText {
 public:
  OptionalText(std::optional<std::string_view> text, const char *name) {
    if (text) text_.emplace(*text, name);
  }

  Result<void> check() const { return text_ ? text_->check() : Result<void>(); }
  const char *c_str() const noexcept { return text_ ? text_->c_str() : nullptr; }

 private:
  std::optional<Text> text_;
};

/// A returned text; an empty view for null.
inline std::string_view view_of(const char *text) noexcept {
  return text ? std::string_view(text) : std::string_view();
}

inline std::optional<std::string_view> optional_view_of(const char *text) noexcept {
  if (!text) return std::nullopt;
  return std::string_view(text);
}

/// Takes over a text that the C interface gave away.
inline std::string owned(char *text) {
  const std::unique_ptr<char, void (*)(char *)> owner(text, cortex_string_free);
  return std::string(view_of(text));
}

/// `len` values to be filled in. Memory that cannot be had is an error, not an exception: how
/// much is asked for may stand in a file.
template <class T>
Result<std::vector<T>> make_vector(std::size_t len) {
  const auto refused = [len] {
    return Error(ErrorKind::OutOfMemory,
                 "no memory for " + std::to_string(len) + " elements of " +
                     std::to_string(sizeof(T)) + " bytes");
  };
#if CORTEX_HPP_EXCEPTIONS
  try {
    return std::vector<T>(len);
  } catch (const std::bad_alloc &) {
    return refused();
  } catch (const std::length_error &) {
    return refused();
  }
#else
  // std::vector would end the program: the same memory is asked for in a way that may fail.
  void *probe = len <= PTRDIFF_MAX / sizeof(T) ? ::operator new(len * sizeof(T), std::nothrow) : nullptr;
  if (!probe) return refused();
  ::operator delete(probe);
  return std::vector<T>(len);
#endif
}

/// `a · b`; nothing if that is no size.
inline std::optional<std::size_t> product(std::size_t a, std::size_t b) noexcept {
  if (b != 0 && a > SIZE_MAX / b) return std::nullopt;
  return a * b;
}

/// Frees what `T **` gave.
template <auto free>
struct Free {
  template <class T>
  void operator()(T *object) const noexcept {
    free(object);
  }
};

}  // namespace detail

}  // inline namespace
}  // namespace cortex

#endif
