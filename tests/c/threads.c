/* Threads share one tensor and one archive. */

#include "check.h"
#include <pthread.h>

enum { ROWS = 96, COLS = 256, THREADS = 2, TURNS = 10 };

static const cortex_tensor *shared_tensor;
static const cortex_archive *shared_archive;
static float x[COLS], expected[ROWS];

static void *work(void *mistakes) {
  size_t shape[] = {COLS};
  cortex_view view = view_of(x, CORTEX_DTYPE_F32, 1, shape);
  for (int turn = 0; turn < TURNS; turn++) {
    float y[ROWS] = {0};
    cortex_error *mine = NULL;
    cortex_tensor *t = NULL;
    const cortex_tensor *self = shared_tensor;
    if (turn % 2) {
      if (cortex_archive_tensor(shared_archive, "w", &t, &mine) != CORTEX_OK) ++*(int *)mistakes;
      self = t;
    }
    if (cortex_tensor_matmul(self, &view, NULL, y, ROWS, &mine) != CORTEX_OK) ++*(int *)mistakes;
    if (memcmp(y, expected, sizeof y)) ++*(int *)mistakes;
    if (cortex_tensor_verify(self, &mine) != CORTEX_OK) ++*(int *)mistakes;
    /* Errors of one thread are no business of the other. */
    if (cortex_tensor_matmul(self, &view, NULL, y, 1, &mine) != CORTEX_INVALID_ARGUMENT)
      ++*(int *)mistakes;
    cortex_error_free(mine);
    cortex_tensor_free(t);
  }
  return NULL;
}

int main(void) {
  float *w = weights(ROWS * COLS);
  size_t shape[] = {ROWS, COLS}, x_shape[] = {COLS};
  cortex_view view = view_of(w, CORTEX_DTYPE_F32, 2, shape);
  cortex_tensor *t = NULL;
  OK(cortex_tensor_compress(&view, "int4(group=32) | zstd", &t, &err));
  make_folder();
  cortex_writer *writer = NULL;
  OK(cortex_writer_create(in_folder("w.cai"), &writer, &err));
  OK(cortex_writer_add(writer, "w", t, &err));
  OK(cortex_writer_finish(writer, NULL, &err));
  cortex_writer_free(writer);
  cortex_archive *archive = NULL;
  OK(cortex_archive_open_unmapped(in_folder("w.cai"), &archive, &err));

  memcpy(x, w, sizeof x);
  cortex_view xv = view_of(x, CORTEX_DTYPE_F32, 1, x_shape);
  OK(cortex_tensor_matmul(t, &xv, NULL, expected, ROWS, &err));
  shared_tensor = t;
  shared_archive = archive;
  pthread_t threads[THREADS];
  int mistakes[THREADS] = {0};
  for (int i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, work, &mistakes[i])) abort();
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    CHECK(mistakes[i] == 0);
  }
  cortex_archive_free(archive);
  cortex_tensor_free(t);
  remove_folder();
  free(w);
  return report();
}
