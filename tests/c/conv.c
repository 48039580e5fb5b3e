/* Convolutions of one and two dimensions, and how products say what they did. */

#include "check.h"

/* Everything about one convolution; one dimension has a height of 1. */
typedef struct {
  size_t ndim, batch, in, out, x[2], taps[2], stride[2], before[2], after[2], dilation[2], groups;
} layer;

static size_t out_size(const layer *l, int axis) {
  size_t padded = l->x[axis] + l->before[axis] + l->after[axis];
  return (padded - l->dilation[axis] * (l->taps[axis] - 1) - 1) / l->stride[axis] + 1;
}

static cortex_conv_options options_of(const layer *l, const cortex_matmul_options *matmul) {
  cortex_conv_options o = {0};
  o.struct_size = sizeof o;
  o.stride_height = l->stride[0];
  o.stride_width = l->stride[1];
  o.padding_top = l->before[0];
  o.padding_bottom = l->after[0];
  o.padding_left = l->before[1];
  o.padding_right = l->after[1];
  o.dilation_height = l->dilation[0];
  o.dilation_width = l->dilation[1];
  o.groups = l->groups;
  o.matmul = matmul;
  return o;
}

/* Adds every product of the definition to sums and to sums of magnitudes. */
static void naive(const layer *l, const float *w, const float *x, const float *g, double *y,
                  double *y_scale, double *dx, double *dx_scale) {
  size_t oh = out_size(l, 0), ow = out_size(l, 1), in = l->in / l->groups;
  for (size_t b = 0; b < l->batch; b++)
    for (size_t o = 0; o < l->out; o++)
      for (size_t i = 0; i < oh; i++)
        for (size_t j = 0; j < ow; j++)
          for (size_t c = 0; c < in; c++)
            for (size_t u = 0; u < l->taps[0]; u++)
              for (size_t v = 0; v < l->taps[1]; v++) {
                size_t r = i * l->stride[0] + u * l->dilation[0] - l->before[0];
                size_t s = j * l->stride[1] + v * l->dilation[1] - l->before[1];
                if (r >= l->x[0] || s >= l->x[1]) continue; /* below 0 is large */
                size_t channel = o / (l->out / l->groups) * in + c;
                size_t yi = ((b * l->out + o) * oh + i) * ow + j;
                size_t xi = ((b * l->in + channel) * l->x[0] + r) * l->x[1] + s;
                double weight = w[((o * in + c) * l->taps[0] + u) * l->taps[1] + v];
                y[yi] += weight * x[xi];
                y_scale[yi] += fabs(weight * x[xi]);
                dx[xi] += weight * g[yi];
                dx_scale[xi] += fabs(weight * g[yi]);
              }
}

static int close_to(const float *found, const double *sum, const double *scale, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!(fabs(found[i] - sum[i]) <= 2e-5 * scale[i] + 1e-6)) return 0;
  return 1;
}

static void check_layer(const layer *l, const char *spec) {
  size_t oh = out_size(l, 0), ow = out_size(l, 1), in = l->in / l->groups;
  size_t w2[] = {l->out, in, l->taps[0], l->taps[1]}, w1[] = {l->out, in, l->taps[1]};
  size_t x2[] = {l->batch, l->in, l->x[0], l->x[1]}, x1[] = {l->batch, l->in, l->x[1]};
  size_t y2[] = {l->batch, l->out, oh, ow}, y1[] = {l->batch, l->out, ow};
  const size_t *ws = l->ndim == 4 ? w2 : w1, *xs = l->ndim == 4 ? x2 : x1;
  const size_t *ys = l->ndim == 4 ? y2 : y1;
  size_t wn = l->out * in * l->taps[0] * l->taps[1];
  size_t xn = l->batch * l->in * l->x[0] * l->x[1], yn = l->batch * l->out * oh * ow;
  float *w = weights(wn), *x = weights(xn), *g = weights(yn);
  for (size_t i = 0; i < wn; i += 3) w[i] = 0;

  cortex_view wv = view_of(w, CORTEX_DTYPE_F32, (uint32_t)l->ndim, ws);
  cortex_tensor *t = NULL;
  OK(cortex_tensor_compress(&wv, spec, &t, &err));
  OK(cortex_tensor_decompress(t, w, wn * 4, &err));

  double *y = calloc(yn, sizeof *y), *y_scale = calloc(yn, sizeof *y);
  double *dx = calloc(xn, sizeof *y), *dx_scale = calloc(xn, sizeof *y);
  float *found = malloc((xn > yn ? xn : yn) * sizeof *found);
  if (!y || !y_scale || !dx || !dx_scale || !found) abort();
  naive(l, w, x, g, y, y_scale, dx, dx_scale);

  uint32_t computed = 77;
  cortex_matmul_options small = {0};
  small.struct_size = sizeof small;
  small.threads = 2;
  small.scratch_bytes = 1;
  small.precision = CORTEX_PRECISION_EXACT;
  small.computed = &computed;
  const cortex_matmul_options *settings[] = {NULL, &small};
  cortex_view xv = view_of(x, CORTEX_DTYPE_F32, (uint32_t)l->ndim, xs);
  cortex_view gv = view_of(g, CORTEX_DTYPE_F32, (uint32_t)l->ndim, ys);
  for (int s = 0; s < 2; s++) {
    cortex_conv_options o = options_of(l, settings[s]);
    size_t shape[4] = {0};
    OK(cortex_tensor_conv_output_shape(t, xs, l->ndim, &o, shape, &err));
    CHECK(!memcmp(shape, ys, l->ndim * sizeof *shape));
    memset(found, 0x55, yn * sizeof *found);
    OK(cortex_tensor_conv(t, &xv, &o, found, yn, &err));
    CHECK(close_to(found, y, y_scale, yn));
    memset(found, 0x55, xn * sizeof *found);
    OK(cortex_tensor_conv_t(t, &gv, xs, l->ndim, &o, found, xn, &err));
    CHECK(close_to(found, dx, dx_scale, xn));
  }
  CHECK(computed == CORTEX_PRECISION_EXACT);

  cortex_tensor_free(t);
  free(w), free(x), free(g), free(y), free(y_scale), free(dx), free(dx_scale), free(found);
}

