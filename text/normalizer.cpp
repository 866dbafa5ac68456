#include "text/normalizer.h"

#include <algorithm>

#include "text/json_file.h"
#include "text/unicode.h"

namespace kvferry::text {

Result<Normalizer> Normalizer::make(const boost::json::value& description) {
  Normalizer made;
  if (!description.is_null()) KVF_RETURN_IF_ERROR(made.add_steps(description, 0));
  return made;
}

Status Normalizer::add_steps(const boost::json::value& description, int depth) {
  const std::string type(text_of(member(description, "type")));
  if (depth > static_cast<int>(kMaxSteps) || steps_.size() >= kMaxSteps) {
    return unsupported("normalizer with more than " + std::to_string(kMaxSteps) + " steps");
  }
  if (type == "Sequence") {
    const boost::json::array* const parts = member(description, "normalizers").if_array();
    if (parts == nullptr) return invalid_argument("normalizer Sequence without normalizers");
    for (const boost::json::value& part : *parts) KVF_RETURN_IF_ERROR(add_steps(part, depth + 1));
  } else if (type == "NFC") {
    steps_.emplace_back(Nfc{});
  } else if (type == "Prepend") {
    std::string text(text_of(member(description, "prepend")));
    if (text.empty() || text.size() > Replacement::kMaxBytes) {
      return invalid_argument("normalizer Prepend needs from 1 to " +
                              std::to_string(Replacement::kMaxBytes) + " bytes to prepend");
    }
    steps_.emplace_back(Prepend{std::move(text)});
  } else if (type == "Replace") {
    KVF_ASSIGN_OR_RETURN(Replacement replacement, Replacement::make(description));
    steps_.emplace_back(std::move(replacement));
  } else {
    return unsupported("normalizer " + (type.empty() ? "without a type" : type) +
                       "; supported are NFC, Prepend, Replace and Sequence of them");
  }
  return {};
}

std::size_t Normalizer::most_shrinkage() const {
  std::size_t most = 1;
  for (const auto& step : steps_) {
    if (std::holds_alternative<Nfc>(step)) {
      most *=
          3;  // U+0390 from three characters of two bytes, a Hangul syllable from three of three
    } else if (const auto* const replacement = std::get_if<Replacement>(&step)) {
      if (replacement->content.empty()) return 0;
      most *= std::max<std::size_t>(1, replacement->pattern.size());
    }
  }
  return most;
}

Result<std::string> Normalizer::apply(std::string_view text) const {
  std::string normal(text);
  for (const auto& step : steps_) {
    if (std::holds_alternative<Nfc>(step)) {
      normal = nfc(normal);
    } else if (const auto* const prepend = std::get_if<Prepend>(&step)) {
      if (!normal.empty()) normal.insert(0, prepend->text);
    } else {
      const Replacement& replacement = std::get<Replacement>(step);
      const std::size_t growth = replacement.content.size() / replacement.pattern.size() + 1;
      if (normal.size() * growth > kMaxBytes) {
        return invalid_argument("a text of " + std::to_string(text.size()) +
                                " bytes is too long for this model's normalizer");
      }
      normal = replacement.apply(normal);
    }
  }
  return normal;
}

}  // namespace kvferry::text
