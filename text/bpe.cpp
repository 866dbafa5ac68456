#include "text/bpe.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "text/byte_alphabet.h"
#include "text/json_file.h"
#include "text/utf8.h"

namespace kvferry::text {
namespace {

// Up to so many symbols, looking through all of them for the next merge beats a queue.
constexpr std::size_t kShort = 48;
constexpr std::uint32_t kNone = ~std::uint32_t{0};

bool is_set(const boost::json::value& model, std::string_view option) {
  const bool* const value = member(model, option).if_bool();
  return value != nullptr && *value;
}

Status check_options(const boost::json::value& model, Bpe::Symbols symbols) {
  const std::string type(text_of(member(model, "type")));
  if (type != "BPE") {
    return unsupported("tokenizer model " + (type.empty() ? "without a type" : type) +
                       "; only BPE is supported");
  }
  const boost::json::value& dropout = member(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.to_number<double>() == 0)) {
    return unsupported("BPE with dropout");
  }
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_of(member(model, option)).empty()) {
      return unsupported(std::string("BPE with ") + option);
    }
  }
  const bool fallback = is_set(model, "byte_fallback");
  if (fallback && symbols == Bpe::Symbols::kBytes) {
    return unsupported("BPE with byte_fallback behind a ByteLevel pre_tokenizer");
  }
  if (!fallback && symbols == Bpe::Symbols::kCharacters) {
    return unsupported(
        "BPE of characters without byte_fallback: either the pre_tokenizer ends in "
        "ByteLevel or the model has byte_fallback");
  }
  return {};
}

// The two halves of a merge: ["a", "b"], or "a b" in older files.
std::optional<std::pair<std::string_view, std::string_view>> halves(
    const boost::json::value& merge) {
  if (const boost::json::array* const pair = merge.if_array()) {
    if (pair->size() != 2) return std::nullopt;
    return std::pair(text_of((*pair)[0]), text_of((*pair)[1]));
  }
  const std::string_view both = text_of(merge);
  const std::size_t space = both.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  return std::pair(both.substr(0, space), both.substr(space + 1));
}

// 0xc0, 0xc1 and everything from 0xf5 on are in no valid UTF-8.
bool can_be_in_utf8(std::size_t byte) { return byte != 0xc0 && byte != 0xc1 && byte < 0xf5; }

}  // namespace

Result<Bpe> Bpe::make(const boost::json::value& model, Symbols symbols) {
  KVF_RETURN_IF_ERROR(check_options(model, symbols));
  Bpe made;
  made.symbols_ = symbols;
  Ids id_of;
  KVF_RETURN_IF_ERROR(made.add_vocab(member(model, "vocab"), id_of));
  KVF_RETURN_IF_ERROR(made.add_bytes(id_of));
  if (symbols == Symbols::kCharacters) made.add_characters(id_of);
  KVF_RETURN_IF_ERROR(made.add_merges(member(model, "merges"), id_of));
  if (is_set(model, "ignore_merges")) made.add_whole_tokens(id_of);
  return made;
}

Status Bpe::add_vocab(const boost::json::value& vocab, Ids& id_of) {
  const boost::json::object* const object = vocab.if_object();
  if (object == nullptr || object->empty()) return invalid_argument("BPE without a vocab");
  std::int32_t size = 0;
  id_of.reserve(object->size());
  for (const auto& entry : *object) {
    const std::string_view content(entry.key().data(), entry.key().size());
    const std::int64_t* const id = entry.value().if_int64();
    if (id == nullptr || *id < 0 || *id >= kMaxVocab) {
      return invalid_argument("vocab: the id of " + std::string(content) + " is not from 0 to " +
                              std::to_string(kMaxVocab - 1));
    }
    id_of.emplace(content, static_cast<std::int32_t>(*id));
    size = std::max(size, static_cast<std::int32_t>(*id) + 1);
  }
  contents_.resize(static_cast<std::size_t>(size));
  for (const auto& [content, id] : id_of) {
    std::string& known = contents_[static_cast<std::size_t>(id)];
    if (!known.empty()) return invalid_argument("vocab: id " + std::to_string(id) + " twice");
    known = content;
  }
  return {};
}

Status Bpe::add_bytes(const Ids& id_of) {
  const bool letters = symbols_ == Symbols::kBytes;
  for (std::size_t i = 0; i < 256; ++i) {
    const auto byte = static_cast<std::uint8_t>(i);
    std::string content;
    if (letters) {
      append_utf8(letter_of_byte(byte), content);
    } else {
      content = fallback_token(byte);
    }
    const auto found = id_of.find(content);
    of_byte_[i] = found == id_of.end() ? -1 : found->second;
    if (of_byte_[i] < 0 && can_be_in_utf8(i)) {
      return unsupported("BPE whose vocab has no token for byte " + std::to_string(i) + ", " +
                         content);
    }
  }
  return {};
}

void Bpe::add_characters(const Ids& id_of) {
  for (const auto& [content, id] : id_of) {
    const Utf8Step step = utf8_step(content);
    if (step.valid && step.length == content.size()) of_character_[decode_utf8(content)] = id;
  }
}

