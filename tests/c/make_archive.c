/* make_archive MODEL ARCHIVE: the simplest use there is. */

#include <cortex.h>
#include <stdio.h>

int main(int argc, char **argv) {
  cortex_error *err = NULL;
  if (argc == 3 && cortex_compress_file(argv[1], argv[2], NULL, NULL, &err) == CORTEX_OK) return 0;
  fprintf(stderr, "%s\n", argc == 3 ? cortex_error_message(err) : "make_archive MODEL ARCHIVE");
  cortex_error_free(err);
  return 1;
}
