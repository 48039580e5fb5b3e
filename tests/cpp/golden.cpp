// Archives of version 1, which every later version opens: golden FOLDER, that of tests/golden/v1.

#include "folder.hpp"
#include "json.hpp"

static void opens(const std::string &path, const Json &expected, bool mapped) {
  cortex::OpenOptions options;
  options.mapped = mapped;
  const cortex::Archive archive = cortex::Archive::open(path, options);
  archive.verify();
  using Texts = std::map<std::string, std::string>;
  IN(path, archive.metadata() == expected["metadata"].get<Texts>());
  IN(path, archive.aliases() == expected["aliases"].get<Texts>());
  IN(path, archive.size() == expected["tensors"].size());
  std::size_t index = 0;
  for (const Json &t : expected["tensors"]) {
    const std::string name = t["name"];
    IN(name, archive.name(index) == name && archive.find(name) == index);
    const cortex::Tensor tensor = archive.tensor_at(index++);
    IN(name, tensor.name() == name && tensor.spec() == t["spec"].get<std::string>());
    IN(name, cortex::dtype_name(tensor.dtype()) == t["dtype"].get<std::string>());
    IN(name, cortex::Shape(tensor.shape()) == shape_of(t["shape"]));
    IN(name, bytes_from(tensor.decompress()) == base64(t["decoded"]));
  }
  for (const auto &[alias, target] : archive.aliases()) {
    IN(alias, archive.tensor(alias).name() == target);
  }
}

// Every tensor is decoded, or something is said; nothing else happens.
static bool is_noticed(const std::string &path) {
  const auto archive = cortex::Archive::try_open(path);
  if (!archive) return true;
  bool noticed = !archive->try_verify().ok();
  for (std::size_t i = 0; i < archive->size(); i++) {
    const auto tensor = archive->try_tensor_at(i);
    noticed = noticed || !tensor || !tensor->try_decompress();
  }
  return noticed;
}

static void damaged(const Folder &scratch, const std::string &path) {
  Bytes bytes = read_file(path);
  const std::string bad = scratch / "bad.cai";
  // Some sixty positions, whatever the size, and others in each file.
  const std::size_t step = bytes.size() / 60 + 1;
  for (std::size_t at = bytes.size() % step; at < bytes.size(); at += step) {
    const auto bit = static_cast<unsigned char>(1u << at % 8);
    bytes[at] ^= bit;
    write_file(bad, bytes.data(), bytes.size());
    IN(path + " at " + std::to_string(at), is_noticed(bad));
    bytes[at] ^= bit;
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  const std::string folder = argv[1];
  const Json archives = read_json(folder + "/manifest.json")["archives"];
  CHECK(!archives.empty());
  std::printf("manifest.json: %zu archives\n", archives.size());
  const Folder scratch;
  for (const Json &archive : archives) {
    const std::string path = folder + "/" + archive["file"].get<std::string>();
    try {
      opens(path, archive, true);
      opens(path, archive, false);
      damaged(scratch, path);
    } catch (const cortex::Error &error) {
      IN(path + ": " + error.what(), !"opens");
    }
  }
  return report();
}
