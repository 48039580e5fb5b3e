/* Compressing, decoding and multiplying single tensors. */

#include "check.h"

enum { ROWS = 67, COLS = 200, BATCH = 5 };

/* |a - b| is small beside the size of the sums that a and b are. */
static int close_to(double a, double b, double scale) { return fabs(a - b) <= 2e-5 * scale + 1e-6; }

/* y[b, r] = sum x[b, k] w[r, k], and y[b, k] = sum g[b, r] w[r, k], in double. */
static void check_products(const cortex_tensor *t, const float *w) {
  size_t x_shape[] = {BATCH, COLS}, g_shape[] = {BATCH, ROWS};
  float *x = weights(BATCH * COLS), *g = weights(BATCH * ROWS);
  float y[BATCH * ROWS], z[BATCH * COLS];
  cortex_view xv = view_of(x, CORTEX_DTYPE_F32, 2, x_shape);
  cortex_view gv = view_of(g, CORTEX_DTYPE_F32, 2, g_shape);
  cortex_matmul_options small = {0};
  small.struct_size = sizeof small;
  small.threads = 2;
  small.scratch_bytes = 1;
  small.precision = CORTEX_PRECISION_EXACT;
  /* Without options activations may be rounded where the weights are coarse: half a step
     of 1/127 of the largest each. */
  const cortex_matmul_options *settings[] = {NULL, &small};
  const double slack[] = {0.02, 0};
  for (int s = 0; s < 2; s++) {
    memset(y, 0x55, sizeof y);
    memset(z, 0x55, sizeof z);
    OK(cortex_tensor_matmul(t, &xv, settings[s], y, BATCH * ROWS, &err));
    OK(cortex_tensor_matmul_t(t, &gv, settings[s], z, BATCH * COLS, &err));
    int good = 1;
    for (size_t b = 0; b < BATCH; b++) {
      for (size_t r = 0; r < ROWS; r++) {
        double sum = 0, scale = 0;
        for (size_t k = 0; k < COLS; k++) {
          double p = (double)x[b * COLS + k] * w[r * COLS + k];
          sum += p;
          scale += fabs(p);
        }
        good &= fabs(y[b * ROWS + r] - sum) <= slack[s] * scale || close_to(y[b * ROWS + r], sum, scale);
      }
      for (size_t k = 0; k < COLS; k++) {
        double sum = 0, scale = 0;
        for (size_t r = 0; r < ROWS; r++) {
          double p = (double)g[b * ROWS + r] * w[r * COLS + k];
          sum += p;
          scale += fabs(p);
        }
        good &= close_to(z[b * COLS + k], sum, scale);
      }
    }
    CHECK(good);
  }
  free(x);
  free(g);
}

