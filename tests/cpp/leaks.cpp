// Ten thousand times opened and closed, a thousand objects left to their destructors, and as
// many errors: memory, files and mappings are as before.

#include "check.hpp"
#include "folder.hpp"

#include <fstream>
#include <stdexcept>

struct Held {
  long rss_kib = 0;
  std::ptrdiff_t files = 0, mappings = 0;
};

static Held held() {
  Held out;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) out.rss_kib = std::stol(line.substr(6));
  }
  using Entries = std::filesystem::directory_iterator;
  out.files = std::distance(Entries("/proc/self/fd"), Entries());
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) out.mappings++;
  return out;
}

static void cycles(const std::string &path, const std::vector<float> &x, int count) {
  for (int i = 0; i < count; i++) {
    cortex::OpenOptions options;
    options.mapped = i % 2 == 0;
    const cortex::Archive archive = cortex::Archive::open(path, options);
    const cortex::Tensor t = archive.tensor_at(0);
    if (i % 10 == 0) CHECK(t.matmul(x).size() == t.rows());
    REFUSED(InvalidArgument, "nobody", archive.try_tensor("nobody"));
  }
}

// Objects that nobody closes: in containers, moved over, dropped by an exception.
static void abandoned(const Folder &folder, const std::string &path, int count) {
  std::vector<cortex::Tensor> tensors;
  for (int i = 0; i < count; i++) {
    tensors.push_back(cortex::Archive::open(path).tensor_at(0));
    cortex::SdrIndex index = cortex::SdrIndex::create(64);
    index = cortex::SdrIndex::create(128);
    try {
      cortex::Writer writer = cortex::Writer::create(folder / "never.cai");
      writer.add("t", tensors.back());
      throw std::runtime_error("before it is finished");
    } catch (const std::runtime_error &) {
    }
    if (tensors.size() == 100) tensors.clear();
  }
}

int main() {
  const Folder folder;
  const std::string path = folder / "w.cai";
  const std::vector<float> w = weights(64 * 128), x = weights(128);
  cortex::Writer writer = cortex::Writer::create(path);
  writer.add("w", cortex::Tensor::compress(cortex::View(w, {64, 128}), "int8"));
  writer.finish();

  cycles(path, x, 1000);
  abandoned(folder, path, 100);
  const Held before = held();
  cycles(path, x, 10000);
  abandoned(folder, path, 1000);
  const Held after = held();
  CHECK(before.rss_kib > 0 && before.files > 2 && before.mappings > 2);
  CHECK(after.files == before.files);
  // An arena of the allocator may come or go; a leaked mapping a turn would be thousands.
  CHECK(after.mappings <= before.mappings + 10);
  // A leak of 200 bytes a turn would be seen.
  CHECK(after.rss_kib <= before.rss_kib + 2048);
  if (failures) {
    std::fprintf(stderr, "before: %ld KiB, %td files, %td mappings; after: %ld, %td, %td\n",
                 before.rss_kib, before.files, before.mappings, after.rss_kib, after.files,
                 after.mappings);
  }
  CHECK(folder.files() == 1);
  return report();
}
