#include "codec/sequence_kv.h"

#include <cstdint>
#include <utility>

namespace kvferry::codec {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

OwnedSequenceKv::OwnedSequenceKv(std::shared_ptr<const Codec> codec, const KvGeometry& geometry,
                                 std::uint32_t max_tokens) {
  // Zeroed memory that starts on a cache line, as the extents of a pool do.
  const auto allocate = [this](std::size_t bytes) {
    auto& memory = memory_.emplace_back(bytes + kAlignment);
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (kAlignment - address % kAlignment) % kAlignment;
  };
  for (std::uint32_t tile = 0; tile < max_tokens / kTileTokens; ++tile) {
    kv_.blocks.push_back(allocate(SequenceKv::block_bytes(*codec, geometry, tile)));
  }
  kv_.open = allocate(SequenceKv::open_bytes(*codec, geometry));
  kv_.codec = std::move(codec);
  kv_.geometry = geometry;
}

}  // namespace kvferry::codec
