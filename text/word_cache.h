// Pieces of one text that were encoded before, and where their ids are among those of the text.
// Texts repeat their words: in 1 MB of prose nine of ten pieces are found here. It lives for one
// call, so it is bounded by the text and shared by nobody.
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/hash.h"

namespace kvferry::text {

class WordCache {
 public:
  static constexpr std::size_t kMaxPieceBytes = 256;

  struct Entry {
    std::string_view piece;  // points into the text; empty: free
    std::uint32_t first = 0, count = 0;
  };

  // The piece's entry, or a free one for the caller to fill in at once.
  Entry& find(std::string_view piece) {
    if (2 * used_ >= entries_.size()) grow();
    Entry& entry = slot(entries_, piece);
    if (entry.piece.empty()) ++used_;
    return entry;
  }

 private:
  static Entry& slot(std::vector<Entry>& entries, std::string_view piece) {
    const std::size_t mask = entries.size() - 1;
    std::size_t at = static_cast<std::size_t>(hash64(piece)) & mask;
    while (!entries[at].piece.empty() && entries[at].piece != piece) at = (at + 1) & mask;
    return entries[at];
  }
  void grow() {
    std::vector<Entry> larger(entries_.empty() ? 64 : 4 * entries_.size());
    for (const Entry& entry : entries_) {
      if (!entry.piece.empty()) slot(larger, entry.piece) = entry;
    }
    entries_.swap(larger);
  }

  std::vector<Entry> entries_;
  std::size_t used_ = 0;
};

}  // namespace kvferry::text
