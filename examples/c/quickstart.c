/* Opens an archive, lists its tensors, and multiplies the first matrix by a vector, on the
   compressed weights: quickstart MODEL.cai */

#include <cortex.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(cortex_error *err) {
  fprintf(stderr, "%s: %s\n", cortex_error_kind_name(err), cortex_error_message(err));
  cortex_error_free(err);
  return EXIT_FAILURE;
}

/* y = W x with x all ones: the sum of each row of W. */
static int multiply(const cortex_tensor *w) {
  size_t rows = cortex_tensor_rows(w), cols = cortex_tensor_cols(w);
  float *x_data = malloc(cols * sizeof *x_data), *y = malloc(rows * sizeof *y);
  if (!x_data || !y) {
    fprintf(stderr, "out of memory\n");
    free(x_data);
    free(y);
    return EXIT_FAILURE;
  }
  for (size_t i = 0; i < cols; i++) x_data[i] = 1.0f;

  cortex_error *err = NULL;
  size_t x_shape[] = {1, cols};
  cortex_view x = {x_data, CORTEX_DTYPE_F32, 2, x_shape, NULL};
  int result = EXIT_SUCCESS;
  if (cortex_tensor_matmul(w, &x, NULL, y, rows, &err) != CORTEX_OK) {
    result = fail(err);
  } else {
    printf("\ny = W x for %s, x all ones:", cortex_tensor_name(w));
    for (size_t i = 0; i < rows && i < 8; i++) printf(" %g", y[i]);
    printf("%s\n", rows > 8 ? " ..." : "");
  }
  free(x_data);
  free(y);
  return result;
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s MODEL.cai\n", argv[0]);
    return 2;
  }
  cortex_error *err = NULL;
  cortex_archive *model = NULL;
  if (cortex_archive_open(argv[1], &model, &err) != CORTEX_OK) return fail(err);

  int result = EXIT_SUCCESS, multiplied = 0;
  for (size_t i = 0; i < cortex_archive_len(model) && result == EXIT_SUCCESS; i++) {
    cortex_tensor *w = NULL;
    if (cortex_archive_tensor_at(model, i, &w, &err) != CORTEX_OK) {
      result = fail(err);
      break;
    }
    printf("%-32s %s[%zu x %zu]  %-24s %5.2f bits, error %.4f\n", cortex_tensor_name(w),
           cortex_dtype_name(cortex_tensor_dtype(w)), cortex_tensor_rows(w), cortex_tensor_cols(w),
           cortex_tensor_spec(w), cortex_tensor_bits_per_weight(w),
           cortex_tensor_relative_error(w));
    if (!multiplied && cortex_tensor_ndim(w) == 2) {
      result = multiply(w);
      multiplied = 1;
    }
    cortex_tensor_free(w);
  }
  cortex_archive_free(model);
  return result;
}