static void every_form(void) {
  static const char *const specs[] = {"dense", "int8", "int4(group=32)", "mask", "svd(rank=3)"};
  static const layer layers[] = {
      {4, 2, 3, 5, {9, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, 1},
      {4, 1, 4, 6, {8, 11}, {3, 2}, {2, 3}, {0, 2}, {1, 0}, {2, 1}, 2},
      {4, 1, 8, 8, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, 8},
      {3, 2, 3, 4, {1, 40}, {1, 5}, {1, 2}, {0, 3}, {0, 1}, {1, 2}, 1},
  };
  for (size_t s = 0; s < sizeof specs / sizeof *specs; s++)
    for (size_t l = 0; l < sizeof layers / sizeof *layers; l++) check_layer(&layers[l], specs[s]);
}

#define BAD CORTEX_INVALID_ARGUMENT

static void refused(void) {
  enum { OUT = 4, IN = 3, SIDE = 6 };
  size_t ws[] = {OUT, IN, 3, 3}, xs[] = {1, IN, SIDE, SIDE}, ys[] = {1, OUT, 4, 4};
  float *w = weights(OUT * IN * 9), *x = weights(IN * SIDE * SIDE);
  float y[OUT * 16], dx[IN * SIDE * SIDE];
  cortex_view wv = view_of(w, CORTEX_DTYPE_F32, 4, ws), xv = view_of(x, CORTEX_DTYPE_F32, 4, xs);
  cortex_view gv = view_of(y, CORTEX_DTYPE_F32, 4, ys);
  cortex_tensor *t = NULL;
  OK(cortex_tensor_compress(&wv, "int8", &t, &err));
  size_t shape[4] = {9, 9, 9, 9};

  FAILS(BAD, "tensor is NULL", cortex_tensor_conv_output_shape(NULL, xs, 4, NULL, shape, &err));
  FAILS(BAD, "x_shape is NULL", cortex_tensor_conv_output_shape(t, NULL, 4, NULL, shape, &err));
  FAILS(BAD, "y_shape is NULL", cortex_tensor_conv_output_shape(t, xs, 4, NULL, NULL, &err));
  FAILS(BAD, "x_ndim is 17", cortex_tensor_conv_output_shape(t, xs, 17, NULL, shape, &err));
  FAILS(BAD, "x has shape [1, 3, 6]", cortex_tensor_conv_output_shape(t, xs, 3, NULL, shape, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_conv(NULL, &xv, NULL, y, OUT * 16, &err));
  FAILS(BAD, "x is NULL", cortex_tensor_conv(t, NULL, NULL, y, OUT * 16, &err));
  FAILS(BAD, "y is NULL", cortex_tensor_conv(t, &xv, NULL, NULL, OUT * 16, &err));
  FAILS(BAD, "y_len is 63", cortex_tensor_conv(t, &xv, NULL, y, OUT * 16 - 1, &err));
  FAILS(BAD, "y overlaps x", cortex_tensor_conv(t, &xv, NULL, x + 4, OUT * 16, &err));
  FAILS(BAD, "tensor is NULL", cortex_tensor_conv_t(NULL, &gv, xs, 4, NULL, dx, 108, &err));
  FAILS(BAD, "g is NULL", cortex_tensor_conv_t(t, NULL, xs, 4, NULL, dx, 108, &err));
  FAILS(BAD, "x_shape is NULL", cortex_tensor_conv_t(t, &gv, NULL, 4, NULL, dx, 108, &err));
  FAILS(BAD, "x_gradient is NULL", cortex_tensor_conv_t(t, &gv, xs, 4, NULL, NULL, 108, &err));
  FAILS(BAD, "x_gradient_len is 107", cortex_tensor_conv_t(t, &gv, xs, 4, NULL, dx, 107, &err));
  FAILS(BAD, "g has shape [1, 3, 6, 6]", cortex_tensor_conv_t(t, &xv, xs, 4, NULL, dx, 108, &err));
  FAILS(BAD, "x_gradient overlaps g", cortex_tensor_conv_t(t, &gv, xs, 4, NULL, y, 108, &err));

  cortex_conv_options o = {0};
  FAILS(BAD, "options.struct_size is 0", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  o.struct_size = sizeof o;
  o.groups = 3;
  FAILS(BAD, "groups is 3", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  o.groups = 2;
  FAILS(BAD, "x has 3 channels", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  o.groups = 0;
  o.dilation_width = 3;
  FAILS(BAD, "spans 7 samples along the width", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  o.dilation_width = SIZE_MAX;
  FAILS(BAD, "dilation along the width", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  o.dilation_width = 0;
  o.padding_top = SIZE_MAX;
  FAILS(BAD, "padding along the height", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  o.padding_top = 0;

  /* Options of the product: an old struct, a new one, and what is in neither. */
  uint32_t computed = 77;
  cortex_matmul_options m = {0};
  o.matmul = &m;
  FAILS(BAD, "options.matmul.struct_size is 0", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  m.struct_size = sizeof m;
  m.computed = &computed;
  m.precision = 3;
  FAILS(BAD, "options.matmul.precision is 3", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  m.precision = CORTEX_PRECISION_EXACT;
  m.reserved = 1;
  FAILS(BAD, "options.matmul.reserved is 1", cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  m.reserved = 0;
  m.computed = (uint32_t *)(void *)((char *)&computed + 1);
  FAILS(BAD, "options.matmul.computed is not aligned",
        cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  m.computed = &computed;
  CHECK(computed == 77);
  FAILS(BAD, "y_len", cortex_tensor_conv(t, &xv, &o, y, 1, &err));
  CHECK(computed == 77);
  OK(cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  CHECK(computed == CORTEX_PRECISION_EXACT);
  computed = 77;
  m.struct_size = offsetof(cortex_matmul_options, precision);
  m.precision = 3; /* behind the end: not read */
  OK(cortex_tensor_conv(t, &xv, &o, y, OUT * 16, &err));
  CHECK(computed == 77);

  /* The same with matmul itself. */
  size_t flat[] = {4, 27};
  cortex_view fv = view_of(x, CORTEX_DTYPE_F32, 2, flat);
  OK(cortex_tensor_matmul(t, &fv, &m, y, 4 * OUT, &err));
  m.struct_size = sizeof m;
  FAILS(BAD, "options.precision is 3", cortex_tensor_matmul(t, &fv, &m, y, 4 * OUT, &err));
  m.precision = CORTEX_PRECISION_FAST;
  OK(cortex_tensor_matmul(t, &fv, &m, y, 4 * OUT, &err));
  CHECK(computed == CORTEX_PRECISION_FAST || computed == CORTEX_PRECISION_EXACT);
  m.precision = CORTEX_PRECISION_AUTO;
  OK(cortex_tensor_matmul_t(t, &fv, &m, y, 0, NULL) == BAD ? CORTEX_OK : CORTEX_INTERNAL);
  size_t rows[] = {2, OUT};
  cortex_view rv = view_of(x, CORTEX_DTYPE_F32, 2, rows);
  computed = 77;
  OK(cortex_tensor_matmul_t(t, &rv, &m, y, 2 * 27, &err));
  CHECK(computed == CORTEX_PRECISION_EXACT);

  for (int i = 0; i < 4; i++) CHECK(shape[i] == 9);
  cortex_tensor_free(t);
  free(w), free(x);
}

int main(void) {
  every_form();
  refused();
  return report();
}
