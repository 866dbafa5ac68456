#include "text/detokenizer.h"

#include <string_view>
#include <utility>

#include "text/utf8.h"

namespace kvferry::text {
namespace {

// For bytes that are in no character.
std::string replacements(std::size_t bytes, bool per_byte) {
  std::string text;
  for (std::size_t i = 0; i < (per_byte ? bytes : 1); ++i) text += kReplacement;
  return text;
}

}  // namespace

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, SpecialTokens special,
                         Before before)
    : tokenizer_(std::move(tokenizer)), special_(special), is_first_(before == Before::kNothing) {
  if (is_first_) to_strip_ = tokenizer_->decoder().strip_start();
}

// The characters that held_ begins with; a part that may become one stays there.
std::string Detokenizer::take_complete(bool per_byte) {
  std::string text;
  std::string_view rest = held_;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.truncated) break;
    text += step.valid ? rest.substr(0, step.length) : replacements(step.length, per_byte);
    rest.remove_prefix(step.length);
  }
  held_ = std::string(rest);
  return text;
}

std::string Detokenizer::strip(std::string text) {
  std::size_t taken = 0;
  while (to_strip_ > 0 && taken < text.size()) {
    if (text[taken] != tokenizer_->decoder().strip_what()) to_strip_ = 0;
    if (to_strip_ == 0) break;
    --to_strip_;
    ++taken;
  }
  return text.substr(taken);
}

bool Detokenizer::is_silent(std::int32_t id) const {
  return tokenizer_->content(id).empty() ||
         (special_ == SpecialTokens::kDrop && tokenizer_->is_special(id));
}

std::string Detokenizer::feed(std::int32_t id) {
  if (is_silent(id)) return {};
  std::string text;
  const bool is_byte = tokenizer_->is_byte(id);
  if (held_are_bytes_ && !is_byte) {
    text = replacements(held_.size(), true);
    if (held_.empty()) text.clear();
    held_.clear();
  }
  held_are_bytes_ = is_byte;
  if (std::exchange(is_first_, false) && !is_byte) {
    held_ += tokenizer_->decoder().first_bytes(tokenizer_->content(id));
  } else {
    held_ += tokenizer_->id_to_bytes(id);
  }
  return strip(text + take_complete(is_byte));
}

std::string Detokenizer::finish() {
  const std::string rest = std::exchange(held_, {});
  return rest.empty() ? rest : replacements(rest.size(), held_are_bytes_);
}

std::string Detokenizer::decode(const Tokenizer& tokenizer, std::span<const std::int32_t> ids,
                                SpecialTokens special) {
  // Does not own the tokenizer, which outlives the call.
  Detokenizer stream(std::shared_ptr<const Tokenizer>(std::shared_ptr<void>(), &tokenizer), special,
                     Before::kNothing);
  std::string text;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (!tokenizer.is_byte(ids[i])) {
      text += stream.feed(ids[i]);
      continue;
    }
    std::string run;
    std::size_t end = i;
    for (; end < ids.size(); ++end) {
      if (stream.is_silent(ids[end])) continue;
      if (!tokenizer.is_byte(ids[end])) break;
      run += tokenizer.id_to_bytes(ids[end]);
    }
    stream.is_first_ = false;
    text += stream.strip(is_utf8(run) ? run : replacements(run.size(), true));
    i = end - 1;
  }
  return text + stream.finish();
}

}  // namespace kvferry::text