Status Bpe::add_merges(const boost::json::value& merges, const Ids& id_of) {
  const boost::json::array* const array = merges.if_array();
  if (array == nullptr) return invalid_argument("BPE without merges");
  if (array->size() > kMaxMerges) return invalid_argument("BPE with too many merges");
  merges_ = PairTable(array->size());
  pairs_.reserve(array->size());
  std::string joined;
  std::uint32_t rank = 0;
  for (const boost::json::value& merge : *array) {
    const auto pair = halves(merge);
    if (!pair) return invalid_argument("merges[" + std::to_string(rank) + "] is not a pair");
    joined.assign(pair->first).append(pair->second);
    const auto left = id_of.find(pair->first);
    const auto right = id_of.find(pair->second);
    const auto result = id_of.find(joined);
    if (left == id_of.end() || right == id_of.end() || result == id_of.end()) {
      return invalid_argument("merges[" + std::to_string(rank) + "] names a token not in vocab");
    }
    merges_.put(left->second, right->second, {rank, result->second});
    pairs_.emplace_back(left->second, right->second);
    ++rank;
  }
  return {};
}

void Bpe::add_whole_tokens(const Ids& id_of) {
  for (const auto& [content, id] : id_of) {
    if (symbols_ == Symbols::kCharacters) {
      whole_.emplace(content, id);
    } else if (auto bytes = bytes_of_letters(content)) {
      whole_.emplace(*std::move(bytes), id);
    }
  }
}

bool Bpe::can_cut_before(std::string_view marker) const {
  return whole_.empty() && std::none_of(pairs_.begin(), pairs_.end(), [&](const auto& pair) {
           return content(pair.second).starts_with(marker) &&
                  !content(pair.first).ends_with(marker);
         });
}

void Bpe::first_symbols(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (symbols_ == Symbols::kBytes) {
    for (const char byte : piece) ids.push_back(of_byte_[static_cast<std::uint8_t>(byte)]);
    return;
  }
  while (!piece.empty()) {
    const std::string_view character = piece.substr(0, utf8_step(piece).length);
    const auto found = of_character_.find(decode_utf8(character));
    if (found != of_character_.end()) {
      ids.push_back(found->second);
    } else {
      for (const char byte : character) ids.push_back(of_byte_[static_cast<std::uint8_t>(byte)]);
    }
    piece.remove_prefix(character.size());
  }
}

void Bpe::merge_short(std::vector<std::int32_t>& ids) const {
  std::array<PairTable::Merge, kShort> merges;  // merges[i]: of ids[i] and ids[i + 1]
  const auto look_up = [&](std::size_t i) {
    const PairTable::Merge* const found = merges_.find(ids[i], ids[i + 1]);
    merges[i] = found == nullptr ? PairTable::Merge{kNone, -1} : *found;
  };
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) look_up(i);
  while (ids.size() > 1) {
    const std::size_t pairs = ids.size() - 1;
    std::size_t best = 0;
    for (std::size_t i = 1; i < pairs; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].result < 0) return;
    ids[best] = merges[best].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    std::copy(merges.begin() + best + 1, merges.begin() + pairs, merges.begin() + best);
    if (best > 0) look_up(best - 1);
    if (best + 1 < ids.size()) look_up(best);
  }
}

// Orders a heap whose front is the lowest rank, leftmost first.
constexpr auto later = [](const auto& a, const auto& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
};

void Bpe::consider(std::uint32_t at, Scratch& scratch) const {
  if (at == kNone || scratch.symbols[at].after == kNone) return;
  const Scratch::Symbol& left = scratch.symbols[at];
  const PairTable::Merge* const merge = merges_.find(left.id, scratch.symbols[left.after].id);
  if (merge == nullptr) return;
  scratch.queue.push_back({merge->rank, at, merge->result});
  std::push_heap(scratch.queue.begin(), scratch.queue.end(), later);
}

// The piece as a doubly linked list of symbols, and a heap of the merges that are possible now or
// were.
void Bpe::merge_long(Scratch& scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch.symbols;
  symbols.clear();
  scratch.queue.clear();
  const auto count = static_cast<std::uint32_t>(scratch.ids.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    symbols.push_back({scratch.ids[i], i == 0 ? kNone : i - 1, i + 1 == count ? kNone : i + 1});
  }
  for (std::uint32_t at = 0; at < count; ++at) consider(at, scratch);
  while (!scratch.queue.empty()) {
    std::pop_heap(scratch.queue.begin(), scratch.queue.end(), later);
    const Scratch::Candidate candidate = scratch.queue.back();
    scratch.queue.pop_back();
    Scratch::Symbol& left = symbols[candidate.at];
    if (left.gone || left.after == kNone) continue;
    Scratch::Symbol& right = symbols[left.after];
    const PairTable::Merge* const merge = merges_.find(left.id, right.id);
    if (merge == nullptr || merge->result != candidate.result)
      continue;  // its symbols have changed
    left.id = candidate.result;
    left.after = right.after;
    right.gone = true;
    if (left.after != kNone) symbols[left.after].before = candidate.at;
    consider(left.before, scratch);
    consider(candidate.at, scratch);
  }
  scratch.ids.clear();
  for (const Scratch::Symbol& symbol : symbols) {
    if (!symbol.gone) scratch.ids.push_back(symbol.id);
  }
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  if (!whole_.empty()) {
    const auto found = whole_.find(piece);
    if (found != whole_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  scratch.ids.clear();
  first_symbols(piece, scratch.ids);
  if (scratch.ids.size() <= kShort) {
    merge_short(scratch.ids);
  } else {
    merge_long(scratch);
  }
  ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
}

}  // namespace kvferry::text
