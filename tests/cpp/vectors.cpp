// The cases that every language runs: vectors FOLDER, the one of tests/vectors.

#include "folder.hpp"
#include "json.hpp"

#include <cmath>
#include <limits>

static std::string folder;

static Json cases(const char *file) {
  const Json all = read_json(folder + "/" + file)["cases"];
  if (all.empty()) {
    failures++;
    std::fprintf(stderr, "%s has no cases\n", file);
  }
  std::printf("%s: %zu cases\n", file, all.size());
  return all;
}

// Whether the error is of the kind, and says the texts, that the case tells.
static bool says(const cortex::Error &error, const Json &expected) {
  if (error.kind_name() != expected["kind"].get<std::string>()) {
    std::fprintf(stderr, "%s: %s\n", error.kind_name().data(), error.what());
    return false;
  }
  for (const std::string text : expected["contains"]) {
    if (error.message().find(text) == std::string_view::npos) {
      std::fprintf(stderr, "no '%s' in: %s\n", text.c_str(), error.what());
      return false;
    }
  }
  return true;
}

// What was measured; null stands for infinity.
static bool measured(double found, const Json &expected) {
  if (expected.is_null()) return std::isinf(found) && found > 0;
  const double value = expected;
  return std::fabs(found - value) <= 1e-12 * std::fabs(value);
}

static bool close(const std::vector<float> &found, const std::vector<float> &expected, double tolerance) {
  if (found.size() != expected.size()) return false;
  for (std::size_t i = 0; i < found.size(); i++) {
    if (!(std::fabs(double(found[i]) - expected[i]) <= tolerance)) {
      std::fprintf(stderr, "element %zu: %g for %g\n", i, double(found[i]), double(expected[i]));
      return false;
    }
  }
  return true;
}

static void specs() {
  for (const Json &c : cases("spec.json")) {
    const std::string spec = c["spec"];
    const auto found = cortex::try_spec_parse(spec);
    if (c.contains("error")) {
      // A NUL is refused before the library sees it, which would name its column.
      if (spec.find('\0') != std::string::npos) IN(spec, !found);
      else IN(spec, says(found.error(), c["error"]));
    } else {
      IN(spec, found && *found == c["canonical"].get<std::string>());
    }
  }
}

static void tensors() {
  for (const Json &c : cases("tensor.json")) {
    const std::string name = c["name"];
    const auto made = compress(c);
    IN(name, made.ok());
    if (!made) {
      std::fprintf(stderr, "%s\n", made.error().what());
      continue;
    }
    const cortex::Tensor &t = *made;
    IN(name, t.spec() == c["canonical"].get<std::string>());
    IN(name, cortex::dtype_name(t.dtype()) == c["dtype"].get<std::string>());
    IN(name, cortex::Shape(t.shape()) == shape_of(c["shape"]));
    IN(name, bytes_from(t.decompress()) == base64(c["decoded"]));
    IN(name, t.stored_bytes() == c["stored_bytes"].get<std::uint64_t>());
    IN(name, measured(t.bits_per_weight(), c["bits_per_weight"]));
    IN(name, measured(t.relative_error(), c["relative_error"]));
    IN(name, measured(t.max_abs_error(), c["max_abs_error"]));
    IN(name, measured(t.sqnr_db(), c["sqnr_db"]));
    const Json &rows = c["rows"];
    const std::size_t start = rows["start"], count = rows["count"];
    IN(name, bytes_from(t.decode_rows(start, count)) == base64(rows["decoded"]));
    IN(name, same_bytes(t.decode_rows_f32(start, count), floats(rows["decoded_f32"])));
  }
}

static cortex::Precision precision_named(const std::string &name) {
  return name == "exact" ? cortex::Precision::Exact
         : name == "fast" ? cortex::Precision::Fast
                          : cortex::Precision::Auto;
}

static void products() {
  for (const Json &c : cases("matmul.json")) {
    const std::string name = c["name"];
    const auto made = compress(c);
    IN(name, made.ok());
    if (!made) continue;
    const Bytes x_data = base64(c["x"]);
    const cortex::View x(x_data.data(), dtype_named(c["x_dtype"]), shape_of(c["x_shape"]));
    cortex::Precision computed = cortex::Precision::Auto;
    cortex::MatmulOptions options;
    options.precision = precision_named(c["precision"]);
    options.computed = &computed;
    const auto y = c["op"] == "matmul" ? made->try_matmul(x, options) : made->try_matmul_t(x, options);
    IN(name, y.ok());
    if (!y) {
      std::fprintf(stderr, "%s\n", y.error().what());
      continue;
    }
    IN(name, close(*y, floats(c["y"]), c["tolerance"]));
    if (!c["computed"].is_null()) IN(name, computed == precision_named(c["computed"]));
  }
}

