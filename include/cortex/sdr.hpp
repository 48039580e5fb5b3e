// Sparse distributed representations: sets of a few active bits among many, whose shared bits
// say how alike two things are.

#ifndef CORTEX_SDR_HPP
#define CORTEX_SDR_HPP

#include <cortex/error.hpp>
#include <cortex/view.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace cortex {
CORTEX_HPP_MODE {

/// A stored set, `id`, and how many active bits it shares with the one asked for, `overlap`, at
/// least one.
using SdrMatch = cortex_sdr_match;

/// Sets under numbers, searched by the bits that they share.
///
/// Const functions may be called from several threads at once. What moved elsewhere is empty:
/// its properties are 0, and any other call is an InvalidArgument that says so.
class SdrIndex {
 public:
  /// An empty handle, to be assigned to.
  SdrIndex() noexcept = default;

  /// Takes over an index of the C interface.
  explicit SdrIndex(cortex_sdr_index *index) noexcept : index_(index) {}

  /// An index without sets, which will be of `bits` bits each.
  static SdrIndex create(std::size_t bits) { return try_create(bits).value(); }

  /// As create.
  static Result<SdrIndex> try_create(std::size_t bits) {
    cortex_sdr_index *out = nullptr;
    return detail::call<SdrIndex>(
        [&](cortex_error **err) { return cortex_sdr_index_create(bits, &out, err); },
        [&] { return SdrIndex(out); });
  }

  /// Reads an index that save wrote, and checks it. `path` is UTF-8.
  ///
  /// Io: it cannot be read. Corrupt: it is no index, was cut short, or is damaged.
  /// LimitExceeded: it would take far more memory than the file has bytes. Unsupported: a newer
  /// version.
  static SdrIndex load(std::string_view path) { return try_load(path).value(); }

  /// As load.
  static Result<SdrIndex> try_load(std::string_view path) {
    const detail::Text c_path(path, "path");
    if (auto checked = c_path.check(); !checked) return checked.error();
    cortex_sdr_index *out = nullptr;
    return detail::call<SdrIndex>(
        [&](cortex_error **err) { return cortex_sdr_index_load(c_path.c_str(), &out, err); },
        [&] { return SdrIndex(out); });
  }

  /// Writes the index to a file, the same bytes for the same sets in whatever order they came.
  /// The file appears when it is complete; what stood there is replaced then. `path` is UTF-8.
  void save(std::string_view path) const { try_save(path).value(); }

  /// As save.
  Result<void> try_save(std::string_view path) const {
    const detail::Text c_path(path, "path");
    if (auto checked = c_path.check(); !checked) return checked;
    return detail::call([&](cortex_error **err) {
      return cortex_sdr_index_save(handle(), c_path.c_str(), err);
    });
  }

  /// Bits of every set, active or not.
  std::size_t bits() const noexcept { return cortex_sdr_index_bits(handle()); }

  /// Number of stored sets.
  std::size_t size() const noexcept { return cortex_sdr_index_len(handle()); }

  /// Whether no set is stored.
  bool empty() const noexcept { return size() == 0; }

  /// Bytes of memory that the sets and what finds them take, without what the allocator adds.
  std::uint64_t memory_bytes() const noexcept { return cortex_sdr_index_memory_bytes(handle()); }

  /// Stores the set of these active bits, in any order, under `id`. InvalidArgument: a bit is
  /// not below bits() or is given twice, or the number is in use.
  void add(std::uint64_t id, Span<const std::uint32_t> active) { try_add(id, active).value(); }

  /// As add.
  Result<void> try_add(std::uint64_t id, Span<const std::uint32_t> active) {
    return detail::call([&](cortex_error **err) {
      return cortex_sdr_index_add(handle(), id, active.data(), active.size(), err);
    });
  }

  /// The active bits of the set stored under `id`, in increasing order. InvalidArgument: nothing
  /// is stored under it.
  std::vector<std::uint32_t> get(std::uint64_t id) const { return try_get(id).value(); }

  /// As get.
  Result<std::vector<std::uint32_t>> try_get(std::uint64_t id) const {
    std::size_t len = 0;
    auto counted = detail::call([&](cortex_error **err) {
      return cortex_sdr_index_get(handle(), id, nullptr, 0, &len, err);
    });
    if (!counted) return counted.error();
    auto active = detail::make_vector<std::uint32_t>(len);
    if (!active) return active;
    auto done = detail::call([&](cortex_error **err) {
      return cortex_sdr_index_get(handle(), id, active->data(), len, &len, err);
    });
    if (!done) return done.error();
    return active;
  }

  /// Removes the set stored under `id`. Returns whether there was one.
  bool remove(std::uint64_t id) { return try_remove(id).value(); }

  /// As remove.
  Result<bool> try_remove(std::uint64_t id) {
    std::int32_t removed = 0;
    return detail::call<bool>(
        [&](cortex_error **err) { return cortex_sdr_index_remove(handle(), id, &removed, err); },
        [&] { return removed != 0; });
  }

  /// The stored sets that share most active bits with the set `active`, as many as `matches`
  /// has room for, largest overlap first, the smaller number first among equals; exact, and
  /// without those that share none. Returns how many there are.
  std::size_t top_k(Span<const std::uint32_t> active, Span<SdrMatch> matches) const {
    return try_top_k(active, matches).value();
  }

  /// As top_k.
  Result<std::size_t> try_top_k(Span<const std::uint32_t> active, Span<SdrMatch> matches) const {
    std::size_t len = 0;
    return detail::call<std::size_t>(
        [&](cortex_error **err) {
          return cortex_sdr_index_top_k(handle(), active.data(), active.size(), matches.size(),
                                        matches.data(), &len, err);
        },
        [&] { return len; });
  }

  /// The `k` stored sets that share most active bits with the set `active`, in memory of their
  /// own.
  std::vector<SdrMatch> top_k(Span<const std::uint32_t> active, std::size_t k) const {
    return try_top_k(active, k).value();
  }

  /// As top_k.
  Result<std::vector<SdrMatch>> try_top_k(Span<const std::uint32_t> active, std::size_t k) const {
    // There are no more than are stored.
    auto matches = detail::make_vector<SdrMatch>(k < size() ? k : size());
    if (!matches) return matches;
    const Result<std::size_t> found = try_top_k(active, Span<SdrMatch>(*matches));
    if (!found) return found.error();
    matches->resize(*found);
    return matches;
  }

  /// Whether there is an index: not made empty, and not moved from.
  explicit operator bool() const noexcept { return index_ != nullptr; }

  /// The index of the C interface, which stays this one's; null if there is none.
  cortex_sdr_index *handle() const noexcept { return index_.get(); }

  /// Gives the index of the C interface away, to be freed with cortex_sdr_index_free.
  cortex_sdr_index *release() noexcept { return index_.release(); }

  /// Frees the index.
  void close() noexcept { index_.reset(); }

 private:
  std::unique_ptr<cortex_sdr_index, detail::Free<cortex_sdr_index_free>> index_;
};

}  // inline namespace
}  // namespace cortex

#endif
