// Archives: many compressed tensors in one .cai file, read as they are used.

#ifndef CORTEX_ARCHIVE_HPP
#define CORTEX_ARCHIVE_HPP

#include <cortex/error.hpp>
#include <cortex/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cortex {
CORTEX_HPP_MODE {

/// How an archive is read.
struct OpenOptions {
  /// Maps the file: what is not packed is used in place, and only what is used is read. The
  /// file must not be cut or rewritten while it is open; replacing it by rename, as Cortex
  /// does, is safe. False for plain reads: every chunk is read and checked each time it is
  /// used, for files that somebody may cut short, and network drives.
  bool mapped = true;
};

/// An open .cai file.
///
/// Const functions may be called from several threads at once. What moved elsewhere is empty:
/// it has no tensors, and any call that can fail is an InvalidArgument that says so.
class Archive {
 public:
  /// An empty one, to be assigned to.
  Archive() noexcept = default;

  /// Takes over an archive of the C interface.
  explicit Archive(cortex_archive *archive) noexcept : archive_(archive) {}

  /// Opens an archive. `path` is UTF-8.
  ///
  /// Io: it cannot be read. Corrupt: it is no archive, was cut short, or its index is damaged.
  /// Unsupported: a newer major version of the format.
  static Archive open(std::string_view path, OpenOptions options = {}) {
    return try_open(path, options).value();
  }

  /// As open.
  static Result<Archive> try_open(std::string_view path, OpenOptions options = {}) {
    const detail::Text c_path(path, "path");
    if (auto checked = c_path.check(); !checked) return checked.error();
    cortex_archive *out = nullptr;
    return detail::call<Archive>(
        [&](cortex_error **err) {
          const auto open = options.mapped ? cortex_archive_open : cortex_archive_open_unmapped;
          return open(c_path.c_str(), &out, err);
        },
        [&] { return Archive(out); });
  }

  /// Number of tensors; aliases do not count.
  std::size_t size() const noexcept { return cortex_archive_len(handle()); }

  /// Whether there are no tensors.
  bool empty() const noexcept { return size() == 0; }

  /// Bytes of the whole file.
  std::uint64_t file_bytes() const noexcept { return cortex_archive_file_bytes(handle()); }

  /// The name of the tensor at `index`, in the order of the file; empty past the end. Lives as
  /// long as the archive.
  std::string_view name(std::size_t index) const noexcept {
    return detail::view_of(cortex_archive_name(handle(), index));
  }

  /// The names of all tensors, in the order of the file.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    out.reserve(size());
    for (std::size_t i = 0; i < size(); i++) out.emplace_back(name(i));
    return out;
  }

  /// The index of the tensor of this name, or of the one that this alias names; nothing if
  /// there is none.
  std::optional<std::size_t> find(std::string_view name) const {
    const detail::Text c_name(name, "name");
    if (!c_name.check()) return std::nullopt;
    const std::ptrdiff_t found = cortex_archive_find(handle(), c_name.c_str());
    if (found < 0) return std::nullopt;
    return static_cast<std::size_t>(found);
  }

  /// Whether there is a tensor or an alias of this name.
  bool contains(std::string_view name) const { return find(name).has_value(); }

  /// Opens the tensor of this name, or the one that this alias names. Its data is read when it
  /// is used. The tensor keeps the file open or mapped and may outlive the archive.
  ///
  /// InvalidArgument: there is none of this name. Unsupported: it is stored in a way that this
  /// version does not know.
  Tensor tensor(std::string_view name) const { return try_tensor(name).value(); }

  /// As tensor.
  Result<Tensor> try_tensor(std::string_view name) const {
    const detail::Text c_name(name, "name");
    if (auto checked = c_name.check(); !checked) return checked.error();
    cortex_tensor *out = nullptr;
    return detail::call<Tensor>(
        [&](cortex_error **err) { return cortex_archive_tensor(handle(), c_name.c_str(), &out, err); },
        [&] { return Tensor(out); });
  }

  /// Opens the tensor at `index`, in the order of the file; see tensor.
  Tensor tensor_at(std::size_t index) const { return try_tensor_at(index).value(); }

  /// As tensor_at.
  Result<Tensor> try_tensor_at(std::size_t index) const {
    cortex_tensor *out = nullptr;
    return detail::call<Tensor>(
        [&](cortex_error **err) { return cortex_archive_tensor_at(handle(), index, &out, err); },
        [&] { return Tensor(out); });
  }

  /// Further names of tensors, as of tied weights, and the names that they stand for.
  std::map<std::string, std::string> aliases() const {
    std::map<std::string, std::string> out;
    for (std::size_t i = 0; i < cortex_archive_alias_len(handle()); i++) {
      out.emplace(detail::view_of(cortex_archive_alias(handle(), i)),
                  detail::view_of(cortex_archive_alias_target(handle(), i)));
    }
    return out;
  }

  /// Free text about the model, by key.
  std::map<std::string, std::string> metadata() const {
    std::map<std::string, std::string> out;
    for (std::size_t i = 0; i < cortex_archive_metadata_len(handle()); i++) {
      const char *key = cortex_archive_metadata_key(handle(), i);
      out.emplace(detail::view_of(key), detail::view_of(cortex_archive_metadata(handle(), key)));
    }
    return out;
  }

  /// The text under `key`; nothing if there is none. Lives as long as the archive.
  std::optional<std::string_view> metadata(std::string_view key) const {
    const detail::Text c_key(key, "key");
    if (!c_key.check()) return std::nullopt;
    return detail::optional_view_of(cortex_archive_metadata(handle(), c_key.c_str()));
  }

  /// What the archive holds, as one JSON object, the same that `cortex inspect --json` prints.
  std::string inspect() const { return try_inspect().value(); }

  /// As inspect.
  Result<std::string> try_inspect() const {
    char *json = nullptr;
    return detail::call<std::string>(
        [&](cortex_error **err) { return cortex_archive_inspect(handle(), &json, err); },
        [&] { return detail::owned(json); });
  }

  /// Reads every byte of the file and checks it. Corrupt: something is damaged; the error is
  /// the first that was found and names the tensor and the offset, and where there are more its
  /// message says how many.
  void verify() const { try_verify().value(); }

  /// As verify.
  Result<void> try_verify() const {
    return detail::call([&](cortex_error **err) { return cortex_archive_verify(handle(), err); });
  }

  /// Whether there is an archive: not made empty, and not moved from.
  explicit operator bool() const noexcept { return archive_ != nullptr; }

  /// The archive of the C interface, which stays this one's; null if there is none.
  cortex_archive *handle() const noexcept { return archive_.get(); }

  /// Gives the archive of the C interface away, to be freed with cortex_archive_free.
  cortex_archive *release() noexcept { return archive_.release(); }

  /// Closes the archive; its tensors live on. What else it lent must not be used any more.
  void close() noexcept { archive_.reset(); }

 private:
  std::unique_ptr<cortex_archive, detail::Free<cortex_archive_free>> archive_;
};

}  // inline namespace
}  // namespace cortex

#endif
