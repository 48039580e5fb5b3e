/* A few lines of test harness, and data that every test makes the same way. */

#ifndef CORTEX_TESTS_CHECK_H
#define CORTEX_TESTS_CHECK_H

#include <cortex.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failures;
static cortex_error *err;

#define CHECK(what) check_that((what) ? 1 : 0, #what, __FILE__, __LINE__)

/* The call succeeds. */
#define OK(call) check_ok((call), #call, __FILE__, __LINE__)

/* The call fails with this status, and its message holds this text. */
#define FAILS(status, text, call) check_fails((status), (text), (call), #call, __FILE__, __LINE__)

static inline void check_that(int good, const char *what, const char *file, int line) {
  if (!good) {
    failures++;
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
  }
}

static inline void check_ok(cortex_status status, const char *what, const char *file, int line) {
  if (status != CORTEX_OK) {
    failures++;
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, what,
            err ? cortex_error_message(err) : cortex_status_name(status));
  } else if (err) {
    failures++;
    fprintf(stderr, "%s:%d: %s: OK, but err was set\n", file, line, what);
  }
  cortex_error_free(err);
  err = NULL;
}

static inline void check_fails(cortex_status expected, const char *text, cortex_status status,
                               const char *what, const char *file, int line) {
  if (status != expected || !err || cortex_error_kind(err) != expected ||
      !strstr(cortex_error_message(err), text)) {
    failures++;
    fprintf(stderr, "%s:%d: %s\n  expected %s with '%s'\n  found    %s with '%s'\n", file, line,
            what, cortex_status_name(expected), text, cortex_status_name(status),
            err ? cortex_error_message(err) : "no error");
  }
  cortex_error_free(err);
  err = NULL;
}

/* The end of main. */
static inline int report(void) {
  if (failures) fprintf(stderr, "%d checks failed\n", failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Values that look like weights, the same on every machine. */
static inline float weight(size_t i) {
  unsigned h = (unsigned)i * 2654435761u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  return ((float)(h >> 8) / 16777216.0f - 0.5f) * 0.1f;
}

static inline float *weights(size_t count) {
  float *out = malloc((count ? count : 1) * sizeof *out);
  if (!out) abort();
  for (size_t i = 0; i < count; i++) out[i] = weight(i);
  return out;
}

static inline cortex_view view_of(const void *data, uint32_t dtype, uint32_t ndim,
                                  const size_t *shape) {
  cortex_view view = {data, dtype, ndim, shape, NULL};
  return view;
}

/* A folder of this test alone, and a path in it (overwritten by the next call but one). */
static char folder[64];

static inline void make_folder(void) {
  strcpy(folder, "/tmp/cortex-test-XXXXXX");
  if (!mkdtemp(folder)) abort();
}

static inline const char *in_folder(const char *name) {
  static char paths[4][128];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static inline int files_in_folder(void) {
  int count = 0;
  DIR *dir = opendir(folder);
  if (!dir) return -1;
  for (struct dirent *e; (e = readdir(dir));) count += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
  closedir(dir);
  return count;
}

static inline void remove_folder(void) {
  DIR *dir = opendir(folder);
  if (!dir) return;
  for (struct dirent *e; (e = readdir(dir));) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    unlink(path);
  }
  closedir(dir);
  rmdir(folder);
}

static inline unsigned char *read_file(const char *path, size_t *len) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *len = (size_t)ftell(file);
  rewind(file);
  unsigned char *bytes = malloc(*len + 1);
  if (!bytes || fread(bytes, 1, *len, file) != *len) abort();
  fclose(file);
  return bytes;
}

static inline void write_file(const char *path, const void *bytes, size_t len) {
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, len, file) != len) abort();
  fclose(file);
}

#endif
