// Byte-pair encoding: the model of tokenizer.json. Its symbols are the bytes of a text, or its
// characters with the bytes of those that the vocabulary lacks.
// Thread contract: immutable after make; encode from any thread, with a Scratch of its own.
#pragma once

#include <array>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "text/pair_table.h"

namespace kvferry::text {

class Bpe {
 public:
  static constexpr std::int32_t kMaxVocab = 1 << 21;  // ids below it
  static constexpr std::size_t kMaxMerges = 1 << 22;

  enum class Symbols {
    kBytes,       // the vocabulary is written in the byte alphabet
    kCharacters,  // SentencePiece's way, with byte_fallback
  };
  // kUnsupported, by name, for other models and for options that change the result: dropout,
  // prefixes and suffixes, characters without byte_fallback, a vocabulary without a byte that valid
  // UTF-8 can hold.
  static Result<Bpe> make(const boost::json::value& model, Symbols symbols);

  // Memory that encode uses again.
  class Scratch {
   private:
    friend class Bpe;
    struct Symbol {
      std::int32_t id;
      std::uint32_t before, after;
      bool gone = false;
    };
    struct Candidate {
      std::uint32_t rank, at;
      std::int32_t result;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> queue;
    std::vector<std::int32_t> ids;
  };
  // Appends the ids of one piece: merges in the order of their ranks, leftmost first among equals.
  // O(n log n) in the bytes of the piece.
  void encode(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const;

  // Whether a piece may be cut before any `marker` that another character is before, without the
  // ids becoming others: no merge reaches across such a place, and no piece is looked up whole.
  bool can_cut_before(std::string_view marker) const;

  // One more than the highest id.
  std::int32_t size() const { return static_cast<std::int32_t>(contents_.size()); }
  // How the vocabulary writes the token; empty for ids that are not in it.
  const std::string& content(std::int32_t id) const {
    return contents_[static_cast<std::size_t>(id)];
  }

 private:
  struct StringHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  using Ids = std::unordered_map<std::string_view, std::int32_t>;
  Status add_vocab(const boost::json::value& vocab, Ids& id_of);
  Status add_bytes(const Ids& id_of);
  void add_characters(const Ids& id_of);
  Status add_merges(const boost::json::value& merges, const Ids& id_of);
  void add_whole_tokens(const Ids& id_of);
  // The ids of a piece before any merge.
  void first_symbols(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void merge_short(std::vector<std::int32_t>& ids) const;
  void merge_long(Scratch& scratch) const;
  void consider(std::uint32_t at, Scratch& scratch) const;

  Symbols symbols_ = Symbols::kBytes;
  std::vector<std::string> contents_;        // by id
  std::array<std::int32_t, 256> of_byte_{};  // -1: not in the vocabulary
  std::unordered_map<char32_t, std::int32_t> of_character_;
  PairTable merges_;
  // Merges as pairs of ids, for can_cut_before.
  std::vector<std::pair<std::int32_t, std::int32_t>> pairs_;
  // With ignore_merges: pieces that are tokens as a whole.
  std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>> whole_;
};

}  // namespace kvferry::text
