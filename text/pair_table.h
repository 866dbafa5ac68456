// A hash table from pairs of ids to merges: what an encoder asks for most. Open addressing, at most
// half full, so that a lookup is one or two cache lines.
// Thread contract: one writer, then any number of readers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvferry::text {

class PairTable {
 public:
  struct Merge {
    std::uint32_t rank = 0;
    std::int32_t result = -1;
  };

  explicit PairTable(std::size_t pairs = 0) {
    std::size_t slots = 16;
    while (slots < 2 * pairs) slots *= 2;
    slots_.resize(slots);
  }

  // For no more pairs than were announced. A pair that is there already gets the new merge.
  void put(std::int32_t left, std::int32_t right, Merge merge) {
    slots_[slot_of(key(left, right))] = {key(left, right), merge};
  }
  // Null when the two do not merge.
  const Merge* find(std::int32_t left, std::int32_t right) const {
    const Slot& slot = slots_[slot_of(key(left, right))];
    return slot.merge.result < 0 ? nullptr : &slot.merge;
  }

 private:
  struct Slot {
    std::uint64_t key = 0;
    Merge merge;
  };
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  // Where the key is, or the free slot where it would be.
  std::size_t slot_of(std::uint64_t key) const {
    const std::size_t mask = slots_.size() - 1;
    std::uint64_t mixed = key * 0x9e3779b97f4a7c15ull;
    mixed ^= mixed >> 32;
    std::size_t at = static_cast<std::size_t>(mixed) & mask;
    while (slots_[at].merge.result >= 0 && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }

  std::vector<Slot> slots_;
};

}  // namespace kvferry::text
