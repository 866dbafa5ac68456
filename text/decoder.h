// What tokens are as text: the decoder of tokenizer.json. Understood: ByteLevel, Metaspace, and
// Sequence of Replace, ByteFallback, Metaspace, Fuse and Strip as SentencePiece-style tokenizers
// have it.
// Thread contract: immutable after make; any number of threads.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/replacement.h"

namespace kvferry::text {

class Decoder {
 public:
  // kUnsupported, by name, for anything but the above.
  static Result<Decoder> make(const boost::json::value& description);

  struct Piece {
    std::string bytes;  // not necessarily whole characters
    // One byte of a character that the vocabulary lacks. Of a run of such tokens, each byte that is
    // in no character becomes U+FFFD; of other tokens, each part that could begin a character.
    bool is_byte = false;
  };
  // The token that is written `content` in tokenizer.json.
  Piece piece(std::string_view content) const;
  // The same at the begin of a text, where Metaspace drops the space it put there.
  std::string first_bytes(std::string_view content) const;

  // Spaces to be taken off the begin of a text, as many as there are up to this number.
  std::size_t strip_start() const { return strip_start_; }
  char strip_what() const { return strip_what_; }

  bool is_byte_level() const { return byte_level_; }

 private:
  Status add_step(const boost::json::value& step);
  Status add_strip(const boost::json::value& step);
  std::string text_of_token(std::string_view content) const;

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool fused_ = false;
  bool drops_first_space_ = false;
  std::string marker_;  // of Metaspace
  std::vector<Replacement> replacements_;
  std::size_t strip_start_ = 0;
  char strip_what_ = ' ';
};

}  // namespace kvferry::text
