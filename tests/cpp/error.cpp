// Errors, Results, spans and dimensions by themselves.

#include "check.hpp"

#include <array>
#include <memory>

static_assert(std::is_nothrow_copy_constructible_v<cortex::Error>);
static_assert(std::is_nothrow_move_constructible_v<cortex::Result<cortex::Tensor>>);
static_assert(!std::is_copy_constructible_v<cortex::Result<cortex::Tensor>>);

static void errors() {
  // Caught by its base, copied, kept after all else is gone.
  std::unique_ptr<cortex::Error> kept;
  try {
    cortex::Archive::open("/nowhere/at/all.cai");
    CHECK(!"no exception");
  } catch (const std::exception &base) {
    const auto *error = dynamic_cast<const cortex::Error *>(&base);
    CHECK(error && std::string_view(base.what()) == error->message());
    if (error) kept = std::make_unique<cortex::Error>(*error);
  }
  CHECK(kept && kept->kind() == cortex::ErrorKind::Io && kept->kind_name() == "io");
  CHECK(kept && kept->message().find("/nowhere/at/all.cai") != std::string_view::npos);
  CHECK(kept && !kept->tensor() && !kept->offset());

  // An error while another is in use leaves it as it was.
  try {
    cortex::spec_parse("int9");
  } catch (const cortex::Error &outer) {
    const std::string text = outer.what();
    for (int i = 0; i < 3; i++) THROWS(InvalidArgument, "column", cortex::spec_parse("zst"));
    CHECK(text == outer.what() && outer.kind() == cortex::ErrorKind::InvalidArgument);
    cortex::Error copy = outer;
    copy = cortex::Error(cortex::ErrorKind::Corrupt, "of my own");
    cortex::Error &same = copy;
    copy = std::move(same);
    CHECK(copy.message() == "of my own" && text == outer.what());
  }

  // A status without an object, as when there was no memory for one, and one that is not known.
  const cortex::Error bare(CORTEX_OUT_OF_MEMORY, nullptr);
  CHECK(bare.kind() == cortex::ErrorKind::OutOfMemory && bare.message() == "out_of_memory");
  const cortex::Error strange(12345, nullptr);
  CHECK(strange.kind_name() == "unknown" && strange.message() == "unknown");
  CHECK(cortex::error_kind_name(cortex::ErrorKind::LimitExceeded) == "limit_exceeded");
}

static void results() {
  cortex::Result<std::string> good = cortex::try_spec_parse("q(bits=8)");
  CHECK(good && good.ok() && *good == "int8" && good->size() == 4);
  CHECK(good.error().kind() == cortex::ErrorKind::Ok && good.error().message().empty());
  const std::string moved = std::move(good).value();
  CHECK(moved == "int8");
  cortex::Result<std::string> bad = cortex::try_spec_parse("int9");
  CHECK(!bad && !bad.ok());
  THROWS(InvalidArgument, "int9", bad.value());
  THROWS(InvalidArgument, "int9", *bad);
  THROWS(InvalidArgument, "int9", bad->size());
  THROWS(InvalidArgument, "int9", std::move(bad).value());
  const cortex::Result<void> done;
  done.value();
  CHECK(done && done.error().kind() == cortex::ErrorKind::Ok);
  const cortex::Result<void> failed = cortex::Error(cortex::ErrorKind::Io, "lost");
  THROWS(Io, "lost", failed.value());
}

static std::size_t length(cortex::Span<const float> span) { return span.size(); }

static void spans() {
  std::vector<float> vector(3);
  const std::vector<float> fixed(4);
  std::array<float, 5> array{};
  float plain[6] = {};
  CHECK(length(vector) == 3 && length(fixed) == 4 && length(array) == 5 && length(plain) == 6);
  CHECK(length({}) == 0 && length({plain, 2}) == 2);
  const cortex::Span<float> span(vector);
  span[1] = 5;
  float sum = 0;
  for (const float x : span) sum += x;
  CHECK(sum == 5 && length(span) == 3 && span.first(2).back() == 5 && span.subspan(1).front() == 5);
  CHECK(span.size_bytes() == 12 && !span.empty() && cortex::Span<int>().empty());
  static_assert(!std::is_constructible_v<cortex::Span<float>, const std::vector<float> &>);
  static_assert(!std::is_constructible_v<cortex::Span<float>, std::vector<double> &>);
  static_assert(!std::is_constructible_v<cortex::View, std::string>);
  static_assert(!std::is_constructible_v<cortex::View, const char *, cortex::Shape>);

  const cortex::Shape none, two{2, 3}, copy(std::array<std::size_t, 2>{2, 3});
  CHECK(none.empty() && two.size() == 2 && two == copy && two != none && two[1] == 3);
  CHECK(two != cortex::Shape({2, 4}) && none.begin() == none.end());
  const cortex::Shape many(std::vector<std::size_t>(17, 1));
  CHECK(many.count() == 17 && many.size() == 0 && many.begin() == many.end() && many == many);
  CHECK(cortex::Shape(std::vector<std::size_t>(16, 1)).size() == 16);
}

// A type of the user's own that is a half.
struct Half {
  std::uint16_t bits;
};
template <>
struct cortex::dtype_of<Half> {
  static constexpr cortex::DType value = cortex::DType::F16;
};

static void dtypes() {
  static_assert(cortex::dtype_of<double>::value == cortex::DType::F64);
  static_assert(cortex::dtype_of<float>::value == cortex::DType::F32);
  static_assert(cortex::dtype_of<long long>::value == cortex::DType::I64);
  static_assert(cortex::dtype_of<unsigned long>::value ==
                (sizeof(long) == 8 ? cortex::DType::U64 : cortex::DType::U32));
  static_assert(cortex::dtype_of<int>::value == cortex::DType::I32);
  static_assert(cortex::dtype_of<unsigned short>::value == cortex::DType::U16);
  static_assert(cortex::dtype_of<signed char>::value == cortex::DType::I8);
  static_assert(cortex::dtype_of<bool>::value == cortex::DType::Bool);
  const std::vector<Half> halves = {{0x3c00}, {0xc000}};  // 1, -2
  const cortex::Tensor t = cortex::Tensor::compress(halves);
  CHECK(t.dtype() == cortex::DType::F16 && t.decode_rows_f32(0, 2) == std::vector<float>({1, -2}));
  const std::vector<Half> back = t.decompress_as<Half>();
  CHECK(back.size() == 2 && back[1].bits == 0xc000);
  const bool flags[] = {true, false, true};
  CHECK(cortex::Tensor::compress(flags).dtype() == cortex::DType::Bool);
}

int main() {
  errors();
  results();
  spans();
  dtypes();
  return report();
}
