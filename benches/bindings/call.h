/* What the C and the C++ bench have in common: the data, and how a call is timed. The benches of
   the other languages do the same. */

#ifndef CORTEX_BENCHES_CALL_H
#define CORTEX_BENCHES_CALL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Element i of the weights, and of x. */
static inline float value(size_t i) {
  uint32_t hash = (uint32_t)i * 2654435761u;
  return (float)((double)hash / 4294967296.0 - 0.5);
}

static inline double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static inline int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Prints the least and the median of `samples` means of `calls` calls each. */
static inline void print_times(const char *language, const char *name, double *samples_us,
                               size_t samples, size_t calls) {
  qsort(samples_us, samples, sizeof *samples_us, by_size);
  printf("{\"language\": \"%s\", \"case\": \"%s\", \"min_us\": %.4f, \"median_us\": %.4f, \"calls\": %zu}\n",
         language, name, samples_us[0], samples_us[samples / 2], samples * calls);
}

/* A case: W[n, n] as `spec` says, times x[batch, n]; `samples` means of `calls` calls each. */
struct bench_case {
  const char *name, *spec;
  size_t n, batch, samples, calls;
};

static const struct bench_case cases[] = {
    {"call_64x64_int8", "int8", 64, 1, 500, 1000},
    {"matmul_4096_b8", "int4(group=32)", 4096, 8, 100, 1},
};

#endif
