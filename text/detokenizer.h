// Token ids to text as they come, never half a character: bytes that may still become one are held
// back. The text is a function of the ids alone, so feeding the same ids again rebuilds the state.
// Thread contract: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "text/tokenizer.h"

namespace kvferry::text {

enum class SpecialTokens : std::uint8_t { kDrop, kKeep };

class Detokenizer {
 public:
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                       SpecialTokens special = SpecialTokens::kDrop);

  // The text that is certain now: valid UTF-8, possibly empty. Special tokens add nothing unless
  // they are kept, and unknown ids never do. Bytes that can no longer become a character become
  // U+FFFD.
  std::string feed(std::int32_t id);
  // What was held back, as U+FFFD. Call once, after the last id.
  std::string finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  SpecialTokens special_;
  std::string held_;  // at most 3 bytes between calls
};

}  // namespace kvferry::text
