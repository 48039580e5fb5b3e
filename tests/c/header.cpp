// The header alone, and twice, as C++17.
#include <cortex.h>
#include <cortex.h>

#include <string>

int main() {
  cortex_error *err = nullptr;
  cortex_archive *archive = nullptr;
  const bool refused = cortex_archive_open("/nowhere/at/all.cai", &archive, &err) == CORTEX_IO;
  const bool named = std::string(cortex_error_message(err)).find("/nowhere") != std::string::npos;
  cortex_error_free(err);
  return refused && named && !archive ? 0 : 1;
}
