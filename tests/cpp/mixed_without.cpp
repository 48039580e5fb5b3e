// The part of mixed.cpp that is compiled with -fno-exceptions.

#include <cortex.hpp>

bool without_exceptions();

bool without_exceptions() {
  const cortex::Result<std::string> bad = cortex::try_spec_parse("int9");
  return !bad && cortex::spec_parse("q(bits=8)") == "int8";
}
