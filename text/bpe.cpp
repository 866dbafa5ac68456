#include "text/bpe.h"

#include <algorithm>
#include <optional>
#include <queue>
#include <utility>

#include "text/byte_alphabet.h"
#include "text/json_file.h"
#include "text/utf8.h"

namespace kvferry::text {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

Status check_options(const boost::json::value& model) {
  const std::string type(text_of(member(model, "type")));
  if (type != "BPE") {
    return unsupported("tokenizer model " + (type.empty() ? "without a type" : type) +
                       "; only BPE is supported");
  }
  const boost::json::value& dropout = member(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.to_number<double>() == 0)) {
    return unsupported("BPE with dropout");
  }
  const bool* const fallback = member(model, "byte_fallback").if_bool();
  if (fallback != nullptr && *fallback) return unsupported("BPE with byte_fallback");
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_of(member(model, option)).empty()) {
      return unsupported(std::string("BPE with ") + option);
    }
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

Result<Bpe> Bpe::make(const boost::json::value& model) {
  KVF_RETURN_IF_ERROR(check_options(model));
  Bpe made;
  Ids id_of;
  KVF_RETURN_IF_ERROR(made.add_vocab(member(model, "vocab"), id_of));
  KVF_RETURN_IF_ERROR(made.add_merges(member(model, "merges"), id_of));
  const bool* const ignore_merges = member(model, "ignore_merges").if_bool();
  if (ignore_merges != nullptr && *ignore_merges) {
    for (const auto& [letters, id] : id_of) {
      if (auto bytes = bytes_of_letters(letters)) made.whole_.emplace(*std::move(bytes), id);
    }
  }
  return made;
}

Status Bpe::add_vocab(const boost::json::value& vocab, Ids& id_of) {
  const boost::json::object* const object = vocab.if_object();
  if (object == nullptr || object->empty()) return invalid_argument("BPE without a vocab");
  std::int32_t size = 0;
  id_of.reserve(object->size());
  for (const auto& entry : *object) {
    const std::string_view letters(entry.key().data(), entry.key().size());
    const std::int64_t* const id = entry.value().if_int64();
    if (id == nullptr || *id < 0 || *id >= kMaxVocab) {
      return invalid_argument("vocab: the id of " + std::string(letters) + " is not from 0 to " +
                              std::to_string(kMaxVocab - 1));
    }
    id_of.emplace(letters, static_cast<std::int32_t>(*id));
    size = std::max(size, static_cast<std::int32_t>(*id) + 1);
  }
  bytes_.resize(static_cast<std::size_t>(size));
  for (const auto& [letters, id] : id_of) {
    std::string& bytes = bytes_[static_cast<std::size_t>(id)];
    if (!bytes.empty()) return invalid_argument("vocab: id " + std::to_string(id) + " twice");
    // A special token in the vocabulary may be spelled outside the alphabet: it stands for itself.
    bytes = bytes_of_letters(letters).value_or(std::string(letters));
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    std::string letter;
    append_utf8(letter_of_byte(static_cast<std::uint8_t>(byte)), letter);
    const auto found = id_of.find(letter);
    of_byte_[byte] = found == id_of.end() ? -1 : found->second;
    if (of_byte_[byte] < 0 && can_be_in_utf8(byte)) {
      return unsupported("BPE whose vocab has no token for byte " + std::to_string(byte));
    }
  }
  return {};
}

Status Bpe::add_merges(const boost::json::value& merges, const Ids& id_of) {
  const boost::json::array* const array = merges.if_array();
  if (array == nullptr) return invalid_argument("BPE without merges");
  if (array->size() > kMaxMerges) return invalid_argument("BPE with too many merges");
  merges_.reserve(array->size());
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
    merges_.insert_or_assign(pair_key(left->second, right->second), Merge{rank, result->second});
    ++rank;
  }
  return {};
}

const Bpe::Merge* Bpe::merge_of(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// The piece as a doubly linked list of symbols, and the merges that are possible now or were.
struct Bpe::Work {
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  struct Symbol {
    std::int32_t id;
    std::uint32_t before, after;
    bool gone = false;
  };
  struct Candidate {
    std::uint32_t rank, at;
    std::int32_t result;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };

  const Bpe& bpe;
  std::vector<Symbol> symbols;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;

  void consider(std::uint32_t at) {
    if (at == kNone || symbols[at].after == kNone) return;
    const Merge* const merge = bpe.merge_of(symbols[at].id, symbols[symbols[at].after].id);
    if (merge != nullptr) queue.push({merge->rank, at, merge->result});
  }

  void apply(const Candidate& candidate) {
    Symbol& left = symbols[candidate.at];
    if (left.gone || left.after == kNone) return;
    Symbol& right = symbols[left.after];
    const Merge* const merge = bpe.merge_of(left.id, right.id);
    if (merge == nullptr || merge->result != candidate.result) return;  // its symbols have changed
    left.id = candidate.result;
    left.after = right.after;
    right.gone = true;
    if (left.after != kNone) symbols[left.after].before = candidate.at;
    consider(left.before);
    consider(candidate.at);
  }
};

void Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (!whole_.empty()) {
    const auto found = whole_.find(std::string(piece));
    if (found != whole_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  Work work{*this, {}, {}};
  work.symbols.reserve(piece.size());
  for (std::size_t i = 0; i < piece.size(); ++i) {
    const auto at = static_cast<std::uint32_t>(i);
    work.symbols.push_back({of_byte_[static_cast<std::uint8_t>(piece[i])],
                            i == 0 ? Work::kNone : at - 1,
                            i + 1 == piece.size() ? Work::kNone : at + 1});
  }
  for (std::uint32_t at = 0; at < work.symbols.size(); ++at) work.consider(at);
  while (!work.queue.empty()) {
    const Work::Candidate candidate = work.queue.top();
    work.queue.pop();
    work.apply(candidate);
  }
  for (const Work::Symbol& symbol : work.symbols) {
    if (!symbol.gone) ids.push_back(symbol.id);
  }
}

}  // namespace kvferry::text
