// Specs: what there is, and what a text means.

#ifndef CORTEX_CODECS_HPP
#define CORTEX_CODECS_HPP

#include <cortex/error.hpp>

#include <string>
#include <string_view>

namespace cortex {
CORTEX_HPP_MODE {

/// Every name that a spec may hold, as JSON: {"directives": […], "forms": […], "packs": […]},
/// each entry with "name", "summary" and "options", each option with "key", "values", "default"
/// and "doc". Lives for ever.
inline std::string_view codecs_json() noexcept { return cortex_codecs_json(); }

/// Checks a spec and gives it in canonical form: options in a fixed order, defaults left out.
/// Two specs that mean the same have the same canonical form. InvalidArgument: the message
/// names the column, what stood there and what was expected.
inline Result<std::string> try_spec_parse(std::string_view spec) {
  const detail::Text c_spec(spec, "spec");
  if (auto checked = c_spec.check(); !checked) return checked.error();
  char *canonical = nullptr;
  return detail::call<std::string>(
      [&](cortex_error **err) { return cortex_spec_parse(c_spec.c_str(), &canonical, err); },
      [&] { return detail::owned(canonical); });
}

/// As try_spec_parse.
inline std::string spec_parse(std::string_view spec) { return try_spec_parse(spec).value(); }

}  // inline namespace
}  // namespace cortex

#endif
