/* Wrong use: every mistake is an error that names the argument, and leaves the outputs as
   they were. */

#include "check.h"

#define BAD CORTEX_INVALID_ARGUMENT

/* What no function may touch unless it succeeds. */
static unsigned char mark;
#define POISON ((void *)&mark)

static const size_t shape[] = {8, 32};
static float data[8 * 32];

static cortex_view good(void) { return view_of(data, CORTEX_DTYPE_F32, 2, shape); }

static void null_everywhere(void) {
  cortex_view v = good();
  cortex_tensor *t = POISON;
  cortex_archive *a = POISON;
  cortex_writer *w = POISON;
  char *s = POISON;
  uint64_t size = 77;
  float y[8];

  /* err may be NULL, and is not touched by success. */
  CHECK(cortex_tensor_compress(NULL, "int8", &t, NULL) == BAD);
  CHECK(cortex_archive_open(NULL, &a, NULL) == BAD);
  cortex_error *before = POISON;
  cortex_tensor *x = NULL;
  CHECK(cortex_tensor_compress(&v, "int8", &x, &before) == CORTEX_OK && before == POISON);

  FAILS(BAD, "view is NULL", cortex_tensor_compress(NULL, "int8", &t, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_compress(&v, "int8", NULL, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_clone(NULL, &t, &err));
  FAILS(BAD, "clone is NULL", cortex_tensor_clone(x, NULL, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_decompress(NULL, y, sizeof y, &err));
  FAILS(BAD, "out is NULL", cortex_tensor_decompress(x, NULL, sizeof data, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_decode_rows(NULL, 0, 1, y, sizeof y, &err));
  FAILS(BAD, "out is NULL", cortex_tensor_decode_rows(x, 0, 1, NULL, 128, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_decode_rows_f32(NULL, 0, 1, y, 8, &err));
  FAILS(BAD, "out is NULL", cortex_tensor_decode_rows_f32(x, 0, 1, NULL, 32, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_matmul(NULL, &v, NULL, y, 8, &err));
  FAILS(BAD, "x is NULL", cortex_tensor_matmul(x, NULL, NULL, y, 8, &err));
  FAILS(BAD, "y is NULL", cortex_tensor_matmul(x, &v, NULL, NULL, 64, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_matmul_t(NULL, &v, NULL, y, 8, &err));
  FAILS(BAD, "g is NULL", cortex_tensor_matmul_t(x, NULL, NULL, y, 8, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_verify(NULL, &err));
  FAILS(BAD, "path is NULL", cortex_archive_open(NULL, &a, &err));
  FAILS(BAD, "archive is NULL", cortex_archive_open("x", NULL, &err));
  FAILS(BAD, "path is NULL", cortex_archive_open_unmapped(NULL, &a, &err));
  FAILS(BAD, "archive is NULL", cortex_archive_tensor(NULL, "x", &t, &err));
  FAILS(BAD, "archive is NULL", cortex_archive_tensor_at(NULL, 0, &t, &err));
  FAILS(BAD, "archive is NULL", cortex_archive_inspect(NULL, &s, &err));
  FAILS(BAD, "archive is NULL", cortex_archive_verify(NULL, &err));
  FAILS(BAD, "path is NULL", cortex_writer_create(NULL, &w, &err));
  FAILS(BAD, "writer is NULL", cortex_writer_create("x", NULL, &err));
  FAILS(BAD, "writer is NULL", cortex_writer_add(NULL, "x", x, &err));
  FAILS(BAD, "writer is NULL", cortex_writer_alias(NULL, "x", "y", &err));
  FAILS(BAD, "writer is NULL", cortex_writer_set_metadata(NULL, "x", "y", &err));
  FAILS(BAD, "writer is NULL", cortex_writer_finish(NULL, &size, &err));
  FAILS(BAD, "input is NULL", cortex_compress_file(NULL, "x", NULL, &s, &err));
  FAILS(BAD, "output is NULL", cortex_compress_file("x", NULL, NULL, &s, &err));
  FAILS(BAD, "input is NULL", cortex_decompress_file(NULL, "x", NULL, &size, &err));
  FAILS(BAD, "output is NULL", cortex_decompress_file("x", NULL, NULL, &size, &err));
  FAILS(BAD, "spec is NULL", cortex_spec_parse(NULL, &s, &err));
  FAILS(BAD, "canonical is NULL", cortex_spec_parse("int8", NULL, &err));
  CHECK(t == POISON && a == POISON && w == POISON && s == POISON && size == 77);

  cortex_sdr_index *index = POISON;
  size_t len = 77;
  int32_t removed = 77;
  FAILS(BAD, "index is NULL", cortex_sdr_index_create(64, NULL, &err));
  FAILS(BAD, "path is NULL", cortex_sdr_index_load(NULL, &index, &err));
  FAILS(BAD, "index is NULL", cortex_sdr_index_load("x", NULL, &err));
  FAILS(BAD, "index is NULL", cortex_sdr_index_save(NULL, "x", &err));
  FAILS(BAD, "index is NULL", cortex_sdr_index_add(NULL, 1, NULL, 0, &err));
  FAILS(BAD, "index is NULL", cortex_sdr_index_get(NULL, 1, NULL, 0, &len, &err));
  FAILS(BAD, "index is NULL", cortex_sdr_index_remove(NULL, 1, &removed, &err));
  FAILS(BAD, "index is NULL", cortex_sdr_index_top_k(NULL, NULL, 0, 0, NULL, &len, &err));
  CHECK(index == POISON && len == 77 && removed == 77);

  CHECK(!cortex_sdr_index_bits(NULL) && !cortex_sdr_index_len(NULL));
  CHECK(!cortex_sdr_index_memory_bytes(NULL));
  CHECK(cortex_error_kind(NULL) == CORTEX_OK && cortex_error_offset(NULL) == -1);
  CHECK(!cortex_error_message(NULL) && !cortex_error_tensor(NULL) && !cortex_error_kind_name(NULL));
  CHECK(!cortex_tensor_name(NULL) && !cortex_tensor_spec(NULL) && !cortex_tensor_shape(NULL));
  CHECK(!cortex_tensor_dtype(NULL) && !cortex_tensor_ndim(NULL) && !cortex_tensor_rows(NULL));
  CHECK(!cortex_tensor_cols(NULL) && !cortex_tensor_raw_bytes(NULL));
  CHECK(!cortex_tensor_stored_bytes(NULL) && isnan(cortex_tensor_bits_per_weight(NULL)));
  CHECK(isnan(cortex_tensor_relative_error(NULL)) && isnan(cortex_tensor_max_abs_error(NULL)));
  CHECK(isnan(cortex_tensor_sqnr_db(NULL)));
  CHECK(!cortex_archive_len(NULL) && !cortex_archive_file_bytes(NULL));
  CHECK(!cortex_archive_name(NULL, 0) && cortex_archive_find(NULL, "x") == -1);
  CHECK(!cortex_archive_alias_len(NULL) && !cortex_archive_alias(NULL, 0));
  CHECK(!cortex_archive_alias_target(NULL, 0) && !cortex_archive_metadata_len(NULL));
  CHECK(!cortex_archive_metadata_key(NULL, 0) && !cortex_archive_metadata(NULL, "x"));

  cortex_error_free(NULL);
  cortex_tensor_free(NULL);
  cortex_archive_free(NULL);
  cortex_writer_free(NULL);
  cortex_string_free(NULL);
  cortex_sdr_index_free(NULL);
  cortex_tensor_free(x);
}

static void bad_views(void) {
  cortex_tensor *t = POISON;
  cortex_view v = good();
  const uint32_t numbers[] = {0, 14, 258, UINT32_MAX};
  for (int i = 0; i < 4; i++) {
    v.dtype = numbers[i];
    FAILS(BAD, "view.dtype", cortex_tensor_compress(&v, "int8", &t, &err));
    CHECK(!cortex_dtype_name(numbers[i]) && !cortex_dtype_bytes(numbers[i]));
  }
  CHECK(!strcmp(cortex_dtype_name(CORTEX_DTYPE_BF16), "bf16"));
  CHECK(cortex_dtype_bytes(CORTEX_DTYPE_I64) == 8);
  v = good();
  v.ndim = 17;
  FAILS(BAD, "view.ndim is 17", cortex_tensor_compress(&v, "int8", &t, &err));
  v.ndim = UINT32_MAX;
  FAILS(BAD, "view.ndim", cortex_tensor_compress(&v, "int8", &t, &err));
  v = good();
  v.shape = NULL;
  FAILS(BAD, "view.shape is NULL", cortex_tensor_compress(&v, "int8", &t, &err));
  v = good();
  v.data = NULL;
  FAILS(BAD, "view.data is NULL", cortex_tensor_compress(&v, "int8", &t, &err));
  v = good();
  v.shape = (const size_t *)((const char *)shape + 1);
  FAILS(BAD, "view.shape is not aligned", cortex_tensor_compress(&v, "int8", &t, &err));
  const size_t huge[] = {SIZE_MAX / 2, 3};
  v = good();
  v.shape = huge;
  FAILS(CORTEX_LIMIT_EXCEEDED, "view", cortex_tensor_compress(&v, "int8", &t, &err));
  const ptrdiff_t far[] = {PTRDIFF_MAX, 1};
  v = good();
  v.strides = far;
  FAILS(BAD, "view: strides", cortex_tensor_compress(&v, "int8", &t, &err));

  v = good();
  data[37] = NAN;
  FAILS(BAD, "index 37", cortex_tensor_compress(&v, "int8", &t, &err));
  data[37] = 0;
  CHECK(t == POISON);
}

static void bad_text(void) {
  cortex_tensor *t = POISON;
  cortex_archive *a = POISON;
  cortex_writer *w = POISON;
  char *s = POISON;
  cortex_view v = good();
  FAILS(BAD, "column 1", cortex_tensor_compress(&v, "int9", &t, &err));
  FAILS(BAD, "int8", cortex_tensor_compress(&v, "int9", &t, &err)); /* the nearest name */
  FAILS(BAD, "column 6", cortex_tensor_compress(&v, "int8(group=7x)", &t, &err));
  FAILS(BAD, "column", cortex_tensor_compress(&v, "", &t, &err));
  FAILS(BAD, "column 5", cortex_spec_parse("int8)", &s, &err));
  const char *invalid = "a\xff" "b";
  FAILS(BAD, "spec is not UTF-8 at byte 1", cortex_tensor_compress(&v, invalid, &t, &err));
  FAILS(BAD, "path is not UTF-8 at byte 1", cortex_archive_open(invalid, &a, &err));
  FAILS(BAD, "path is not UTF-8 at byte 1", cortex_writer_create(invalid, &w, &err));
  FAILS(BAD, "path is empty", cortex_writer_create("", &w, &err));
  FAILS(BAD, "input is not UTF-8", cortex_compress_file(invalid, "x", NULL, &s, &err));
  FAILS(BAD, "output is not UTF-8", cortex_decompress_file("x", invalid, NULL, NULL, &err));
  CHECK(t == POISON && a == POISON && w == POISON && s == POISON);

  OK(cortex_spec_parse(" q( bits = 8 ) ", &s, &err));
  CHECK(!strcmp(s, "int8"));
  cortex_string_free(s);
  CHECK(strstr(cortex_codecs_json(), "\"int4\"") && strstr(cortex_codecs_json(), "\"zstd\""));
  CHECK(cortex_codecs_json() == cortex_codecs_json());

  CHECK(!strcmp(cortex_status_name(CORTEX_OK), "ok"));
  CHECK(!strcmp(cortex_status_name(CORTEX_CORRUPT), "corrupt"));
  CHECK(!strcmp(cortex_status_name(12345), "unknown"));
  CHECK(cortex_tensor_compress(&v, "int9", &t, &err) == BAD);
  CHECK(!strcmp(cortex_error_kind_name(err), "invalid_argument"));
  CHECK(!cortex_error_tensor(err) && cortex_error_offset(err) == -1);
  cortex_error_free(err);
  err = NULL;
}

static void bad_buffers(void) {
  cortex_view v = good();
  cortex_tensor *t = NULL;
  OK(cortex_tensor_compress(&v, "int8", &t, &err));
  union {
    float f[8 * 32 + 1];
    unsigned char b[(8 * 32 + 1) * 4];
  } out;
  memset(&out, 0xa5, sizeof out);
  FAILS(BAD, "out_bytes is 1023", cortex_tensor_decompress(t, out.f, 1023, &err));
  FAILS(BAD, "out_bytes is 1028", cortex_tensor_decompress(t, out.f, 1028, &err));
  FAILS(BAD, "8 rows", cortex_tensor_decode_rows(t, 7, 2, out.f, 256, &err));
  FAILS(BAD, "8 rows", cortex_tensor_decode_rows(t, 2, SIZE_MAX, out.f, 256, &err));
  FAILS(BAD, "out_bytes", cortex_tensor_decode_rows(t, 0, 2, out.f, 255, &err));
  FAILS(BAD, "out_len", cortex_tensor_decode_rows_f32(t, 0, 2, out.f, 63, &err));
  FAILS(BAD, "out is not aligned",
        cortex_tensor_decode_rows_f32(t, 0, 2, (float *)(void *)(out.b + 1), 64, &err));

  float x[64] = {0};
  size_t x_shape[] = {2, 32};
  cortex_view xv = view_of(x, CORTEX_DTYPE_F32, 2, x_shape);
  FAILS(BAD, "y_len is 15", cortex_tensor_matmul(t, &xv, NULL, out.f, 15, &err));
  FAILS(BAD, "y_len", cortex_tensor_matmul(t, &xv, NULL, out.f, 17, &err));
  FAILS(BAD, "g has shape [2, 32]", cortex_tensor_matmul_t(t, &xv, NULL, out.f, 64, &err));
  x_shape[1] = 31;
  FAILS(BAD, "x has shape [2, 31]", cortex_tensor_matmul(t, &xv, NULL, out.f, 16, &err));
  xv.ndim = 0;
  FAILS(BAD, "x has shape []", cortex_tensor_matmul(t, &xv, NULL, out.f, 8, &err));
  xv.ndim = 2;
  x_shape[1] = 32;
  xv.dtype = CORTEX_DTYPE_I32;
  FAILS(BAD, "x.dtype is i32", cortex_tensor_matmul(t, &xv, NULL, out.f, 16, &err));
  xv.dtype = CORTEX_DTYPE_F32;
  FAILS(BAD, "y is not aligned",
        cortex_tensor_matmul(t, &xv, NULL, (float *)(void *)(out.b + 2), 16, &err));
  for (size_t i = 0; i < sizeof out.b; i++) {
    if (out.b[i] != 0xa5) {
      CHECK(!"an output was touched");
      break;
    }
  }
  FAILS(BAD, "y overlaps x", cortex_tensor_matmul(t, &xv, NULL, x + 40, 16, &err));

  cortex_matmul_options options = {0};
  FAILS(BAD, "options.struct_size is 0", cortex_tensor_matmul(t, &xv, &options, out.f, 16, &err));
  options.struct_size = SIZE_MAX;
  FAILS(BAD, "options.struct_size", cortex_tensor_matmul(t, &xv, &options, out.f, 16, &err));
  /* An older caller's shorter struct, and a newer one's longer struct. */
  options.struct_size = sizeof(size_t);
  OK(cortex_tensor_matmul(t, &xv, &options, out.f, 16, &err));
  struct {
    cortex_matmul_options known;
    size_t more;
  } newer = {{0}, 0};
  newer.known.struct_size = sizeof newer;
  OK(cortex_tensor_matmul(t, &xv, &newer.known, out.f, 16, &err));
  newer.more = 1;
  FAILS(CORTEX_UNSUPPORTED, "options sets a field",
        cortex_tensor_matmul(t, &xv, &newer.known, out.f, 16, &err));
  cortex_tensor_free(t);
}

int main(void) {
  for (size_t i = 0; i < 8 * 32; i++) data[i] = weight(i);
  null_everywhere();
  bad_views();
  bad_text();
  bad_buffers();
  return report();
}
