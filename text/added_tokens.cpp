#include "text/added_tokens.h"

#include <algorithm>

#include "text/bpe.h"
#include "text/json_file.h"

namespace kvferry::text {
namespace {

bool is_set(const boost::json::value& token, std::string_view flag) {
  const bool* const value = member(token, flag).if_bool();
  return value != nullptr && *value;
}

Result<AddedToken> read_token(const boost::json::value& from) {
  AddedToken token;
  token.content = text_of(member(from, "content"));
  const std::int64_t* const id = member(from, "id").if_int64();
  if (token.content.empty() || id == nullptr || *id < 0 || *id >= Bpe::kMaxVocab) {
    return invalid_argument("added_tokens: '" + token.content + "' has no content or no valid id");
  }
  for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
    if (is_set(from, flag)) {
      return unsupported("added token " + token.content + " with " + flag);
    }
  }
  token.id = static_cast<std::int32_t>(*id);
  token.special = is_set(from, "special");
  token.normalized = is_set(from, "normalized");
  return token;
}

}  // namespace

Result<AddedTokens> AddedTokens::make(const boost::json::value& list) {
  AddedTokens made;
  const boost::json::array* const array = list.if_array();
  if (array == nullptr) return made;
  if (array->size() > kMaxTokens) {
    return invalid_argument("more than " + std::to_string(kMaxTokens) + " added_tokens");
  }
  for (const boost::json::value& entry : *array) {
    KVF_ASSIGN_OR_RETURN(AddedToken token, read_token(entry));
    const auto byte = static_cast<std::uint8_t>(token.content[0]);
    (token.normalized ? made.second_ : made.first_)[byte].push_back(made.tokens_.size());
    made.tokens_.push_back(std::move(token));
  }
  for (Index* index : {&made.first_, &made.second_}) {
    for (std::vector<std::size_t>& of_byte : *index) {
      std::stable_sort(of_byte.begin(), of_byte.end(), [&](std::size_t a, std::size_t b) {
        return made.tokens_[a].content.size() > made.tokens_[b].content.size();
      });
    }
  }
  return made;
}

void AddedTokens::split_part(std::string_view text, const Index& index,
                             std::vector<Part>& parts) const {
  std::size_t begin = 0;
  std::size_t at = 0;
  while (at < text.size()) {
    const auto& candidates = index[static_cast<std::uint8_t>(text[at])];
    const auto found = std::find_if(candidates.begin(), candidates.end(), [&](std::size_t which) {
      return text.substr(at).starts_with(tokens_[which].content);
    });
    if (found == candidates.end()) {
      ++at;
      continue;
    }
    if (begin < at) parts.push_back({text.substr(begin, at - begin), -1});
    const std::size_t length = tokens_[*found].content.size();
    parts.push_back({text.substr(at, length), tokens_[*found].id});
    begin = at += length;
  }
  if (begin < text.size()) parts.push_back({text.substr(begin), -1});
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text) const {
  std::vector<Part> once;
  split_part(text, first_, once);
  std::vector<Part> twice;
  for (const Part& part : once) {
    if (part.id >= 0) {
      twice.push_back(part);
    } else {
      split_part(part.text, second_, twice);
    }
  }
  return twice;
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = std::find_if(tokens_.begin(), tokens_.end(), [&](const AddedToken& token) {
    return token.content == content;
  });
  return found == tokens_.end() ? nullptr : &*found;
}

}  // namespace kvferry::text
