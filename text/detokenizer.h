// Token ids to text as they come, never half a character: bytes that may still become one are held
// back. The text is a function of the ids alone, so feeding the same ids again rebuilds the state.
// Thread contract: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "text/tokenizer.h"

namespace kvferry::text {

class Detokenizer {
 public:
  // What is before the first id. SentencePiece-style tokenizers put a space before a text; at the
  // begin of one it is dropped again, within one it is the space between two words.
  enum class Before { kText, kNothing };
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                       SpecialTokens special = SpecialTokens::kDrop, Before before = Before::kText);

  // The text that is certain now: valid UTF-8, possibly empty. Special tokens add nothing unless
  // they are kept, and unknown ids never do. Bytes that can no longer become a character become
  // U+FFFD: byte-level, one for each part that could have begun a character; with byte fallback,
  // one for each byte.
  std::string feed(std::int32_t id);
  // What was held back, as U+FFFD. Call once, after the last id.
  std::string finish();

  // All of the ids at once, from the begin of a text. The same as feeding them, but where a run of
  // byte-fallback tokens is not valid as a whole: then each of its bytes is U+FFFD, as in Hugging
  // Face's tokenizers, whereas a stream has sent the characters that were complete before.
  static std::string decode(const Tokenizer& tokenizer, std::span<const std::int32_t> ids,
                            SpecialTokens special);

 private:
  bool is_silent(std::int32_t id) const;
  std::string take_complete(bool per_byte);
  std::string strip(std::string text);

  std::shared_ptr<const Tokenizer> tokenizer_;
  SpecialTokens special_;
  std::string held_;             // at most 3 bytes between calls
  bool held_are_bytes_ = false;  // from byte-fallback tokens
  bool is_first_;                // the next token is the first of its text
  std::size_t to_strip_ = 0;     // characters that may still be taken off the begin
};

}  // namespace kvferry::text
