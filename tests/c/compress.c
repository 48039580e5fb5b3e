/* Whole models in and out, with reports, progress and cancelling. */

#include "check.h"

enum { ROWS = 64, COLS = 128 };

/* A safetensors file of two matrices and a vector. */
static void write_model(const char *path, const float *w) {
  char header[512];
  int n = snprintf(header, sizeof header,
                   "{\"__metadata__\":{\"about\":\"a test\"},"
                   "\"first.weight\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[0,%d]},"
                   "\"first.bias\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%d,%d]},"
                   "\"last.weight\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%d,%d]}}",
                   ROWS, COLS, ROWS * COLS * 4, ROWS, ROWS * COLS * 4, (ROWS * COLS + ROWS) * 4,
                   ROWS, COLS, (ROWS * COLS + ROWS) * 4, (2 * ROWS * COLS + ROWS) * 4);
  uint64_t len = (uint64_t)n;
  FILE *file = fopen(path, "wb");
  if (!file) abort();
  fwrite(&len, 8, 1, file);
  fwrite(header, 1, (size_t)n, file);
  fwrite(w, 4, 2 * ROWS * COLS + ROWS, file);
  fclose(file);
}

struct watch {
  uint64_t calls, last_tensors, stop_after;
  int good;
};

static int32_t on_progress(const cortex_progress *p, void *user_data) {
  struct watch *watch = user_data;
  watch->calls++;
  watch->good &= p->struct_size >= sizeof *p && p->done_bytes <= p->total_bytes;
  watch->good &= p->done_tensors <= p->total_tensors && p->total_tensors == 3;
  watch->good &= p->done_tensors >= watch->last_tensors && p->tensor && *p->tensor;
  watch->last_tensors = p->done_tensors;
  return watch->stop_after && p->done_tensors >= watch->stop_after;
}