static void convolutions() {
  for (const Json &c : cases("conv.json")) {
    const std::string name = c["name"];
    const auto made = compress(c);
    IN(name, made.ok());
    if (!made) continue;
    cortex::ConvOptions options;
    options.stride_height = c["stride"][0];
    options.stride_width = c["stride"][1];
    options.padding_top = c["padding"][0];
    options.padding_bottom = c["padding"][1];
    options.padding_left = c["padding"][2];
    options.padding_right = c["padding"][3];
    options.dilation_height = c["dilation"][0];
    options.dilation_width = c["dilation"][1];
    options.groups = c["groups"];
    const std::vector<float> x = floats(c["x"]);
    const cortex::Shape x_shape = shape_of(c["x_shape"]), y_shape = shape_of(c["y_shape"]);
    const cortex::View view(x, x_shape);
    const bool forward = c["op"] == "conv";
    const auto y = forward ? made->try_conv(view, options) : made->try_conv_t(view, y_shape, options);
    IN(name, y.ok());
    if (!y) {
      std::fprintf(stderr, "%s\n", y.error().what());
      continue;
    }
    IN(name, close(*y, floats(c["y"]), c["tolerance"]));
    if (forward) IN(name, made->conv_output_shape(x_shape, options) == y_shape);
  }
}

using Set = std::vector<std::uint32_t>;

static void ask(const cortex::SdrIndex &index, const Json &queries) {
  for (const Json &q : queries) {
    const auto found = index.top_k(q["active"].get<Set>(), q["k"].get<std::size_t>());
    bool good = found.size() == q["matches"].size();
    for (std::size_t i = 0; good && i < found.size(); i++) {
      good = found[i].id == q["matches"][i]["id"].get<std::uint64_t>() &&
             found[i].overlap == q["matches"][i]["overlap"].get<std::uint64_t>();
    }
    IN(q.dump(), good);
  }
}

static void sets() {
  for (const Json &c : cases("sdr.json")) {
    cortex::SdrIndex index = cortex::SdrIndex::create(c["bits"].get<std::size_t>());
    for (const Json &item : c["items"]) {
      const Set active = item["active"];
      index.add(item["id"].get<std::uint64_t>(), active);
      Set sorted = active;
      std::sort(sorted.begin(), sorted.end());
      IN(item.dump(), index.get(item["id"].get<std::uint64_t>()) == sorted);
    }
    CHECK(index.size() == c["items"].size());
    ask(index, c["queries"]);
    for (const std::uint64_t id : c["removed"]) CHECK(index.remove(id));
    ask(index, c["after"]);
  }
}

// Makes the call of a case of errors.json.
static cortex::Result<void> make_call(const Json &c, const Folder &scratch) {
  const std::string call = c["call"];
  if (call == "compress") {
    const auto made = compress(c);
    return made ? cortex::Result<void>() : made.error();
  }
  if (call == "matmul" || call == "decode_rows") {
    const auto made = compress(c);
    if (!made) std::abort();
    if (call == "decode_rows") {
      const auto rows = made->try_decode_rows(c["start"].get<std::size_t>(), c["count"].get<std::size_t>());
      return rows ? cortex::Result<void>() : rows.error();
    }
    const cortex::Shape shape = shape_of(c["x_shape"]);
    const std::vector<float> x(bytes_of("f32", shape) / 4);
    const auto y = made->try_matmul(cortex::View(x, shape));
    return y ? cortex::Result<void>() : y.error();
  }
  if (call == "open") {
    const Bytes bytes = base64(c["file"]);
    const std::string path = scratch / "case.cai";
    write_file(path, bytes.data(), bytes.size());
    const auto opened = cortex::Archive::try_open(path);
    return opened ? cortex::Result<void>() : opened.error();
  }
  if (call == "tensor") {
    const auto opened = cortex::Archive::try_open(folder + "/../golden/v1/" + c["file"].get<std::string>());
    if (!opened) std::abort();
    const auto found = opened->try_tensor(c["tensor"].get<std::string>());
    return found ? cortex::Result<void>() : found.error();
  }
  if (call == "sdr_add") {
    cortex::SdrIndex index = cortex::SdrIndex::create(c["bits"].get<std::size_t>());
    return index.try_add(1, c["active"].get<Set>());
  }
  std::fprintf(stderr, "no call %s\n", call.c_str());
  std::abort();
}

static void errors() {
  const Folder scratch;
  for (const Json &c : cases("errors.json")) {
    const auto result = make_call(c, scratch);
    IN(c["name"].get<std::string>(), !result && says(result.error(), c["error"]));
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  folder = argv[1];
  specs();
  tensors();
  products();
  convolutions();
  sets();
  errors();
  return report();
}
