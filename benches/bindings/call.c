/* Times a matmul through the C interface: what the other languages are held against. */

#include "call.h"

#include <cortex.h>

static void check(cortex_status status, cortex_error *err) {
  if (status == CORTEX_OK) return;
  fprintf(stderr, "%s\n", cortex_error_message(err));
  exit(EXIT_FAILURE);
}

static float *values(size_t count) {
  float *out = malloc(count * sizeof *out);
  if (!out) exit(EXIT_FAILURE);
  for (size_t i = 0; i < count; i++) out[i] = value(i);
  return out;
}

static void run(const struct bench_case *c) {
  cortex_error *err = NULL;
  cortex_tensor *tensor = NULL;
  float *w = values(c->n * c->n), *x = values(c->batch * c->n), *y = values(c->batch * c->n);
  size_t shape[] = {c->n, c->n}, x_shape[] = {c->batch, c->n};
  cortex_view view = {w, CORTEX_DTYPE_F32, 2, shape, NULL};
  check(cortex_tensor_compress(&view, c->spec, &tensor, &err), err);
  cortex_view x_view = {x, CORTEX_DTYPE_F32, 2, x_shape, NULL};
  cortex_matmul_options options = {0};
  options.struct_size = sizeof options;
  options.threads = 1;

  double *times = malloc(c->samples * sizeof *times);
  if (!times) exit(EXIT_FAILURE);
  /* The first tenth is not counted. */
  for (size_t s = 0; s < c->samples + c->samples / 10; s++) {
    double start = now_us();
    for (size_t i = 0; i < c->calls; i++)
      check(cortex_tensor_matmul(tensor, &x_view, &options, y, c->batch * c->n, &err), err);
    times[s < c->samples / 10 ? 0 : s - c->samples / 10] = (now_us() - start) / (double)c->calls;
  }
  print_times("c", c->name, times, c->samples, c->calls);
  cortex_tensor_free(tensor);
  free(times);
  free(w);
  free(x);
  free(y);
}

int main(void) {
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run(&cases[i]);
  return 0;
}
