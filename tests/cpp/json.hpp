// Reading the shared test cases: JSON, and base64 inside it.

#ifndef CORTEX_TESTS_JSON_HPP
#define CORTEX_TESTS_JSON_HPP

#include "check.hpp"

#include <nlohmann/json.hpp>

#include <fstream>

using Json = nlohmann::json;

inline Json read_json(const std::string &path) {
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "%s is missing\n", path.c_str());
    std::exit(EXIT_FAILURE);
  }
  return Json::parse(file);
}

inline Bytes base64(const std::string &text) {
  static const std::string digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  Bytes out;
  unsigned value = 0, bits = 0;
  for (const char c : text) {
    if (c == '=') break;
    const std::size_t digit = digits.find(c);
    if (digit == std::string::npos) std::abort();
    value = value << 6 | static_cast<unsigned>(digit);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out.push_back(static_cast<unsigned char>(value >> bits));
      value &= (1u << bits) - 1;
    }
  }
  return out;
}

inline std::vector<float> floats(const Json &text) {
  const Bytes bytes = base64(text);
  std::vector<float> out(bytes.size() / 4);
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), out.size() * 4);
  return out;
}

inline cortex::Shape shape_of(const Json &sizes) { return sizes.get<std::vector<std::size_t>>(); }

inline cortex::DType dtype_named(const std::string &name) {
  for (std::uint32_t i = 1; i < 100; i++) {
    if (cortex::dtype_name(static_cast<cortex::DType>(i)) == name) return static_cast<cortex::DType>(i);
  }
  std::fprintf(stderr, "no dtype %s\n", name.c_str());
  std::abort();
}

// Bytes of a tensor by its dtype and shape.
inline std::size_t bytes_of(const Json &dtype, const cortex::Shape &shape) {
  std::size_t bytes = cortex::dtype_bytes(dtype_named(dtype));
  for (const std::size_t dim : shape) bytes *= dim;
  return bytes;
}

// Compresses "data" of "dtype" and "shape" as "spec" says.
inline cortex::Result<cortex::Tensor> compress(const Json &c) {
  const Bytes data = base64(c["data"]);
  const cortex::Shape shape = shape_of(c["shape"]);
  if (data.size() != bytes_of(c["dtype"], shape)) std::abort();
  return cortex::Tensor::try_compress(cortex::View(data.data(), dtype_named(c["dtype"]), shape),
                                      c["spec"].get<std::string>());
}

inline Bytes bytes_from(const std::vector<std::byte> &from) {
  Bytes out(from.size());
  if (!out.empty()) std::memcpy(out.data(), from.data(), out.size());
  return out;
}

// As CHECK, with the name of a case.
#define IN(name, what) check_in((name), static_cast<bool>(what), #what, __FILE__, __LINE__)

inline void check_in(const std::string &name, bool good, const char *what, const char *file, int line) {
  check_that(good, ("[" + name + "] " + what).c_str(), file, line);
}

#endif
