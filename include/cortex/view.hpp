// Dense data of the caller, lent for the length of a call.

#ifndef CORTEX_VIEW_HPP
#define CORTEX_VIEW_HPP

#include <cortex/dtype.hpp>
#include <cortex/error.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <string>
#include <type_traits>

#if defined(__has_include)
#if __has_include(<version>)
#include <version>
#endif
#endif
#if defined(__cpp_lib_span)
#include <span>
#endif

namespace cortex {
CORTEX_HPP_MODE {

namespace detail {

/// The type of the elements of a container whose elements lie side by side, const where it
/// does not let them be changed.
template <class C>
using element_t = std::remove_pointer_t<decltype(std::data(std::declval<C &>()))>;

template <class C, class = void>
constexpr bool is_container = false;
template <class C>
constexpr bool is_container<C, std::void_t<element_t<C>, decltype(std::size(std::declval<C &>()))>> =
    std::is_object_v<element_t<C>>;

/// Whether `C` holds elements that a Span<T> can show.
template <class C, class T, class = void>
constexpr bool shows = false;
template <class C, class T>
constexpr bool shows<C, T, std::enable_if_t<is_container<C>>> =
    std::is_convertible_v<element_t<C> (*)[], T (*)[]>;

}  // namespace detail

#if defined(__cpp_lib_span)
/// Elements that lie side by side in somebody else's memory: std::span.
template <class T>
using Span = std::span<T>;
static_assert(sizeof(Span<int>) == 2 * sizeof(void *), "as below");
#else
/// Elements that lie side by side in somebody else's memory: what std::span is from C++20 on,
/// where it takes this one's place.
template <class T>
class Span {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using iterator = T *;

  /// No elements.
  constexpr Span() noexcept = default;

  /// `size` elements from `data` on.
  constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}

  /// The elements of a container, such as std::vector, std::array, or an array.
  template <class C, class = std::enable_if_t<detail::shows<C, T> &&
                                              !std::is_same_v<std::remove_cv_t<C>, Span>>>
  constexpr Span(C &container) noexcept : Span(std::data(container), std::size(container)) {}

  /// The elements of a container that is only read.
  template <class C, class = std::enable_if_t<detail::shows<const C, T> &&
                                              !std::is_same_v<std::remove_cv_t<C>, Span>>>
  constexpr Span(const C &container) noexcept : Span(std::data(container), std::size(container)) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T &operator[](std::size_t index) const noexcept { return data_[index]; }
  constexpr T &front() const noexcept { return data_[0]; }
  constexpr T &back() const noexcept { return data_[size_ - 1]; }
  constexpr iterator begin() const noexcept { return data_; }
  constexpr iterator end() const noexcept { return data_ + size_; }

  /// The first `count` elements.
  constexpr Span first(std::size_t count) const noexcept { return {data_, count}; }

  /// The elements from `offset` on.
  constexpr Span subspan(std::size_t offset) const noexcept {
    return {data_ + offset, size_ - offset};
  }

 private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
};
#endif

/// A number for each of a few dimensions, outermost first, held in place: nothing is
/// allocated. Made of `{2, 3}` or of any container of T.
template <class T>
class Dims {
 public:
  using value_type = T;
  using iterator = const T *;

  /// None: the shape of a scalar.
  Dims() noexcept : count_(0) {}

  /// The same ones.
  Dims(const Dims &other) noexcept { assign(other.values_, other.count_); }
  Dims &operator=(const Dims &other) noexcept {
    if (this != &other) assign(other.values_, other.count_);
    return *this;
  }

  /// These.
  Dims(std::initializer_list<T> values) noexcept { assign(values.begin(), values.size()); }

  /// Those of a container, such as std::vector, std::array or Span.
  template <class C, class = std::enable_if_t<detail::shows<const C, const T> &&
                                              !std::is_same_v<C, Dims>>>
  Dims(const C &values) noexcept {
    assign(std::data(values), std::size(values));
  }

  const T *data() const noexcept { return values_; }

  /// How many there are. Cortex computes with at most 16; of more, their number alone is kept,
  /// so that they are refused with a message, and this is 0.
  std::size_t size() const noexcept { return count_ <= room ? count_ : 0; }

  bool empty() const noexcept { return size() == 0; }
  const T &operator[](std::size_t index) const noexcept { return values_[index]; }
  iterator begin() const noexcept { return values_; }
  iterator end() const noexcept { return values_ + size(); }

  /// How many were given, kept or not.
  std::size_t count() const noexcept { return count_; }

  friend bool operator==(const Dims &a, const Dims &b) noexcept {
    if (a.count_ != b.count_) return false;
    for (std::size_t i = 0; i < a.size(); i++) {
      if (a[i] != b[i]) return false;
    }
    return true;
  }
  friend bool operator!=(const Dims &a, const Dims &b) noexcept { return !(a == b); }

 private:
  friend class Tensor;
  static constexpr std::size_t room = 16;

  void assign(const T *values, std::size_t count) noexcept {
    count_ = count;
    for (std::size_t i = 0; i < size(); i++) values_[i] = values[i];
  }

