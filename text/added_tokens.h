// Tokens that are cut out of a text before everything else: the added_tokens of tokenizer.json.
// As in Hugging Face's tokenizers: the leftmost match wins, the longest among those, and tokens
// with normalized=false are looked for in the whole text before the others are in what is left.
// Thread contract: immutable after make.
#pragma once

#include <array>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kvferry::text {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;
};

class AddedTokens {
 public:
  static constexpr std::size_t kMaxTokens = 1 << 14;

  // kUnsupported for single_word, lstrip and rstrip. A null or absent list is empty.
  static Result<AddedTokens> make(const boost::json::value& list);

  struct Part {
    std::string_view text;
    std::int32_t id = -1;  // of the token that `text` is, or -1
  };
  // Cuts the text up; the parts joined are the text, and none is empty.
  std::vector<Part> split(std::string_view text) const;

  const std::vector<AddedToken>& all() const { return tokens_; }
  const AddedToken* find(std::string_view content) const;

 private:
  // Of one pass: indices into tokens_ by first byte, longest content first.
  using Index = std::array<std::vector<std::size_t>, 256>;
  void split_part(std::string_view text, const Index& index, std::vector<Part>& parts) const;

  std::vector<AddedToken> tokens_;
  Index first_, second_;
};

}  // namespace kvferry::text