int main(void) {
  float *w = weights(2 * ROWS * COLS + ROWS);
  make_folder();
  char model[128], archive_path[128], back[128];
  strcpy(model, in_folder("model.safetensors"));
  strcpy(archive_path, in_folder("model.cai"));
  strcpy(back, in_folder("back.safetensors"));
  write_model(model, w);

  /* The defaults, without anything. */
  OK(cortex_compress_file(model, archive_path, NULL, NULL, &err));
  CHECK(files_in_folder() == 2);

  struct watch watch = {0, 0, 0, 1};
  cortex_rule rules[] = {{"^last\\.", "int4(group=64)"}, {"weight", "dense"}};
  cortex_compress_options options = {0};
  options.struct_size = sizeof options;
  options.spec = "int8";
  options.rules = rules;
  options.rules_len = 1;
  options.threads = 2;
  options.progress = on_progress;
  options.user_data = &watch;
  char *report_json = NULL;
  OK(cortex_compress_file(model, archive_path, &options, &report_json, &err));
  CHECK(watch.good && watch.calls >= 3 && watch.last_tensors == 3);
  CHECK(report_json && strstr(report_json, "\"name\":\"first.bias\"") &&
        strstr(report_json, "\"output_bytes\":"));
  cortex_string_free(report_json);

  cortex_archive *archive = NULL;
  OK(cortex_archive_open(archive_path, &archive, &err));
  static const char *const specs[] = {"int8", NULL, "int4(group=64)"};
  CHECK(cortex_archive_len(archive) == 3);
  for (size_t i = 0; i < cortex_archive_len(archive); i++) {
    cortex_tensor *t = NULL;
    OK(cortex_archive_tensor_at(archive, i, &t, &err));
    if (specs[i])
      CHECK(!strcmp(cortex_tensor_spec(t), specs[i]));
    else
      CHECK(cortex_tensor_relative_error(t) == 0);
    cortex_tensor_free(t);
  }
  CHECK(!strcmp(cortex_archive_metadata(archive, "about"), "a test"));
  CHECK(cortex_archive_file_bytes(archive) > 0);
  cortex_archive_free(archive);

  /* Excluded tensors, and a model that comes back bit for bit. */
  options.exclude = "weight$";
  options.rules_len = 2;
  OK(cortex_compress_file(model, archive_path, &options, NULL, &err));
  cortex_decompress_options unpack = {0};
  unpack.struct_size = sizeof unpack;
  unpack.threads = 1;
  unpack.progress = on_progress;
  watch = (struct watch){0, 0, 0, 1};
  unpack.user_data = &watch;
  uint64_t bytes = 0;
  OK(cortex_decompress_file(archive_path, back, &unpack, &bytes, &err));
  CHECK(watch.good && watch.last_tensors == 3);
  size_t len = 0;
  unsigned char *content = read_file(back, &len);
  size_t payload = (2 * ROWS * COLS + ROWS) * 4;
  CHECK(bytes == len && len > payload);
  /* Offsets stand in the header in the order of the tensors here. */
  CHECK(len > payload && !memcmp(content + len - payload, w, payload));
  free(content);

  /* The callback cancels: no output, no temporary file, no report; what stood there stays. */
  int files = files_in_folder();
  watch = (struct watch){0, 0, 1, 1};
  char *poison = (void *)&watch;
  FAILS(CORTEX_CANCELLED, "cancelled",
        cortex_compress_file(model, in_folder("new.cai"), &options, &poison, &err));
  CHECK(poison == (void *)&watch && watch.last_tensors == 1);
  CHECK(files_in_folder() == files);
  watch = (struct watch){0, 0, 2, 1};
  FAILS(CORTEX_CANCELLED, "cancelled",
        cortex_compress_file(model, archive_path, &options, NULL, &err));
  CHECK(files_in_folder() == files);
  OK(cortex_archive_open(archive_path, &archive, &err));
  OK(cortex_archive_verify(archive, &err));
  cortex_archive_free(archive);
  watch = (struct watch){0, 0, 1, 1};
  bytes = 77;
  FAILS(CORTEX_CANCELLED, "cancelled",
        cortex_decompress_file(archive_path, in_folder("new.safetensors"), &unpack, &bytes, &err));
  CHECK(bytes == 77 && files_in_folder() == files);
  watch.stop_after = 0;

  /* Mistakes. */
#define BAD CORTEX_INVALID_ARGUMENT
  FAILS(BAD, "both input and output", cortex_compress_file(model, model, NULL, NULL, &err));
  FAILS(BAD, "both input and output",
        cortex_decompress_file(archive_path, archive_path, NULL, NULL, &err));
  FAILS(CORTEX_IO, "none", cortex_compress_file(in_folder("none"), archive_path, NULL, NULL, &err));
  options.spec = "int7x";
  FAILS(BAD, "options.spec", cortex_compress_file(model, archive_path, &options, NULL, &err));
  options.spec = NULL;
  options.exclude = "(";
  FAILS(BAD, "options.exclude", cortex_compress_file(model, archive_path, &options, NULL, &err));
  options.exclude = NULL;
  rules[1].spec = NULL;
  FAILS(BAD, "options.rules[1].spec is NULL",
        cortex_compress_file(model, archive_path, &options, NULL, &err));
  rules[1].spec = "q(bits=99)";
  FAILS(BAD, "options.rules[1].spec", cortex_compress_file(model, archive_path, &options, NULL, &err));
  rules[1].pattern = "[";
  FAILS(BAD, "options.rules[1].pattern",
        cortex_compress_file(model, archive_path, &options, NULL, &err));
  options.rules = NULL;
  FAILS(BAD, "options.rules is NULL",
        cortex_compress_file(model, archive_path, &options, NULL, &err));
  options.rules_len = 0;
  options.threads = SIZE_MAX;
  FAILS(BAD, "options.threads", cortex_compress_file(model, archive_path, &options, NULL, &err));
  options.threads = 0;
  options.struct_size = 3;
  FAILS(BAD, "options.struct_size", cortex_compress_file(model, archive_path, &options, NULL, &err));
  CHECK(files_in_folder() == files);

  /* Values that a lossy form cannot hold are named. */
  w[COLS + 5] = INFINITY;
  write_model(model, w);
  options.struct_size = sizeof options;
  options.spec = "int8";
  CHECK(cortex_compress_file(model, archive_path, &options, NULL, &err) == BAD);
  CHECK(err && cortex_error_tensor(err) && !strcmp(cortex_error_tensor(err), "first.weight"));
  CHECK(err && strstr(cortex_error_message(err), "index 133"));
  cortex_error_free(err);
  err = NULL;
  /* A cut model, and one that is none. */
  {
    size_t model_len = 0;
    unsigned char *bytes_of = read_file(model, &model_len);
    write_file(model, bytes_of, model_len - 1);
    FAILS(CORTEX_CORRUPT, "", cortex_compress_file(model, archive_path, NULL, NULL, &err));
    free(bytes_of);
  }
  FAILS(CORTEX_CORRUPT, "", cortex_decompress_file(model, back, NULL, NULL, &err));
  CHECK(files_in_folder() == files);

  remove_folder();
  free(w);
  return report();
}
