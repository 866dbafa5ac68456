// Tokens that are cut out of a text before everything else: the added_tokens of tokenizer.json.
// As in Hugging Face's tokenizers: the leftmost match wins, the longest among those; tokens with
// normalized=false are looked for in the text as it stands, the others, normalized themselves, in
// the normalized text between those.
// Thread contract: immutable after make.
#pragma once

#include <array>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "text/normalizer.h"

namespace kvferry::text {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  std::string pattern;   // what is looked for: the content, normalized if `normalized`
  bool special = false;  // a control token, which users' words must not become
  bool normalized = false;
  bool single_word = false;  // not next to a letter, mark, digit or connector
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
};

// Bytes [begin, end) of a text.
struct TextRange {
  std::size_t begin = 0, end = 0;
};

class AddedTokens {
 public:
  static constexpr std::size_t kMaxTokens = 1 << 14;
  static constexpr std::size_t kMaxContentBytes = 1024;

  // A null or absent list is empty.
  static Result<AddedTokens> make(const boost::json::value& list, const Normalizer& normalizer);

  struct Part {
    std::string_view text;
    std::int32_t id = -1;  // of the token that `text` is, or -1
  };
  enum class Pass { kAsWritten, kNormalized };
  // Cuts the text up. None of the parts is empty; joined they are the text, but for white space
  // that two tokens both took. Special tokens within or across `literal`, ranges in order of which
  // none is empty, are text.
  std::vector<Part> split(std::string_view text, Pass pass,
                          std::vector<TextRange> const& literal) const;

  const std::vector<AddedToken>& all() const { return tokens_; }
  // Null when there is none.
  const AddedToken* find(std::string_view content) const;
  // Whether some token takes white space along, so that it stands for any number of bytes.
  bool any_strips() const;

 private:
  struct Index {
    // By first byte: the lengths of patterns that begin with it, longest first.
    std::array<std::vector<std::size_t>, 256> lengths;
    std::unordered_map<std::string_view, std::size_t> token;  // into tokens_, by pattern
  };
  // Special tokens that are partly literal are none.
  const AddedToken* longest_at(std::string_view text, std::size_t at, const Index& index,
                               const std::vector<TextRange>& literal) const;

  // The maps' keys point into the tokens, which moving the vector does not move.
  std::vector<AddedToken> tokens_;
  Index as_written_, normalized_;
};

}  // namespace kvferry::text
