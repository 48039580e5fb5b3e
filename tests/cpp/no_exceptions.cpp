// Everything that can fail, in its `try_` form, compiled with -fno-exceptions and -fno-rtti.

#include "check.hpp"

#include <string>

#include <sys/wait.h>

#if CORTEX_HPP_EXCEPTIONS
#error "this is to be compiled with -fno-exceptions"
#endif

static const char *archive_path, *model_path, *index_path;

static cortex::Result<cortex::Tensor> make(std::size_t rows, std::size_t cols) {
  const std::vector<float> w = weights(rows * cols);
  return cortex::Tensor::try_compress(cortex::View(w, {rows, cols}), "int8");
}

// The usual way: an error goes up by return.
static cortex::Result<std::vector<float>> first_product(const char *path) {
  auto archive = cortex::Archive::try_open(path);
  if (!archive) return archive.error();
  auto w = archive->try_tensor("w");
  if (!w) return w.error();
  return w->try_matmul(std::vector<float>(w->cols(), 1));
}

static void tensors() {
  auto made = make(32, 64);
  CHECK(made.ok());
  const cortex::Tensor t = std::move(made).value();
  const std::vector<float> x(64, 1);
  std::vector<float> y(32);
  CHECK(t.try_matmul(x, y).ok());
  const auto again = t.try_matmul(x);
  CHECK(again && *again == y);
  CHECK(t.try_matmul_t(std::vector<float>(32, 1)).ok());
  CHECK(t.try_decompress()->size() == 32 * 64 * 4 && t.try_decompress_as<float>()->size() == 32 * 64);
  CHECK(t.try_decode_rows(3, 2)->size() == 2 * 64 * 4 && t.try_decode_rows_f32(3, 2)->size() == 128);
  CHECK(t.try_verify().ok() && t.try_clone()->spec() == "int8");
  REFUSED(InvalidArgument, "y_len is 31", t.try_matmul(x, cortex::Span<float>(y).first(31)));
  REFUSED(InvalidArgument, "x has shape", t.try_matmul(y));
  REFUSED(InvalidArgument, "f32, not f64", t.try_decompress_as<double>());
  REFUSED(InvalidArgument, "32 rows", t.try_decode_rows_f32(32, 1));
  REFUSED(InvalidArgument, "", t.try_conv_output_shape({1, 2, 3}));
  REFUSED(InvalidArgument, "tensor is NULL", cortex::Tensor().try_matmul(x));
  REFUSED(InvalidArgument, "column 1",
          cortex::Tensor::try_compress(cortex::View(x, {8, 8}), "int9"));
  REFUSED(InvalidArgument, "column 1", cortex::try_spec_parse("int9"));
  // Memory that there is not is an error, not the end.
  REFUSED(OutOfMemory, "no memory", cortex::detail::make_vector<float>(SIZE_MAX / 2));
  REFUSED(OutOfMemory, "no memory", cortex::detail::make_vector<float>(std::size_t(1) << 58));
}

static void files() {
  auto t = make(32, 64);
  auto writer = cortex::Writer::try_create(archive_path);
  CHECK(writer && t);
  CHECK(writer->try_add("w", *t).ok() && writer->try_alias("v", "w").ok());
  CHECK(writer->try_set_metadata("k", "v").ok());
  REFUSED(InvalidArgument, "'w'", writer->try_add("w", *t));
  const auto bytes = writer->try_finish();
  CHECK(bytes && *bytes == read_file(archive_path).size());
  REFUSED(InvalidArgument, "finished", writer->try_finish());
  REFUSED(Io, "nowhere", cortex::Writer::try_create("/nowhere/x.cai"));

  auto archive = cortex::Archive::try_open(archive_path);
  CHECK(archive && archive->size() == 1 && archive->metadata("k") == "v");
  CHECK(archive->try_verify().ok() && archive->try_tensor_at(0).ok());
  CHECK(archive->try_inspect()->find("int8") != std::string::npos);
  REFUSED(InvalidArgument, "index is 1", archive->try_tensor_at(1));
  CHECK(first_product(archive_path)->size() == 32);
  REFUSED(Io, "/nowhere", first_product("/nowhere/x.cai"));

  write_model(model_path);
  cortex::CompressOptions options;
  int calls = 0;
  options.progress = [&](const cortex::Progress &) { calls++; };
  CHECK(cortex::try_compress_file(model_path, archive_path, options).ok() && calls >= 3);
  REFUSED(InvalidArgument, "no tensor 'w'", first_product(archive_path));
  options.progress = [](const cortex::Progress &) { return false; };
  REFUSED(Cancelled, "cancelled", cortex::try_compress_file(model_path, archive_path, options));
  CHECK(cortex::try_decompress_file(archive_path, model_path).ok());

  auto index = cortex::SdrIndex::try_create(100);
  const std::vector<std::uint32_t> active = {5, 3};
  CHECK(index && index->try_add(1, active).ok() && index->try_save(index_path).ok());
  auto loaded = cortex::SdrIndex::try_load(index_path);
  CHECK(loaded && loaded->try_get(1)->size() == 2 && loaded->try_top_k(active, 3)->size() == 1);
  CHECK(*loaded->try_remove(1) && loaded->empty());
  REFUSED(InvalidArgument, "id 1", loaded->try_get(1));
}

// What would throw ends the program with the message.
static void ends() {
  std::fflush(nullptr);
  int message[2];
  if (pipe(message)) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    dup2(message[1], 2);
    cortex::spec_parse("int9");
    _exit(0);
  }
  close(message[1]);
  char text[512] = {};
  const ssize_t len = read(message[0], text, sizeof text - 1);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(len > 0 && std::strstr(text, "cortex: ") == text && std::strstr(text, "int9"));
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main() {
  char folder[] = "/tmp/cortex-test-XXXXXX";
  if (!mkdtemp(folder)) std::abort();
  const std::string base = folder;
  const std::string archive = base + "/a.cai", model = base + "/m.safetensors", index = base + "/i.sdr";
  archive_path = archive.c_str();
  model_path = model.c_str();
  index_path = index.c_str();
  tensors();
  files();
  ends();
  for (const char *path : {archive_path, model_path, index_path}) unlink(path);
  CHECK(rmdir(folder) == 0);  // nothing else was left there
  return report();
}
