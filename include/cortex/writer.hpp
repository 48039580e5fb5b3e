// Writing an archive, a tensor at a time, in bounded memory.

#ifndef CORTEX_WRITER_HPP
#define CORTEX_WRITER_HPP

#include <cortex/error.hpp>
#include <cortex/tensor.hpp>

#include <cstdint>
#include <memory>
#include <string_view>

namespace cortex {
CORTEX_HPP_MODE {

/// A .cai file in the making. The file appears under its name when it is finished, whole; until
/// then, and for ever if the writer is destroyed or the program is killed, what stood there
/// stays.
class Writer {
 public:
  /// An empty one, to be assigned to.
  Writer() noexcept = default;

  /// Takes over a writer of the C interface.
  explicit Writer(cortex_writer *writer) noexcept : writer_(writer) {}

  /// Starts an archive that will be `path`, which is UTF-8. Its folder must exist and be
  /// writable: the file is written beside its place and renamed.
  static Writer create(std::string_view path) { return try_create(path).value(); }

  /// As create.
  static Result<Writer> try_create(std::string_view path) {
    const detail::Text c_path(path, "path");
    if (auto checked = c_path.check(); !checked) return checked.error();
    cortex_writer *out = nullptr;
    return detail::call<Writer>(
        [&](cortex_error **err) { return cortex_writer_create(c_path.c_str(), &out, err); },
        [&] { return Writer(out); });
  }

  /// Writes a tensor under `name`, which no other tensor or alias of this file may have. After
  /// any error but InvalidArgument and LimitExceeded the writer can only be destroyed.
  void add(std::string_view name, const Tensor &tensor) { try_add(name, tensor).value(); }

  /// As add.
  Result<void> try_add(std::string_view name, const Tensor &tensor) {
    const detail::Text c_name(name, "name");
    if (auto checked = c_name.check(); !checked) return checked;
    return detail::call([&](cortex_error **err) {
      return cortex_writer_add(handle(), c_name.c_str(), tensor.handle(), err);
    });
  }

  /// Makes `alias` another name of the tensor `target`, which was added before.
  void alias(std::string_view alias, std::string_view target) { try_alias(alias, target).value(); }

  /// As alias.
  Result<void> try_alias(std::string_view alias, std::string_view target) {
    const detail::Text c_alias(alias, "alias"), c_target(target, "target");
    if (auto checked = c_alias.check(); !checked) return checked;
    if (auto checked = c_target.check(); !checked) return checked;
    return detail::call([&](cortex_error **err) {
      return cortex_writer_alias(handle(), c_alias.c_str(), c_target.c_str(), err);
    });
  }

  /// Sets free text about the model; a key that is set again has its last value.
  void set_metadata(std::string_view key, std::string_view value) {
    try_set_metadata(key, value).value();
  }

  /// As set_metadata.
  Result<void> try_set_metadata(std::string_view key, std::string_view value) {
    const detail::Text c_key(key, "key"), c_value(value, "value");
    if (auto checked = c_key.check(); !checked) return checked;
    if (auto checked = c_value.check(); !checked) return checked;
    return detail::call([&](cortex_error **err) {
      return cortex_writer_set_metadata(handle(), c_key.c_str(), c_value.c_str(), err);
    });
  }

  /// Completes the file, brings it to the disk and gives it its name. Returns its size in bytes.
  /// Whether it succeeds or not, the writer can then only be destroyed.
  std::uint64_t finish() { return try_finish().value(); }

  /// As finish.
  Result<std::uint64_t> try_finish() {
    std::uint64_t file_bytes = 0;
    return detail::call<std::uint64_t>(
        [&](cortex_error **err) { return cortex_writer_finish(handle(), &file_bytes, err); },
        [&] { return file_bytes; });
  }

  /// Whether there is a writer: not made empty, and not moved from.
  explicit operator bool() const noexcept { return writer_ != nullptr; }

  /// The writer of the C interface, which stays this one's; null if there is none.
  cortex_writer *handle() const noexcept { return writer_.get(); }

  /// Gives the writer of the C interface away, to be freed with cortex_writer_free.
  cortex_writer *release() noexcept { return writer_.release(); }

  /// Frees the writer; a file that was not finished does not appear.
  void close() noexcept { writer_.reset(); }

 private:
  std::unique_ptr<cortex_writer, detail::Free<cortex_writer_free>> writer_;
};

}  // inline namespace
}  // namespace cortex

#endif
