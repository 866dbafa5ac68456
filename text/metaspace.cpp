#include "text/metaspace.h"

#include "text/json_file.h"
#include "text/replacement.h"
#include "text/utf8.h"

namespace kvferry::text {

Result<Metaspace> Metaspace::make(const boost::json::value& description) {
  Metaspace made;
  made.replacement = text_of(member(description, "replacement"));
  if (made.replacement.empty() || utf8_step(made.replacement).length != made.replacement.size()) {
    return invalid_argument("Metaspace needs one character as its replacement");
  }
  const std::string_view scheme = text_of(member(description, "prepend_scheme"));
  if (scheme == "first") {
    made.prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    made.prepend = Prepend::kNever;
  } else if (!scheme.empty() && scheme != "always") {
    return unsupported("Metaspace with prepend_scheme " + std::string(scheme));
  }
  // Files from before prepend_scheme.
  const bool* const add_prefix_space = member(description, "add_prefix_space").if_bool();
  if (add_prefix_space != nullptr && !*add_prefix_space) {
    if (!scheme.empty() && scheme != "never") {
      return invalid_argument("Metaspace: add_prefix_space false, but prepend_scheme " +
                              std::string(scheme));
    }
    made.prepend = Prepend::kNever;
  }
  if (const bool* const split = member(description, "split").if_bool()) made.split = *split;
  return made;
}

std::string Metaspace::apply(std::string_view piece, bool is_first) const {
  std::string marked = Replacement{" ", replacement}.apply(piece);
  const bool wanted = prepend == Prepend::kAlways || (prepend == Prepend::kFirst && is_first);
  if (wanted && !marked.starts_with(replacement)) marked.insert(0, replacement);
  return marked;
}

}  // namespace kvferry::text
