#include "text/replacement.h"

#include "text/json_file.h"

namespace kvferry::text {

Result<Replacement> Replacement::make(const boost::json::value& description) {
  const boost::json::value& pattern = member(description, "pattern");
  if (!member(pattern, "Regex").is_null()) return unsupported("Replace with a Regex pattern");
  const boost::json::value& content = member(description, "content");
  const Replacement made{std::string(text_of(member(pattern, "String"))),
                         std::string(text_of(content))};
  if (made.pattern.empty() || !content.is_string() || made.pattern.size() > kMaxBytes ||
      made.content.size() > kMaxBytes) {
    return invalid_argument("Replace needs a pattern, a String that is not empty, and a content, " +
                            std::to_string(kMaxBytes) + " bytes at most");
  }
  return made;
}

std::string Replacement::apply(std::string_view text) const {
  std::string replaced;
  replaced.reserve(text.size());
  for (;;) {
    const std::size_t at = text.find(pattern);
    replaced.append(text.substr(0, at));
    if (at == std::string_view::npos) return replaced;
    replaced.append(content);
    text.remove_prefix(at + pattern.size());
  }
}

}  // namespace kvferry::text
