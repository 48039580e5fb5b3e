// Whole models in and out, with reports, progress, and callbacks that stop or throw.

#include "check.hpp"
#include "folder.hpp"

#include <memory>
#include <stdexcept>

static void report_progress(const cortex::Progress &) {}

static void options_and_progress(const Folder &folder, const std::string &model) {
  const std::string path = folder / "model.cai";
  CHECK(cortex::compress_file(model, path).find("\"name\":\"first.bias\"") != std::string::npos);

  std::uint64_t calls = 0, last = 0;
  bool good = true;
  cortex::CompressOptions options;
  options.spec = "int8";
  options.rules = {{"^last\\.", "int4(group=64)"}, {"weight", "dense"}};
  options.exclude = "^never$";
  options.threads = 2;
  options.explain = true;
  options.progress = [&](const cortex::Progress &p) {
    calls++;
    good = good && p.done_bytes <= p.total_bytes && p.done_tensors >= last && p.total_tensors == 3 &&
           !p.tensor.empty();
    last = p.done_tensors;
  };
  cortex::compress_file(model, path, options);
  CHECK(good && calls >= 3 && last == 3);
  const cortex::Archive archive = cortex::Archive::open(path);
  CHECK(archive.tensor("last.weight").spec() == "int4(group=64)");
  CHECK(archive.tensor("first.weight").spec() == "dense");
  CHECK(archive.metadata("about") == "a test");

  // Every kind of callable, and none.
  cortex::DecompressOptions unpack;
  const std::string back = folder / "back.safetensors";
  CHECK(!unpack.progress);
  CHECK(cortex::decompress_file(path, back, unpack) == read_file(back).size());
  unpack.progress = report_progress;
  CHECK(unpack.progress);
  cortex::decompress_file(path, back, unpack);
  unpack.progress = std::function<bool(const cortex::Progress &)>([](const auto &) { return true; });
  cortex::decompress_file(path, back, unpack);
  struct Counter {
    std::shared_ptr<int> calls = std::make_shared<int>(0);
    int operator()(cortex::Progress) { return ++*calls; }
  } counter;
  unpack.progress = counter;
  cortex::decompress_file(path, back, unpack);
  CHECK(*counter.calls >= 3);
  unpack.progress = nullptr;
  CHECK(!unpack.progress);
  unpack.progress = std::function<void(const cortex::Progress &)>();
  CHECK(!unpack.progress);
  unpack.progress = static_cast<void (*)(const cortex::Progress &)>(nullptr);
  CHECK(!unpack.progress);
  cortex::decompress_file(path, back, unpack);
}

static void stopped(const Folder &folder, const std::string &model) {
  const std::string path = folder / "model.cai", fresh = folder / "new.cai";
  const auto files = folder.files();
  const Bytes before = read_file(path);
  cortex::CompressOptions options;
  options.spec = "int8";
  options.progress = [](const cortex::Progress &p) { return p.done_tensors < 1; };
  THROWS(Cancelled, "cancelled", cortex::compress_file(model, fresh, options));
  THROWS(Cancelled, "cancelled", cortex::compress_file(model, path, options));
  CHECK(folder.files() == files && read_file(path) == before);
  cortex::DecompressOptions unpack;
  unpack.progress = options.progress;
  REFUSED(Cancelled, "cancelled", cortex::try_decompress_file(path, fresh, unpack));
  CHECK(folder.files() == files);

  // What a callback throws comes out, of both forms, and is thrown once.
  int thrown = 0;
  for (int turn = 0; turn < 3; turn++) {
    options.progress = [&](const cortex::Progress &) -> bool {
      thrown++;
      throw std::runtime_error("enough");
    };
    unpack.progress = options.progress;
    try {
      if (turn == 0) cortex::compress_file(model, fresh, options);
      if (turn == 1) static_cast<void>(cortex::try_compress_file(model, fresh, options));
      if (turn == 2) cortex::decompress_file(path, fresh, unpack);
      CHECK(!"an exception was swallowed");
    } catch (const std::runtime_error &error) {
      CHECK(!std::strcmp(error.what(), "enough"));
    }
    CHECK(thrown == turn + 1 && folder.files() == files);
  }
  // Not only exceptions that are derived from std::exception.
  options.progress = [](const cortex::Progress &) { throw 42; };
  try {
    cortex::compress_file(model, fresh, options);
    CHECK(!"an exception was swallowed");
  } catch (int number) {
    CHECK(number == 42);
  }
  // A callback that uses Cortex itself, and fails in it.
  options.progress = [&](const cortex::Progress &) {
    THROWS(Io, "nowhere", cortex::Archive::open(folder / "nowhere.cai"));
    static_cast<void>(cortex::Archive::open(folder / "nowhere.cai"));
  };
  THROWS(Io, "nowhere", cortex::compress_file(model, fresh, options));
  CHECK(folder.files() == files && read_file(path) == before);
}

static void mistakes(const Folder &folder, const std::string &model) {
  const std::string path = folder / "x.cai", nul("a\0b", 3);
  THROWS(InvalidArgument, "both input and output", cortex::compress_file(model, model));
  THROWS(Io, "none", cortex::compress_file(folder / "none", path));
  THROWS(Corrupt, "", cortex::decompress_file(model, path));
  THROWS(InvalidArgument, "input holds a NUL at byte 1", cortex::compress_file(nul, path));
  THROWS(InvalidArgument, "output holds a NUL at byte 1", cortex::compress_file(model, nul));
  THROWS(InvalidArgument, "output holds a NUL", cortex::decompress_file(model, nul));
  cortex::CompressOptions options;
  options.spec = "int7x";
  THROWS(InvalidArgument, "options.spec", cortex::compress_file(model, path, options));
  options.spec = nul;
  THROWS(InvalidArgument, "options.spec holds a NUL", cortex::compress_file(model, path, options));
  options.spec.reset();
  options.exclude = "(";
  THROWS(InvalidArgument, "options.exclude", cortex::compress_file(model, path, options));
  options.exclude.reset();
  options.calibration = folder / "none";
  THROWS(Io, "none", cortex::compress_file(model, path, options));
  options.calibration.reset();
  options.rules = {{"a", "int8"}, {"[", "int8"}};
  THROWS(InvalidArgument, "options.rules[1].pattern", cortex::compress_file(model, path, options));
  options.rules[1] = {"a", nul};
  THROWS(InvalidArgument, "options.rules[1].spec holds a NUL",
         cortex::compress_file(model, path, options));
  options.rules.clear();
  options.threads = SIZE_MAX;
  THROWS(InvalidArgument, "options.threads", cortex::compress_file(model, path, options));
}

int main() {
  const Folder folder;
  const std::string model = folder / "m\xc3\xb6""del.safetensors";
  write_model(model);
  options_and_progress(folder, model);
  stopped(folder, model);
  mistakes(folder, model);
  return report();
}
