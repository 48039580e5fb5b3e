// The index of sparse sets.

#include "check.hpp"
#include "folder.hpp"

using Set = std::vector<std::uint32_t>;

int main() {
  const Folder folder;
  cortex::SdrIndex index = cortex::SdrIndex::create(300);
  CHECK(index && index.bits() == 300 && index.empty());
  index.add(7, Set{9, 3, 200});
  index.add(5, Set{3, 9, 10});
  index.add(UINT64_MAX, Set{299});
  index.add(1, {});
  CHECK(index.size() == 4 && index.memory_bytes() >= 4 * 300 / 8);
  CHECK(index.get(7) == Set({3, 9, 200}) && index.get(1).empty());

  const Set query{3, 9, 200, 299};
  const std::vector<cortex::SdrMatch> found = index.top_k(query, 10);
  CHECK(found.size() == 3 && found[0].id == 7 && found[0].overlap == 3);
  CHECK(found.size() == 3 && found[1].id == 5 && found[1].overlap == 2);
  CHECK(found.size() == 3 && found[2].id == UINT64_MAX && found[2].overlap == 1);
  CHECK(index.top_k(query, SIZE_MAX).size() == 3 && index.top_k(query, 0).empty());
  CHECK(index.top_k(Set(), 10).empty());
  cortex::SdrMatch two[2];
  CHECK(index.top_k(query, two) == 2 && two[1].id == 5);
  CHECK(index.top_k(query, cortex::Span<cortex::SdrMatch>()) == 0);

  THROWS(InvalidArgument, "0 bits", cortex::SdrIndex::create(0));
  THROWS(InvalidArgument, "active: an active bit is given twice", index.add(9, Set{1, 1}));
  THROWS(InvalidArgument, "active bit 300 of 300", index.add(9, Set{300}));
  THROWS(InvalidArgument, "item 5", index.add(5, Set{1}));
  THROWS(InvalidArgument, "active bit 300", index.top_k(Set{300}, 1));
  THROWS(InvalidArgument, "id 9", index.get(9));

  const std::string path = folder / "\xc3\xa4hnlich.sdr";
  index.save(path);
  cortex::SdrIndex loaded = cortex::SdrIndex::load(path);
  CHECK(loaded.size() == 4 && loaded.top_k(query, 1)[0].id == 7);
  THROWS(Io, "none.sdr", cortex::SdrIndex::load(folder / "none.sdr"));
  THROWS(Io, "nowhere", index.save(folder / "nowhere/x.sdr"));
  THROWS(InvalidArgument, "path holds a NUL", index.save(std::string(1, '\0')));
  THROWS(InvalidArgument, "path holds a NUL", cortex::SdrIndex::load(std::string(1, '\0')));
  Bytes bytes = read_file(path);
  bytes[bytes.size() / 2] ^= 1;
  write_file(path, bytes.data(), bytes.size());
  THROWS(Corrupt, "checksum", cortex::SdrIndex::load(path));
  CHECK(folder.files() == 1);

  CHECK(index.remove(7) && !index.remove(7) && index.size() == 3);
  CHECK(index.top_k(query, 10)[0].id == 5);

  cortex::SdrIndex there = std::move(index);
  CHECK(!index && index.size() == 0 && index.bits() == 0 && there.size() == 3);
  THROWS(InvalidArgument, "index is NULL", index.add(1, Set{1}));
  THROWS(InvalidArgument, "index is NULL", index.get(1));
  THROWS(InvalidArgument, "index is NULL", index.remove(1));
  THROWS(InvalidArgument, "index is NULL", index.top_k(query, 3));
  THROWS(InvalidArgument, "index is NULL", index.save(path));
  cortex::SdrIndex &same = there;
  there = std::move(same);
  CHECK(there.size() == 3);
  there.close();
  CHECK(!there);
  return report();
}
