#include "text/added_tokens.h"

#include <algorithm>

#include "text/bpe.h"
#include "text/json_file.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace kvferry::text {
namespace {

bool is_set(const boost::json::value& token, std::string_view flag) {
  const bool* const value = member(token, flag).if_bool();
  return value != nullptr && *value;
}

Result<AddedToken> read_token(const boost::json::value& from, const Normalizer& normalizer) {
  AddedToken token;
  token.content = text_of(member(from, "content"));
  const std::int64_t* const id = member(from, "id").if_int64();
  if (token.content.empty() || token.content.size() > AddedTokens::kMaxContentBytes ||
      id == nullptr || *id < 0 || *id >= Bpe::kMaxVocab) {
    return invalid_argument("added_tokens: '" + token.content.substr(0, 64) +
                            "' has no content, too much of it or no valid id");
  }
  token.id = static_cast<std::int32_t>(*id);
  token.special = is_set(from, "special");
  token.normalized = is_set(from, "normalized");
  token.single_word = is_set(from, "single_word");
  token.lstrip = is_set(from, "lstrip");
  token.rstrip = is_set(from, "rstrip");
  token.pattern = token.content;
  if (token.normalized) {
    KVF_ASSIGN_OR_RETURN(token.pattern, normalizer.apply(token.content));
    if (token.pattern.empty()) {
      return invalid_argument("added_tokens: nothing is left of " + token.content +
                              " after the normalizer");
    }
  }
  return token;
}

// Where the character that ends at `end` begins.
std::size_t character_before(std::string_view text, std::size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<std::uint8_t>(text[end]) & 0xc0) == 0x80);
  return end;
}

char32_t character_at(std::string_view text, std::size_t at) {
  return decode_utf8(text.substr(at, utf8_step(text.substr(at)).length));
}

bool is_single_word(std::string_view text, std::size_t begin, std::size_t end) {
  const bool joined_left =
      begin > 0 && is_word_character(character_at(text, character_before(text, begin)));
  const bool joined_right = end < text.size() && is_word_character(character_at(text, end));
  return !joined_left && !joined_right;
}

std::size_t spaces_begin(std::string_view text, std::size_t end) {
  while (end > 0) {
    const std::size_t before = character_before(text, end);
    if (!is_white_space(character_at(text, before))) break;
    end = before;
  }
  return end;
}

std::size_t spaces_end(std::string_view text, std::size_t begin) {
  while (begin < text.size() && is_white_space(character_at(text, begin))) {
    begin += utf8_step(text.substr(begin)).length;
  }
  return begin;
}

enum class Overlap { kNone, kAcross, kWithin };

Overlap overlap(const std::vector<TextRange>& ranges, std::size_t begin, std::size_t end) {
  const auto range = std::partition_point(ranges.begin(), ranges.end(),
                                          [&](const TextRange& r) { return r.end <= begin; });
  if (range == ranges.end() || range->begin >= end) return Overlap::kNone;
  return range->begin <= begin && end <= range->end ? Overlap::kWithin : Overlap::kAcross;
}

}  // namespace

Result<AddedTokens> AddedTokens::make(const boost::json::value& list,
                                      const Normalizer& normalizer) {
  AddedTokens made;
  const boost::json::array* const array = list.if_array();
  if (array == nullptr) return made;
  if (array->size() > kMaxTokens) {
    return invalid_argument("more than " + std::to_string(kMaxTokens) + " added_tokens");
  }
  for (const boost::json::value& entry : *array) {
    KVF_ASSIGN_OR_RETURN(AddedToken token, read_token(entry, normalizer));
    made.tokens_.push_back(std::move(token));
  }
  for (std::size_t i = 0; i < made.tokens_.size(); ++i) {
    const std::string& pattern = made.tokens_[i].pattern;
    Index& index = made.tokens_[i].normalized ? made.normalized_ : made.as_written_;
    if (!index.token.emplace(pattern, i).second) continue;
    auto& lengths = index.lengths[static_cast<std::uint8_t>(pattern[0])];
    const auto at =
        std::lower_bound(lengths.begin(), lengths.end(), pattern.size(), std::greater<>());
    if (at == lengths.end() || *at != pattern.size()) lengths.insert(at, pattern.size());
  }
  return made;
}

const AddedToken* AddedTokens::longest_at(std::string_view text, std::size_t at, const Index& index,
                                          const std::vector<TextRange>& literal) const {
  for (const std::size_t length : index.lengths[static_cast<std::uint8_t>(text[at])]) {
    if (length > text.size() - at) continue;
    const auto found = index.token.find(text.substr(at, length));
    if (found == index.token.end()) continue;
    const AddedToken& token = tokens_[found->second];
    if (!token.special || overlap(literal, at, at + length) != Overlap::kAcross) return &token;
  }
  return nullptr;
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text, Pass pass,
                                                  const std::vector<TextRange>& literal) const {
  const Index& index = pass == Pass::kAsWritten ? as_written_ : normalized_;
  std::vector<Part> parts;
  std::size_t done = 0;
  std::size_t at = index.token.empty() ? text.size() : 0;
  while (at < text.size()) {
    const AddedToken* const token = longest_at(text, at, index, literal);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + token->pattern.size();
    at = end;  // a token that is not taken is passed over as a whole
    if (token->special && overlap(literal, begin, end) != Overlap::kNone) continue;
    if (token->single_word && !is_single_word(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(done, spaces_begin(text, begin));
    if (token->rstrip) end = spaces_end(text, end);
    if (done < begin) parts.push_back({text.substr(done, begin - done), -1});
    parts.push_back({text.substr(begin, end - begin), token->id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), -1});
  return parts;
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = std::find_if(tokens_.begin(), tokens_.end(), [&](const AddedToken& token) {
    return token.content == content;
  });
  return found == tokens_.end() ? nullptr : &*found;
}

bool AddedTokens::any_strips() const {
  return std::any_of(tokens_.begin(), tokens_.end(),
                     [](const AddedToken& token) { return token.lstrip || token.rstrip; });
}

}  // namespace kvferry::text
