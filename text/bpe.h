// Byte-level byte-pair encoding: the model of tokenizer.json.
// Thread contract: immutable after make; encode from any thread.
#pragma once

#include <array>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"

namespace kvferry::text {

class Bpe {
 public:
  static constexpr std::int32_t kMaxVocab = 1 << 21;  // ids below it
  static constexpr std::size_t kMaxMerges = 1 << 22;

  // kUnsupported, by name, for other models and for options that change the result: dropout,
  // byte_fallback, prefixes and suffixes, a vocabulary without a byte that valid UTF-8 can hold.
  static Result<Bpe> make(const boost::json::value& model);

  // Appends the ids of one piece: merges in the order of their ranks, leftmost first among equals.
  // O(n log n) in the bytes of the piece.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

  // One more than the highest id.
  std::int32_t size() const { return static_cast<std::int32_t>(bytes_.size()); }
  // What the token stands for; empty for ids that are not in the vocabulary.
  std::string_view bytes(std::int32_t id) const { return bytes_[static_cast<std::size_t>(id)]; }

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t result;
  };
  struct Work;
  using Ids = std::unordered_map<std::string_view, std::int32_t>;
  Status add_vocab(const boost::json::value& vocab, Ids& id_of);
  Status add_merges(const boost::json::value& merges, const Ids& id_of);
  const Merge* merge_of(std::int32_t left, std::int32_t right) const;

  std::vector<std::string> bytes_;                       // by id
  std::array<std::int32_t, 256> of_byte_{};              // -1: not in the vocabulary
  std::unordered_map<std::uint64_t, Merge> merges_;      // left << 32 | right
  std::unordered_map<std::string, std::int32_t> whole_;  // with ignore_merges: bytes -> id
};

}  // namespace kvferry::text
