// A few lines of test harness, and data that every test makes the same way.

#ifndef CORTEX_TESTS_CHECK_HPP
#define CORTEX_TESTS_CHECK_HPP

#include <cortex.hpp>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

inline int failures = 0;

#define CHECK(what) check_that(static_cast<bool>(what), #what, __FILE__, __LINE__)

// The Result holds an error of this kind, whose message holds this text.
#define REFUSED(kind, text, call) \
  check_refused(cortex::ErrorKind::kind, (text), (call), #call, __FILE__, __LINE__)

// The call throws a cortex::Error of this kind, whose message holds this text.
#define THROWS(kind, text, call)                                                       \
  check_refused(                                                                       \
      cortex::ErrorKind::kind, (text),                                                 \
      thrown_by([&] { static_cast<void>(call); }), #call, __FILE__, __LINE__)

inline void check_that(bool good, const char *what, const char *file, int line) {
  if (good) return;
  failures++;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what);
}

template <class T>
void check_refused(cortex::ErrorKind kind, std::string_view text, const cortex::Result<T> &result,
                   const char *what, const char *file, int line) {
  const cortex::Error &error = result.error();
  if (!result.ok() && error.kind() == kind &&
      error.message().find(text) != std::string_view::npos) {
    return;
  }
  failures++;
  std::fprintf(stderr, "%s:%d: %s\n  expected %s with '%.*s'\n  found    %s with '%s'\n", file, line,
               what, cortex::error_kind_name(kind).data(), static_cast<int>(text.size()),
               text.data(), error.kind_name().data(), error.what());
}

#if CORTEX_HPP_EXCEPTIONS
template <class Call>
cortex::Result<void> thrown_by(Call &&call) {
  try {
    call();
  } catch (const cortex::Error &error) {
    return error;
  }
  return {};
}
#endif

// The end of main.
inline int report() {
  if (failures) std::fprintf(stderr, "%d checks failed\n", failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

// Values that look like weights, the same on every machine.
inline std::vector<float> weights(std::size_t count) {
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; i++) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    out[i] = (static_cast<float>(h >> 8) / 16777216.0f - 0.5f) * 0.1f;
  }
  return out;
}

template <class T>
bool same_bytes(const std::vector<T> &a, const std::vector<T> &b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

using Bytes = std::vector<unsigned char>;

inline Bytes read_file(const std::string &path) {
  std::FILE *file = std::fopen(path.c_str(), "rb");
  if (!file) {
    std::fprintf(stderr, "%s is missing\n", path.c_str());
    std::abort();
  }
  std::fseek(file, 0, SEEK_END);
  Bytes bytes(static_cast<std::size_t>(std::ftell(file)));
  std::rewind(file);
  if (std::fread(bytes.data(), 1, bytes.size(), file) != bytes.size()) std::abort();
  std::fclose(file);
  return bytes;
}

inline void write_file(const std::string &path, const void *bytes, std::size_t len) {
  std::FILE *file = std::fopen(path.c_str(), "wb");
  if (!file || std::fwrite(bytes, 1, len, file) != len) std::abort();
  std::fclose(file);
}

// A safetensors file of two matrices [64, 128] and a vector.
inline void write_model(const std::string &path) {
  const std::string header =
      R"({"__metadata__":{"about":"a test"},)"
      R"("first.weight":{"dtype":"F32","shape":[64,128],"data_offsets":[0,32768]},)"
      R"("first.bias":{"dtype":"F32","shape":[64],"data_offsets":[32768,33024]},)"
      R"("last.weight":{"dtype":"F32","shape":[64,128],"data_offsets":[33024,65792]}})";
  const std::vector<float> w = weights(2 * 64 * 128 + 64);
  Bytes bytes(8 + header.size() + w.size() * 4);
  const std::uint64_t len = header.size();
  std::memcpy(bytes.data(), &len, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  std::memcpy(bytes.data() + 8 + header.size(), w.data(), w.size() * 4);
  write_file(path, bytes.data(), bytes.size());
}

#endif
