// Archives and their writer: whole ones, damaged ones, and what is refused.

#include "check.hpp"
#include "folder.hpp"

static const std::size_t ROWS = 40, COLS = 96;

static cortex::Tensor compressed(const char *spec) {
  const std::vector<float> w = weights(ROWS * COLS);
  return cortex::Tensor::compress(cortex::View(w, {ROWS, COLS}), spec);
}

static void write(const std::string &path) {
  cortex::Writer writer = cortex::Writer::create(path);
  writer.set_metadata("author", "nobody");
  writer.set_metadata("author", "s\xc3\xb6meone");
  writer.set_metadata("empty", "");
  writer.add("a", compressed("int8"));
  THROWS(InvalidArgument, "tensor 'a'", writer.add("a", compressed("int8")));
  THROWS(InvalidArgument, "nothing", writer.alias("c", "nothing"));
  THROWS(InvalidArgument, "name is not UTF-8", writer.add("\xff", compressed("int8")));
  THROWS(InvalidArgument, "name holds a NUL at byte 1",
         writer.add(std::string_view("x\0y", 3), compressed("int8")));
  THROWS(InvalidArgument, "alias holds a NUL at byte 0", writer.alias(std::string(1, '\0'), "a"));
  THROWS(InvalidArgument, "target holds a NUL", writer.alias("z", std::string(1, '\0')));
  THROWS(InvalidArgument, "key holds a NUL", writer.set_metadata(std::string(1, '\0'), ""));
  THROWS(InvalidArgument, "value holds a NUL", writer.set_metadata("k", std::string(1, '\0')));
  THROWS(InvalidArgument, "tensor is NULL", writer.add("x", cortex::Tensor()));
  writer.add("b \xce\xb2", compressed("dense | shuffle | zstd"));
  writer.alias("c", "b \xce\xb2");
  // Not more of the text than the view shows.
  writer.alias(std::string_view("dee", 1), "a");

  cortex::Writer there = std::move(writer);
  CHECK(!writer && there);
  THROWS(InvalidArgument, "writer is NULL", writer.finish());
  THROWS(InvalidArgument, "writer is NULL", writer.add("x", compressed("int8")));
  const std::uint64_t bytes = there.finish();
  THROWS(InvalidArgument, "finished", there.finish());
  THROWS(InvalidArgument, "finished", there.alias("e", "a"));
  CHECK(bytes == read_file(path).size());
}

static void read(const std::string &path, bool mapped) {
  cortex::OpenOptions options;
  options.mapped = mapped;
  cortex::Archive archive = cortex::Archive::open(path, options);
  CHECK(archive.size() == 2 && !archive.empty());
  CHECK(archive.file_bytes() == read_file(path).size());
  CHECK(archive.names() == std::vector<std::string>({"a", "b \xce\xb2"}));
  CHECK(archive.name(1) == "b \xce\xb2" && archive.name(2).empty() && archive.name(SIZE_MAX).empty());
  CHECK(archive.find("a") == 0u && archive.find("c") == 1u && !archive.find("A"));
  CHECK(archive.contains("d") && !archive.contains("") && !archive.contains("\xff"));
  CHECK(!archive.contains(std::string_view("a\0b", 3)));
  CHECK(archive.aliases() == (std::map<std::string, std::string>{{"c", "b \xce\xb2"}, {"d", "a"}}));
  CHECK(archive.metadata() ==
        (std::map<std::string, std::string>{{"author", "s\xc3\xb6meone"}, {"empty", ""}}));
  CHECK(archive.metadata("author") == "s\xc3\xb6meone" && archive.metadata("empty") == "");
  CHECK(!archive.metadata("title") && !archive.metadata(std::string_view("author\0", 7)));
  CHECK(archive.inspect().find("\"spec\":\"int8\"") != std::string::npos);
  archive.verify();
  THROWS(InvalidArgument, "no tensor 'aa'", archive.tensor("aa"));
  THROWS(InvalidArgument, "name holds a NUL", archive.tensor(std::string_view("a\0", 2)));
  THROWS(InvalidArgument, "index is 2", archive.tensor_at(2));

  // Tensors outlive the archive, and moving it.
  cortex::Archive there = std::move(archive);
  CHECK(!archive && archive.empty() && archive.names().empty() && archive.aliases().empty());
  CHECK(archive.file_bytes() == 0 && !archive.find("a") && !archive.metadata("author"));
  THROWS(InvalidArgument, "archive is NULL", archive.tensor("a"));
  THROWS(InvalidArgument, "archive is NULL", archive.verify());
  THROWS(InvalidArgument, "archive is NULL", archive.inspect());
  const cortex::Tensor a = there.tensor_at(0), b = there.tensor("c");
  cortex::Archive &same = there;
  there = std::move(same);
  CHECK(there.size() == 2);
  there.close();
  CHECK(!there);
  CHECK(a.name() == "a" && b.name() == "b \xce\xb2");
  CHECK(b.decompress_as<float>() == weights(ROWS * COLS));
  const std::vector<float> x = weights(COLS);
  CHECK(a.matmul(x) == compressed("int8").matmul(x));
  a.verify();
}