static void every_form(void) {
  static const struct {
    const char *spec;
    double error; /* at most */
    int sparse;
  } cases[] = {
      {"dense", 0, 0},
      {"dense | shuffle | zstd(3)", 0, 0},
      {"dense(type=bf16)", 0.004, 0},
      {"int8", 0.006, 0},
      {"int8(group=row, zero=asymmetric)", 0.01, 0},
      {"int4(group=32)", 0.1, 0},
      {"int4(group=64, search=lsq) | zstd(1)", 0.1, 0},
      {"q(bits=3, group=32)", 0.3, 0},
      {"mask", 0, 1},
      {"mask(values=[int8])", 0.01, 1},
      {"lossless", 0, 1},
      {"auto(error=1%)", 0.01, 0},
  };
  size_t shape[] = {ROWS, COLS};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    float *w = weights(ROWS * COLS);
    if (cases[c].sparse)
      for (size_t i = 0; i < ROWS * COLS; i++)
        if (i % 10) w[i] = 0;
    cortex_view view = view_of(w, CORTEX_DTYPE_F32, 2, shape);
    cortex_tensor *t = NULL;
    OK(cortex_tensor_compress(&view, cases[c].spec, &t, &err));
    if (!t) continue;

    CHECK(cortex_tensor_dtype(t) == CORTEX_DTYPE_F32);
    CHECK(cortex_tensor_ndim(t) == 2 && !memcmp(cortex_tensor_shape(t), shape, sizeof shape));
    CHECK(cortex_tensor_rows(t) == ROWS && cortex_tensor_cols(t) == COLS);
    CHECK(cortex_tensor_name(t) == NULL);
    CHECK(cortex_tensor_raw_bytes(t) == ROWS * COLS * 4);
    CHECK(cortex_tensor_stored_bytes(t) > 0);
    double bits = (double)cortex_tensor_stored_bytes(t) * 8 / (ROWS * COLS);
    CHECK(fabs(cortex_tensor_bits_per_weight(t) - bits) < 1e-9);

    float out[ROWS * COLS];
    OK(cortex_tensor_decompress(t, out, sizeof out, &err));
    double error = 0, norm = 0, max = 0;
    for (size_t i = 0; i < ROWS * COLS; i++) {
      double d = (double)w[i] - out[i];
      error += d * d;
      norm += (double)w[i] * w[i];
      if (fabs(d) > max) max = fabs(d);
    }
    double relative = sqrt(error / norm);
    CHECK(relative <= cases[c].error);
    CHECK(fabs(cortex_tensor_relative_error(t) - relative) <= 1e-6 * relative);
    CHECK(fabs(cortex_tensor_max_abs_error(t) - max) <= 1e-6 * max);
    if (relative == 0)
      CHECK(isinf(cortex_tensor_sqnr_db(t)) && !memcmp(out, w, sizeof out));
    else
      CHECK(fabs(cortex_tensor_sqnr_db(t) + 20 * log10(relative)) < 1e-4);

    float some[20 * COLS];
    OK(cortex_tensor_decode_rows(t, 30, 20, some, sizeof some, &err));
    CHECK(!memcmp(some, out + 30 * COLS, sizeof some));
    memset(some, 0, sizeof some);
    OK(cortex_tensor_decode_rows_f32(t, 17, 3, some, 3 * COLS, &err));
    CHECK(!memcmp(some, out + 17 * COLS, 3 * COLS * 4));
    OK(cortex_tensor_decode_rows(t, ROWS, 0, NULL, 0, &err));
    OK(cortex_tensor_verify(t, &err));

    /* The canonical spec makes the same tensor again, and a clone is the same one. */
    cortex_tensor *again = NULL, *clone = NULL;
    OK(cortex_tensor_compress(&view, cortex_tensor_spec(t), &again, &err));
    CHECK(!strcmp(cortex_tensor_spec(again), cortex_tensor_spec(t)));
    CHECK(cortex_tensor_stored_bytes(again) == cortex_tensor_stored_bytes(t));
    OK(cortex_tensor_clone(again, &clone, &err));
    cortex_tensor_free(again);
    check_products(t, out);
    check_products(clone, out);
    cortex_tensor_free(clone);
    cortex_tensor_free(t);
    free(w);
  }
}

/* A transposed, a reversed and an unaligned view give what their copies give. */
static void strided(void) {
  float *w = weights(ROWS * COLS);
  float *copy = malloc(ROWS * COLS * sizeof *copy);
  float *back = malloc(ROWS * COLS * sizeof *back);
  size_t shape[] = {COLS, ROWS};
  ptrdiff_t transpose[] = {1, COLS}, reverse[] = {-ROWS, -1};
  for (int turn = 0; turn < 2; turn++) {
    cortex_view view = {w, CORTEX_DTYPE_F32, 2, shape, transpose};
    if (turn) {
      view.data = w + ROWS * COLS - 1;
      view.strides = reverse;
    }
    for (size_t r = 0; r < COLS; r++)
      for (size_t c = 0; c < ROWS; c++)
        copy[r * ROWS + c] = turn ? w[ROWS * COLS - 1 - r * ROWS - c] : w[c * COLS + r];
    cortex_tensor *t = NULL;
    OK(cortex_tensor_compress(&view, "dense | shuffle | zstd", &t, &err));
    OK(cortex_tensor_decompress(t, back, ROWS * COLS * 4, &err));
    CHECK(!memcmp(back, copy, ROWS * COLS * 4));
    cortex_tensor_free(t);
  }

  /* x of other dtypes, strides and alignments. */
  size_t w_shape[] = {ROWS, COLS}, x_shape[] = {2, COLS};
  cortex_view view = view_of(w, CORTEX_DTYPE_F32, 2, w_shape);
  cortex_tensor *t = NULL;
  OK(cortex_tensor_compress(&view, "int8", &t, &err));
  float x[2 * COLS], y[2 * ROWS], z[2 * ROWS];
  double wide[2 * COLS];
  float mixed[COLS * 2];
  char shifted[sizeof x + 1];
  uint16_t half[2 * COLS];
  for (size_t i = 0; i < 2 * COLS; i++) {
    /* Small whole numbers, which every float dtype holds. */
    x[i] = (float)(i % 7) - 3;
    wide[i] = x[i];
    mixed[i % COLS * 2 + i / COLS] = x[i];
    uint32_t bits;
    memcpy(&bits, &x[i], 4);
    half[i] = (uint16_t)(bits >> 16);
  }
  memcpy(shifted + 1, x, sizeof x);
  ptrdiff_t columns[] = {1, 2};
  const cortex_view views[] = {
      {x, CORTEX_DTYPE_F32, 2, x_shape, NULL},
      {wide, CORTEX_DTYPE_F64, 2, x_shape, NULL},
      {half, CORTEX_DTYPE_BF16, 2, x_shape, NULL},
      {mixed, CORTEX_DTYPE_F32, 2, x_shape, columns},
      {shifted + 1, CORTEX_DTYPE_F32, 2, x_shape, NULL},
  };
  for (size_t v = 0; v < sizeof views / sizeof *views; v++) {
    OK(cortex_tensor_matmul(t, &views[v], NULL, v ? z : y, 2 * ROWS, &err));
    if (v) CHECK(!memcmp(y, z, sizeof y));
  }
  /* A vector is a batch of one; more dimensions are a batch of their product; a stride of
     0 repeats. */
  size_t one[] = {COLS}, three[] = {1, 2, COLS};
  ptrdiff_t repeat[] = {0, 1};
  cortex_view xv = view_of(x, CORTEX_DTYPE_F32, 1, one);
  OK(cortex_tensor_matmul(t, &xv, NULL, z, ROWS, &err));
  int good = 1;
  for (size_t r = 0; r < ROWS; r++) good &= fabsf(y[r] - z[r]) < 1e-4f;
  CHECK(good);
  xv = view_of(x, CORTEX_DTYPE_F32, 3, three);
  OK(cortex_tensor_matmul(t, &xv, NULL, z, 2 * ROWS, &err));
  CHECK(!memcmp(y, z, sizeof y));
  xv = view_of(x, CORTEX_DTYPE_F32, 2, x_shape);
  xv.strides = repeat;
  OK(cortex_tensor_matmul(t, &xv, NULL, z, 2 * ROWS, &err));
  CHECK(!memcmp(z, z + ROWS, ROWS * sizeof *z));
  cortex_tensor_free(t);
  free(w);
  free(copy);
  free(back);
}

