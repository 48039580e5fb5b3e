/* Writing and reading archives, whole and damaged ones. */

#include "check.h"

enum { ROWS = 40, COLS = 96 };
static float *w;

static cortex_tensor *compressed(const char *spec) {
  static const size_t shape[] = {ROWS, COLS};
  cortex_view view = view_of(w, CORTEX_DTYPE_F32, 2, shape);
  cortex_tensor *t = NULL;
  OK(cortex_tensor_compress(&view, spec, &t, &err));
  return t;
}

static void write_archive(const char *path) {
  cortex_writer *writer = NULL;
  OK(cortex_writer_create(path, &writer, &err));
  OK(cortex_writer_set_metadata(writer, "author", "nobody", &err));
  OK(cortex_writer_set_metadata(writer, "author", "s\xc3\xb6meone", &err));
  cortex_tensor *a = compressed("int8"), *b = compressed("dense | shuffle | zstd");
  OK(cortex_writer_add(writer, "a", a, &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "tensor 'a'", cortex_writer_add(writer, "a", b, &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "nothing", cortex_writer_alias(writer, "c", "nothing", &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "name is not UTF-8", cortex_writer_add(writer, "\xff", b, &err));
  OK(cortex_writer_add(writer, "b \xce\xb2", b, &err));
  OK(cortex_writer_alias(writer, "c", "b \xce\xb2", &err));
  cortex_tensor_free(a);
  cortex_tensor_free(b);
  uint64_t bytes = 0;
  OK(cortex_writer_finish(writer, &bytes, &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "finished", cortex_writer_finish(writer, NULL, &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "finished", cortex_writer_alias(writer, "d", "a", &err));
  cortex_writer_free(writer);
  size_t len = 0;
  free(read_file(path, &len));
  CHECK(bytes == len);
}

static void read_archive(const char *path, int mapped) {
  cortex_archive *archive = NULL;
  if (mapped)
    OK(cortex_archive_open(path, &archive, &err));
  else
    OK(cortex_archive_open_unmapped(path, &archive, &err));
  if (!archive) return;
  CHECK(cortex_archive_len(archive) == 2);
  CHECK(!strcmp(cortex_archive_name(archive, 0), "a"));
  CHECK(!strcmp(cortex_archive_name(archive, 1), "b \xce\xb2"));
  CHECK(!cortex_archive_name(archive, 2) && !cortex_archive_name(archive, SIZE_MAX));
  CHECK(cortex_archive_find(archive, "a") == 0 && cortex_archive_find(archive, "c") == 1);
  CHECK(cortex_archive_find(archive, "A") == -1 && cortex_archive_find(archive, NULL) == -1);
  CHECK(cortex_archive_find(archive, "\xff") == -1);
  CHECK(cortex_archive_alias_len(archive) == 1 && !cortex_archive_alias(archive, 1));
  CHECK(!strcmp(cortex_archive_alias(archive, 0), "c"));
  CHECK(!strcmp(cortex_archive_alias_target(archive, 0), "b \xce\xb2"));
  CHECK(cortex_archive_metadata_len(archive) == 1);
  CHECK(!strcmp(cortex_archive_metadata_key(archive, 0), "author"));
  CHECK(!strcmp(cortex_archive_metadata(archive, "author"), "s\xc3\xb6meone"));
  CHECK(!cortex_archive_metadata(archive, "title"));
  OK(cortex_archive_verify(archive, &err));
  char *json = NULL;
  OK(cortex_archive_inspect(archive, &json, &err));
  CHECK(json && strstr(json, "\"spec\":\"int8\""));
  cortex_string_free(json);

  cortex_tensor *t = NULL, *c = NULL, *poison = (void *)&w;
  FAILS(CORTEX_INVALID_ARGUMENT, "no tensor 'aa'",
        cortex_archive_tensor(archive, "aa", &poison, &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "index is 2",
        cortex_archive_tensor_at(archive, 2, &poison, &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "name is NULL",
        cortex_archive_tensor(archive, NULL, &poison, &err));
  CHECK(poison == (void *)&w);
  OK(cortex_archive_tensor(archive, "c", &c, &err));
  OK(cortex_archive_tensor_at(archive, 0, &t, &err));

  /* Tensors outlive the archive, and the file's name. */
  cortex_archive_free(archive);
  CHECK(!strcmp(cortex_tensor_name(t), "a") && !strcmp(cortex_tensor_name(c), "b \xce\xb2"));
  float out[ROWS * COLS], y[ROWS], z[ROWS];
  OK(cortex_tensor_decompress(c, out, sizeof out, &err));
  CHECK(!memcmp(out, w, sizeof out));
  cortex_tensor *fresh = compressed("int8");
  size_t x_shape[] = {COLS};
  cortex_view x = view_of(w, CORTEX_DTYPE_F32, 1, x_shape);
  OK(cortex_tensor_matmul(t, &x, NULL, y, ROWS, &err));
  OK(cortex_tensor_matmul(fresh, &x, NULL, z, ROWS, &err));
  CHECK(!memcmp(y, z, sizeof y));
  OK(cortex_tensor_verify(t, &err));
  cortex_tensor_free(fresh);
  cortex_tensor_free(t);
  cortex_tensor_free(c);
}

static cortex_status open_and_verify(const char *path) {
  cortex_archive *archive = NULL;
  cortex_status status = cortex_archive_open(path, &archive, &err);
  if (status != CORTEX_OK) return status;
  status = cortex_archive_verify(archive, &err);
  cortex_archive_free(archive);
  return status;
}

/* A flipped bit anywhere, and a cut anywhere, is found. */
static void damaged(const char *path) {
  size_t len = 0;
  unsigned char *bytes = read_file(path, &len);
  const char *bad = in_folder("bad.cai");
  for (size_t at = 0; at < len; at += 1 + at % 89) {
    bytes[at] ^= 0x10;
    write_file(bad, bytes, len);
    cortex_status status = open_and_verify(bad);
    if (status != CORTEX_CORRUPT) {
      fprintf(stderr, "byte %zu: %s\n", at, cortex_status_name(status));
      failures++;
    }
    cortex_error_free(err);
    err = NULL;
    bytes[at] ^= 0x10;
  }
  for (size_t cut = 0; cut < len; cut += 1 + len / 23) {
    write_file(bad, bytes, cut);
    FAILS(CORTEX_CORRUPT, "", open_and_verify(bad));
  }

  /* Damaged data is named: the tensor and the offset. The other tensor still works. */
  bytes[200] ^= 1;
  write_file(bad, bytes, len);
  cortex_archive *archive = NULL;
  OK(cortex_archive_open(bad, &archive, &err));
  CHECK(cortex_archive_verify(archive, &err) == CORTEX_CORRUPT);
  CHECK(err && cortex_error_tensor(err) && !strcmp(cortex_error_tensor(err), "a"));
  CHECK(err && cortex_error_offset(err) >= 64 && cortex_error_offset(err) <= 200);
  CHECK(err && strstr(cortex_error_message(err), "tensor 'a'"));
  cortex_error_free(err);
  err = NULL;
  cortex_tensor *t = NULL, *b = NULL;
  OK(cortex_archive_tensor(archive, "a", &t, &err));
  OK(cortex_archive_tensor(archive, "b \xce\xb2", &b, &err));
  FAILS(CORTEX_CORRUPT, "tensor 'a'", cortex_tensor_verify(t, &err));
  OK(cortex_tensor_verify(b, &err));

  /* Damaged data does not get into another archive, and breaks its writer. */
  int files = files_in_folder();
  cortex_writer *writer = NULL;
  OK(cortex_writer_create(in_folder("copy.cai"), &writer, &err));
  OK(cortex_writer_add(writer, "b", b, &err));
  FAILS(CORTEX_CORRUPT, "tensor 'a'", cortex_writer_add(writer, "a", t, &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "broken", cortex_writer_finish(writer, NULL, &err));
  cortex_writer_free(writer);
  CHECK(files_in_folder() == files);
  cortex_archive_free(archive);
  cortex_tensor_free(t);
  cortex_tensor_free(b);
  free(bytes);
  unlink(bad);
  FAILS(CORTEX_IO, "bad.cai", open_and_verify(bad));
}

/* Nothing appears, and nothing is lost, until a writer is finished. */
static void unfinished(const char *path) {
  size_t len = 0;
  unsigned char *before = read_file(path, &len);
  int files = files_in_folder();
  cortex_writer *writer = NULL;
  OK(cortex_writer_create(path, &writer, &err));
  cortex_tensor *t = compressed("dense");
  OK(cortex_writer_add(writer, "t", t, &err));
  cortex_writer_free(writer);
  cortex_tensor_free(t);
  CHECK(files_in_folder() == files);
  size_t now = 0;
  unsigned char *after = read_file(path, &now);
  CHECK(now == len && !memcmp(before, after, len));
  free(before);
  free(after);
  writer = (void *)&w;
  FAILS(CORTEX_IO, "nowhere", cortex_writer_create(in_folder("nowhere/x.cai"), &writer, &err));
  FAILS(CORTEX_INVALID_ARGUMENT, "folder", cortex_writer_create(folder, &writer, &err));
  CHECK(writer == (void *)&w);
}

int main(void) {
  w = weights(ROWS * COLS);
  make_folder();
  char path[128];
  strcpy(path, in_folder("m\xc3\xb6" "del.cai"));
  write_archive(path);
  read_archive(path, 1);
  read_archive(path, 0);
  damaged(path);
  unfinished(path);
  remove_folder();
  free(w);
  return report();
}
