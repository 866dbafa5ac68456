#include "text/detokenizer.h"

#include <string_view>
#include <utility>

#include "text/utf8.h"

namespace kvferry::text {

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, SpecialTokens special)
    : tokenizer_(std::move(tokenizer)), special_(special) {}

std::string Detokenizer::feed(std::int32_t id) {
  if (special_ == SpecialTokens::kDrop && tokenizer_->is_special(id)) return {};
  held_ += tokenizer_->id_to_bytes(id);
  std::string text;
  std::string_view rest = held_;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.truncated) break;
    text += step.valid ? rest.substr(0, step.length) : kReplacement;
    rest.remove_prefix(step.length);
  }
  held_ = std::string(rest);
  return text;
}

std::string Detokenizer::finish() { return replace_invalid_utf8(std::exchange(held_, {})); }

}  // namespace kvferry::text