/* Scalars, vectors, empty tensors, integers. */
static void edges(void) {
  cortex_tensor *t = NULL;
  double seven = 7, out = 0;
  cortex_view view = view_of(&seven, CORTEX_DTYPE_F64, 0, NULL);
  OK(cortex_tensor_compress(&view, NULL, &t, &err));
  CHECK(cortex_tensor_ndim(t) == 0 && cortex_tensor_rows(t) == 1 && cortex_tensor_cols(t) == 1);
  OK(cortex_tensor_decompress(t, &out, sizeof out, &err));
  CHECK(out == 7);
  cortex_tensor_free(t);

  size_t empty[] = {0, 8}, hollow[] = {3, 0};
  view = view_of(NULL, CORTEX_DTYPE_F32, 2, empty);
  OK(cortex_tensor_compress(&view, "int8", &t, &err));
  CHECK(cortex_tensor_rows(t) == 0 && cortex_tensor_cols(t) == 8);
  CHECK(cortex_tensor_bits_per_weight(t) == 0);
  OK(cortex_tensor_decompress(t, NULL, 0, &err));
  float x[8] = {0}, y[3] = {9, 9, 9};
  size_t x_shape[] = {8};
  cortex_view xv = view_of(x, CORTEX_DTYPE_F32, 1, x_shape);
  OK(cortex_tensor_matmul(t, &xv, NULL, NULL, 0, &err));
  cortex_tensor_free(t);
  view.shape = hollow;
  OK(cortex_tensor_compress(&view, NULL, &t, &err));
  x_shape[0] = 0;
  OK(cortex_tensor_matmul(t, &xv, NULL, y, 3, &err));
  CHECK(y[0] == 0 && y[1] == 0 && y[2] == 0);
  cortex_tensor_free(t);

  /* Integers stay as they are unless told otherwise; a bool is a byte. */
  int16_t numbers[100];
  unsigned char flags[64], flags_back[64];
  int16_t numbers_back[100];
  for (int i = 0; i < 100; i++) numbers[i] = (int16_t)(i * 300 - 9000);
  for (int i = 0; i < 64; i++) flags[i] = i % 3 == 0;
  size_t n_shape[] = {10, 10}, f_shape[] = {64};
  view = view_of(numbers, CORTEX_DTYPE_I16, 2, n_shape);
  OK(cortex_tensor_compress(&view, NULL, &t, &err));
  CHECK(cortex_tensor_relative_error(t) == 0);
  OK(cortex_tensor_decompress(t, numbers_back, sizeof numbers_back, &err));
  CHECK(!memcmp(numbers, numbers_back, sizeof numbers));
  cortex_tensor_free(t);
  view = view_of(flags, CORTEX_DTYPE_BOOL, 1, f_shape);
  OK(cortex_tensor_compress(&view, "lossless", &t, &err));
  OK(cortex_tensor_decompress(t, flags_back, sizeof flags_back, &err));
  CHECK(!memcmp(flags, flags_back, sizeof flags));
  cortex_tensor_free(t);
}

int main(void) {
  every_form();
  strided();
  edges();
  return report();
}
