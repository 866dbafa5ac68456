#include "codec/sequence_kv.h"

#include <cstdint>
#include <utility>

namespace kvferry::codec {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

BlockLayout::BlockLayout(const Codec& codec, const KvGeometry& geometry) {
  for (const std::uint32_t tile : {0u, 1u}) {
    auto& starts = tile == 0 ? first_ : later_;
    starts.assign(1, 0);
    for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
      starts.push_back(starts.back() +
                       codec.segment_bytes(geometry, layer, tile, codec.tile_tokens()));
    }
  }
}

OwnedSequenceKv::OwnedSequenceKv(std::shared_ptr<const Codec> codec, const KvGeometry& geometry,
                                 std::uint32_t max_tokens)
    : kv_(std::move(codec), geometry) {
  // Zeroed memory that starts on a cache line, as the extents of a pool do.
  const auto allocate = [this](std::size_t bytes) {
    auto& memory = memory_.emplace_back(bytes + kAlignment);
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (kAlignment - address % kAlignment) % kAlignment;
  };
  for (std::uint32_t tile = 0; tile < max_tokens / kv_.tile_tokens(); ++tile) {
    kv_.blocks.push_back(allocate(kv_.layout.block_bytes(tile)));
  }
  kv_.open = allocate(SequenceKv::open_bytes(*kv_.codec, geometry));
}

}  // namespace kvferry::codec
