// Eight threads share one tensor, one archive and one index.

#include "check.hpp"
#include "folder.hpp"

#include <atomic>
#include <thread>

int main() {
  const std::size_t rows = 96, cols = 256, count = 8;
  const Folder folder;
  const std::vector<float> w = weights(rows * cols), x = weights(cols);
  const cortex::Tensor t = cortex::Tensor::compress(cortex::View(w, {rows, cols}), "int4(group=32) | zstd");
  cortex::Writer writer = cortex::Writer::create(folder / "w.cai");
  writer.add("w", t);
  writer.finish();
  cortex::OpenOptions unmapped;
  unmapped.mapped = false;
  const cortex::Archive archive = cortex::Archive::open(folder / "w.cai", unmapped);
  cortex::SdrIndex filled = cortex::SdrIndex::create(1000);
  for (std::uint32_t i = 0; i < 100; i++) filled.add(i, std::vector<std::uint32_t>{i, i + 100, i + 300});
  const cortex::SdrIndex &index = filled;
  const std::vector<float> expected = t.matmul(x);

  std::atomic<int> mistakes{0}, turns{0};
  std::vector<std::thread> threads;
  for (std::size_t n = 0; n < count; n++) {
    threads.emplace_back([&, n] {
      for (std::uint32_t turn = 0; turn < 10; turn++) {
        try {
          const cortex::Tensor mine = turn % 2 ? archive.tensor("w") : t.clone();
          std::vector<float> y(rows);
          (turn % 3 ? mine : t).matmul(x, y);
          mistakes += y != expected;
          mine.verify();
          const auto found = index.top_k(std::vector<std::uint32_t>{turn, turn + 100, 999}, 1);
          mistakes += found.size() != 1 || found[0].id != turn || found[0].overlap != 2;
          // Errors of one thread are no business of the others.
          const std::string name = "x" + std::to_string(n);
          const auto missing = archive.try_tensor(name);
          mistakes += missing.error().message().find("'" + name + "'") == std::string_view::npos;
          turns++;
        } catch (const std::exception &error) {
          std::fprintf(stderr, "%s\n", error.what());
          mistakes++;
        }
      }
    });
  }
  for (std::thread &thread : threads) thread.join();
  CHECK(mistakes == 0 && turns == 80);

  // Made in one thread, freed in another.
  cortex::Tensor there;
  std::thread([&] { there = archive.tensor("w"); }).join();
  CHECK(there.matmul(x) == expected);
  std::thread([gone = std::move(there)] { static_cast<void>(gone); }).join();
  return report();
}
