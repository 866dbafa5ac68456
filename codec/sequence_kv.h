// The KV cache of one sequence as prefill and decode work on it: where its segments lie. Plain
// pointers into memory that somebody else owns and accounts for (the block pool of a worker, or a
// vector in tests and single-process commands).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "codec/codec.h"

namespace kvferry::codec {

// Memory of a sequence. A block holds one tile of all layers: segment (layer, tile) starts at
// blocks[tile] + layer * segment_bytes(tile). The open tile is one extent for all layers:
// layer's K, then its V, [kv_heads][kTileTokens][head_dim] each.
// Thread contract: owned and changed by the engine thread; pool threads write disjoint segments.
struct SequenceKv {
  std::shared_ptr<const Codec> codec;
  KvGeometry geometry;
  std::uint32_t length = 0;        // tokens whose KV is complete in all layers
  std::vector<std::byte*> blocks;  // one for each tile that may close: capacity, not length
  std::byte* open = nullptr;       // open_bytes(); zeroed by start()

  static std::size_t open_bytes(const Codec& codec, const KvGeometry& geometry) {
    return std::size_t{2} * geometry.layers * geometry.kv_heads * kTileTokens * geometry.head_dim *
           bytes_of(codec.traits().open_dtype);
  }
  // Bytes of the block of one closed tile.
  static std::size_t block_bytes(const Codec& codec, const KvGeometry& geometry,
                                 std::uint32_t tile) {
    return geometry.layers * codec.segment_bytes(geometry, tile, kTileTokens);
  }

  std::uint32_t closed_tiles() const { return length / kTileTokens; }
  std::span<std::byte> segment(std::uint32_t layer, std::uint32_t tile) const {
    const std::size_t bytes = codec->segment_bytes(geometry, tile, kTileTokens);
    return {blocks[tile] + layer * bytes, bytes};
  }
  OpenTile open_tile(std::uint32_t layer) const {
    const std::size_t half = open_bytes(*codec, geometry) / (2 * geometry.layers);
    return {open + 2 * layer * half, open + (2 * layer + 1) * half};
  }
};

// A SequenceKv with memory of its own for `max_tokens` tokens. For tests and single-process use.
class OwnedSequenceKv {
 public:
  OwnedSequenceKv(std::shared_ptr<const Codec> codec, const KvGeometry& geometry,
                  std::uint32_t max_tokens);
  SequenceKv& kv() { return kv_; }

 private:
  std::vector<std::vector<std::byte>> memory_;
  SequenceKv kv_;
};

}  // namespace kvferry::codec