static cortex::Result<void> open_and_use(const std::string &path) {
  auto archive = cortex::Archive::try_open(path);
  if (!archive) return archive.error();
  return archive->try_verify();
}

// A flipped bit anywhere, and a cut anywhere, is found.
static void damaged(const Folder &folder, const std::string &path) {
  Bytes bytes = read_file(path);
  const std::string bad = folder / "bad.cai";
  for (std::size_t at = 0; at < bytes.size(); at += 1 + at % 89) {
    bytes[at] ^= 0x10;
    write_file(bad, bytes.data(), bytes.size());
    REFUSED(Corrupt, "", open_and_use(bad));
    bytes[at] ^= 0x10;
  }
  for (std::size_t cut = 0; cut < bytes.size(); cut += 1 + bytes.size() / 23) {
    write_file(bad, bytes.data(), cut);
    REFUSED(Corrupt, "", open_and_use(bad));
  }
  // Damaged data is named: the tensor and the offset. The other tensor still works.
  bytes[200] ^= 1;
  write_file(bad, bytes.data(), bytes.size());
  const cortex::Archive archive = cortex::Archive::open(bad);
  const cortex::Error error = archive.try_verify().error();
  CHECK(error.kind() == cortex::ErrorKind::Corrupt && error.tensor() == "a");
  CHECK(error.offset() && *error.offset() >= 64 && *error.offset() <= 200);
  THROWS(Corrupt, "tensor 'a'", archive.tensor("a").verify());
  archive.tensor("c").verify();
  cortex::Writer writer = cortex::Writer::create(folder / "copy.cai");
  THROWS(Corrupt, "tensor 'a'", writer.add("a", archive.tensor("a")));
  THROWS(InvalidArgument, "broken", writer.finish());
}

static void unfinished(const Folder &folder, const std::string &path) {
  const Bytes before = read_file(path);
  const auto files = folder.files();
  {
    cortex::Writer writer = cortex::Writer::create(path);
    writer.add("t", compressed("dense"));
    writer = cortex::Writer::create(folder / "other.cai");
    CHECK(folder.files() == files + 1);
  }
  CHECK(folder.files() == files && read_file(path) == before);
  THROWS(Io, "nowhere", cortex::Writer::create(folder / "nowhere/x.cai"));
  THROWS(InvalidArgument, "folder", cortex::Writer::create(folder.path()));
  THROWS(InvalidArgument, "path is empty", cortex::Writer::create(""));
  THROWS(InvalidArgument, "path holds a NUL", cortex::Writer::create(std::string(1, '\0')));
  THROWS(Io, "nowhere.cai", cortex::Archive::open(folder / "nowhere.cai"));
  THROWS(InvalidArgument, "path holds a NUL at byte 2",
         cortex::Archive::open(std::string_view("ab\0", 3)));
  THROWS(InvalidArgument, "path is not UTF-8", cortex::Archive::open("a\xff"));
  THROWS(Corrupt, "", [&] {
    write_file(folder / "empty.cai", "", 0);
    cortex::Archive::open(folder / "empty.cai");
  }());
}

int main() {
  const Folder folder;
  const std::string path = folder / "m\xc3\xb6""del \xe6\xa8\xa1.cai";
  write(path);
  read(path, true);
  read(path, false);
  damaged(folder, path);
  unfinished(folder, path);
  return report();
}
