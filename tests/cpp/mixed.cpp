// One program of two parts, one compiled with exceptions and one without: each does as it was
// told, whichever the linker meets first.

#include <cortex.hpp>

bool without_exceptions();

int main() {
  bool thrown = false;
  try {
    cortex::spec_parse("int9");
  } catch (const cortex::Error &) {
    thrown = true;
  }
  return thrown && without_exceptions() ? 0 : 1;
}
