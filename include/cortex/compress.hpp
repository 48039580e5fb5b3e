// Whole model files, in and out.

#ifndef CORTEX_COMPRESS_HPP
#define CORTEX_COMPRESS_HPP

#include <cortex/error.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace cortex {
CORTEX_HPP_MODE {

/// How far a long call has come.
struct Progress {
  /// Dense bytes of the tensors that are done.
  std::uint64_t done_bytes = 0;
  /// Dense bytes of all tensors.
  std::uint64_t total_bytes = 0;
  /// Tensors that are done.
  std::uint64_t done_tensors = 0;
  /// All tensors.
  std::uint64_t total_tensors = 0;
  /// Name of the tensor at work; valid during the callback.
  std::string_view tensor;
};

/// Told at most every 50 ms, and after each tensor, how far a call has come. Made of anything
/// that can be called with a `const Progress &`. If it returns something, false stops the call,
/// which then ends as Cancelled and leaves no file behind. What it throws stops the call too,
/// and comes out of it, of its `try_` form as well. Called from any thread, one call at a time.
class ProgressCallback {
 public:
  /// None.
  ProgressCallback() noexcept = default;

  /// None.
  ProgressCallback(std::nullptr_t) noexcept {}

  /// `function(progress)`, which returns nothing, or whether to go on.
  template <class Function,
            class Returned = std::invoke_result_t<std::decay_t<Function> &, const Progress &>,
            class = std::enable_if_t<!std::is_same_v<std::decay_t<Function>, ProgressCallback>>>
  ProgressCallback(Function &&function) {
    if (is_none(function)) return;
    if constexpr (std::is_void_v<Returned>) {
      function_ = [f = std::forward<Function>(function)](const Progress &progress) mutable {
        f(progress);
        return true;
      };
    } else {
      static_assert(std::is_convertible_v<Returned, bool>, "returns nothing, or whether to go on");
      function_ = std::forward<Function>(function);
    }
  }

  /// Whether there is one.
  explicit operator bool() const noexcept { return static_cast<bool>(function_); }

  /// Calls it; true if there is none.
  bool operator()(const Progress &progress) const { return !function_ || function_(progress); }

 private:
  template <class Function>
  static bool is_none(const Function &) noexcept {
    return false;
  }
  template <class Function>
  static bool is_none(Function *const &function) noexcept {
    return !function;
  }
  template <class Signature>
  static bool is_none(const std::function<Signature> &function) noexcept {
    return !function;
  }

  std::function<bool(const Progress &)> function_;
};

/// A spec for some tensors of a model.
struct Rule {
  /// Regular expression; found anywhere in a tensor's name, unless it has ^ and $.
  std::string pattern;
  /// Spec for the tensors of such names, followed to the letter.
  std::string spec;
};

/// How a model is compressed. As it stands it means the library's defaults.
struct CompressOptions {
  /// For every tensor that no rule names. A lossy one leaves integers, bools, vectors and small
  /// tensors lossless.
  std::optional<std::string> spec;
  /// Regular expression: tensors with such a name stay lossless, rules or not.
  std::optional<std::string> exclude;
  /// Rules, of which the first that matches counts.
  std::vector<Rule> rules;
  /// Threads; 0 for all cores. The file does not depend on it.
  std::size_t threads = 0;
  /// Told how far the call has come; may stop it.
  ProgressCallback progress;
  /// File (safetensors, npy, npz) of second moments of the activations, an entry for each tensor
  /// by its name: [in] for their diagonal, [in, in] for all.
  std::optional<std::string> calibration;
  /// The report lists for each tensor what was measured and why it was taken or not.
  bool explain = false;
};

/// How a model is decompressed. As it stands it means the library's defaults.
struct DecompressOptions {
  /// Threads; 0 for all cores.
  std::size_t threads = 0;
  /// Told how far the call has come; may stop it.
  ProgressCallback progress;
};

namespace detail {

/// Stands between C, which no exception may pass, and a callback that may throw.
class Bridge {
 public:
  explicit Bridge(const ProgressCallback &callback) : callback_(callback) {}

  cortex_progress_fn function() const noexcept { return callback_ ? &call : nullptr; }
  void *user_data() noexcept { return this; }

  /// What the callback threw goes on.
  void rethrow() {
#if CORTEX_HPP_EXCEPTIONS
    if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
#endif
  }

 private:
  static std::int32_t call(const cortex_progress *from, void *user_data) noexcept {
    return static_cast<Bridge *>(user_data)->go_on(*from) ? 0 : 1;
  }

  bool go_on(const cortex_progress &from) noexcept {
    Progress progress;
    progress.done_bytes = from.done_bytes;
    progress.total_bytes = from.total_bytes;
    progress.done_tensors = from.done_tensors;
    progress.total_tensors = from.total_tensors;
    progress.tensor = view_of(from.tensor);
#if CORTEX_HPP_EXCEPTIONS
    if (thrown_) return false;
    try {
      return callback_(progress);
    } catch (...) {
      thrown_ = std::current_exception();
      return false;
    }
#else
    return callback_(progress);
#endif
  }

  const ProgressCallback &callback_;
#if CORTEX_HPP_EXCEPTIONS
  std::exception_ptr thrown_;
#endif
};

}  // namespace detail

/// Compresses the model at `input` (safetensors, a sharded one's index.json, npy, npz; found by
/// content) into the archive `output`, holding one tensor in memory at a time. The file appears
/// when it is complete; what stood there is replaced then. Paths are UTF-8.
///
/// Returns a report as one JSON object, the same that `cortex compress --json` prints.
///
/// InvalidArgument: a bad spec or pattern, `output` is an input, or a value that is not finite
/// under a lossy spec. Corrupt, LimitExceeded: the model is damaged. Io: reading or writing
/// failed. Cancelled: the callback said so.
inline Result<std::string> try_compress_file(std::string_view input, std::string_view output,
                                             const CompressOptions &options = {}) {
  const detail::Text c_input(input, "input"), c_output(output, "output");
  const detail::OptionalText spec(options.spec, "options.spec");
  const detail::OptionalText exclude(options.exclude, "options.exclude");
  const detail::OptionalText calibration(options.calibration, "options.calibration");
  for (auto checked : {c_input.check(), c_output.check(), spec.check(), exclude.check(),
                       calibration.check()}) {
    if (!checked) return checked.error();
  }
  // Their texts stay where they are.
  std::deque<detail::Text> texts;
  std::vector<cortex_rule> rules;
  for (const Rule &rule : options.rules) {
    const std::string name = "options.rules[" + std::to_string(rules.size()) + "]";
    const detail::Text &pattern = texts.emplace_back(rule.pattern, (name + ".pattern").c_str());
    const detail::Text &rule_spec = texts.emplace_back(rule.spec, (name + ".spec").c_str());
    if (auto checked = pattern.check(); !checked) return checked.error();
    if (auto checked = rule_spec.check(); !checked) return checked.error();
    rules.push_back({pattern.c_str(), rule_spec.c_str()});
  }
  detail::Bridge bridge(options.progress);
  cortex_compress_options c_options{};
  c_options.struct_size = sizeof c_options;
  c_options.spec = spec.c_str();
  c_options.exclude = exclude.c_str();
  c_options.rules = rules.data();
  c_options.rules_len = rules.size();
  c_options.threads = options.threads;
  c_options.progress = bridge.function();
  c_options.user_data = bridge.user_data();
  c_options.calibration = calibration.c_str();
  c_options.explain = options.explain;
  char *report = nullptr;
  auto result = detail::call<std::string>(
      [&](cortex_error **err) {
        return cortex_compress_file(c_input.c_str(), c_output.c_str(), &c_options, &report, err);
      },
      [&] { return detail::owned(report); });
  bridge.rethrow();
  return result;
}

/// As try_compress_file.
inline std::string compress_file(std::string_view input, std::string_view output,
                                 const CompressOptions &options = {}) {
  return try_compress_file(input, output, options).value();
}

/// Decodes every tensor of the archive `input` into the safetensors file `output`, under its
/// name and in its dtype, in bounded memory. The file appears when it is complete. Paths are
/// UTF-8. Returns its size in bytes.
///
/// Corrupt: the archive is damaged; the error names the tensor and the offset. Io: reading or
/// writing failed. Cancelled: the callback said so.
inline Result<std::uint64_t> try_decompress_file(std::string_view input, std::string_view output,
                                                 const DecompressOptions &options = {}) {
  const detail::Text c_input(input, "input"), c_output(output, "output");
  if (auto checked = c_input.check(); !checked) return checked.error();
  if (auto checked = c_output.check(); !checked) return checked.error();
  detail::Bridge bridge(options.progress);
  cortex_decompress_options c_options{};
  c_options.struct_size = sizeof c_options;
  c_options.threads = options.threads;
  c_options.progress = bridge.function();
  c_options.user_data = bridge.user_data();
  std::uint64_t file_bytes = 0;
  auto result = detail::call<std::uint64_t>(
      [&](cortex_error **err) {
        return cortex_decompress_file(c_input.c_str(), c_output.c_str(), &c_options, &file_bytes,
                                      err);
      },
      [&] { return file_bytes; });
  bridge.rethrow();
  return result;
}

/// As try_decompress_file.
inline std::uint64_t decompress_file(std::string_view input, std::string_view output,
                                     const DecompressOptions &options = {}) {
  return try_decompress_file(input, output, options).value();
}

}  // inline namespace
}  // namespace cortex

#endif