  // Only the first size() have a value: a view is made for every product.
  T values_[room];
  std::size_t count_;
};

/// Dimensions of a tensor, in elements.
using Shape = Dims<std::size_t>;

/// Distances from one element to the next along each dimension, in elements; they may be 0 or
/// negative.
using Strides = Dims<std::ptrdiff_t>;

/// A dense tensor in the caller's memory, which must live as long as the view is used. It need
/// not be aligned, unless it is seen through a pointer or container of its own type.
///
///     std::vector<float> x(2 * 64);
///     cortex::View a(x);                             // [128]
///     cortex::View b(x, {2, 64});                    // that there are 128 is checked
///     cortex::View c(x.data(), {64, 2}, {1, 64});    // transposed; nothing can be checked
///     cortex::View d(halves, cortex::DType::BF16, {2, 64});
class View {
 public:
  /// A tensor at `data`, row-major without gaps, or with these strides. All elements of
  /// `shape` must be there.
  View(const void *data, DType dtype, const Shape &shape) noexcept
      : View(data, dtype, shape, nullptr, std::nullopt) {}

  /// As above, with a distance for each dimension.
  View(const void *data, DType dtype, const Shape &shape, const Strides &strides) noexcept
      : View(data, dtype, shape, &strides, std::nullopt) {}

  /// As above, with the dtype of what `data` points to.
  template <class T, class = std::enable_if_t<std::is_pointer_v<T> &&
                                              detail::has_dtype<std::remove_cv_t<std::remove_pointer_t<T>>>>>
  View(const T &data, const Shape &shape) noexcept
      : View(data, dtype_to<std::remove_pointer_t<T>>, shape, nullptr, std::nullopt) {}

  /// As above, with a distance for each dimension.
  template <class T, class = std::enable_if_t<std::is_pointer_v<T> &&
                                              detail::has_dtype<std::remove_cv_t<std::remove_pointer_t<T>>>>>
  View(const T &data, const Shape &shape, const Strides &strides) noexcept
      : View(data, dtype_to<std::remove_pointer_t<T>>, shape, &strides, std::nullopt) {}

  /// The elements of a container, such as std::vector, std::array or Span, as a vector.
  template <class C, class = std::enable_if_t<detail::is_container<const C>>,
            class = std::enable_if_t<detail::has_dtype<std::remove_cv_t<detail::element_t<const C>>>>>
  View(const C &container) noexcept : View(container, {std::size(container)}) {}

  /// The elements of a container as a tensor of `shape`, row-major. A call that is given a
  /// view of other than as many elements as the shape has refuses it as InvalidArgument.
  template <class C, class = std::enable_if_t<detail::is_container<const C>>,
            class = std::enable_if_t<detail::has_dtype<std::remove_cv_t<detail::element_t<const C>>>>>
  View(const C &container, const Shape &shape) noexcept
      : View(std::data(container), dtype_to<detail::element_t<const C>>, shape, nullptr,
             std::size(container)) {}

  /// The type of an element.
  DType dtype() const noexcept { return dtype_; }

  /// The dimensions, outermost first, in elements.
  const Shape &shape() const noexcept { return shape_; }

  /// The view of the C interface. Lives as long as this one, which must not move meanwhile.
  cortex_view c_view() const noexcept {
    const std::size_t ndim = shape_.count() < UINT32_MAX ? shape_.count() : UINT32_MAX;
    return {data_, static_cast<std::uint32_t>(dtype_), static_cast<std::uint32_t>(ndim),
            shape_.data(), strided_ ? strides_.data() : nullptr};
  }

  /// What C cannot see: whether the elements of the shape are there, and a distance for each
  /// dimension.
  bool fits() const noexcept {
    if (strided_ && strides_.count() != shape_.count()) return false;
    return !len_ || shape_.count() != shape_.size() || elements() == len_;
  }

  /// Whether it fits; an InvalidArgument if not, whose message calls the view `name`.
  Result<void> check(const char *name) const {
    if (fits()) return {};
    return misfit(name);
  }

 private:
  template <class T>
  static constexpr DType dtype_to = dtype_of<std::remove_cv_t<T>>::value;

  View(const void *data, DType dtype, const Shape &shape, const Strides *strides,
       std::optional<std::size_t> len) noexcept
      : data_(data), dtype_(dtype), strided_(strides), shape_(shape), len_(len) {
    if (strides) strides_ = *strides;
  }

  std::optional<std::size_t> elements() const noexcept {
    std::optional<std::size_t> product = 1;
    for (const std::size_t dim : shape_) {
      if (dim == 0) return 0;
      if (product) product = detail::product(*product, dim);
    }
    return product;
  }

  Error misfit(const char *name) const {
    std::string text = std::string(name) + " has ";
    if (strided_) {
      text += std::to_string(strides_.count()) + " strides for " + std::to_string(shape_.count()) +
              " dimensions";
      return Error(ErrorKind::InvalidArgument, text);
    }
    text += std::to_string(*len_) + (*len_ == 1 ? " element" : " elements");
    text += ", but its shape is [";
    for (std::size_t i = 0; i < shape_.size(); i++) {
      if (i) text += ", ";
      text += std::to_string(shape_[i]);
    }
    return Error(ErrorKind::InvalidArgument, text + "]");
  }

  const void *data_;
  DType dtype_;
  /// Whether there are strides. Such a view is of a pointer, and has no `len_`.
  bool strided_;
  Shape shape_;
  Strides strides_;
  /// How many elements there are, where that is known.
  std::optional<std::size_t> len_;
};

}  // inline namespace
}  // namespace cortex

#endif
