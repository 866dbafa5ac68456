// The KV cache of one sequence as prefill and decode work on it: where its segments lie. Plain
// pointers into memory that somebody else owns and accounts for (the block pool of a worker, or a
// vector in tests and single-process commands).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "codec/codec.h"

namespace kvferry::codec {

// Where the segments of a block lie, one behind the other: a block holds one tile of all layers.
// Tiles behind the first are alike.
class BlockLayout {
 public:
  BlockLayout() = default;
  BlockLayout(const Codec& codec, const KvGeometry& geometry);

  std::size_t block_bytes(std::uint32_t tile) const { return starts(tile).back(); }
  std::size_t start(std::uint32_t layer, std::uint32_t tile) const { return starts(tile)[layer]; }
  std::size_t bytes(std::uint32_t layer, std::uint32_t tile) const {
    return starts(tile)[layer + 1] - starts(tile)[layer];
  }

 private:
  const std::vector<std::size_t>& starts(std::uint32_t tile) const {
    return tile == 0 ? first_ : later_;
  }
  std::vector<std::size_t> first_, later_;  // [layers + 1]
};

// Memory of a sequence. A block is laid out as BlockLayout says. The open tile is one extent for
// all layers: layer's K, then its V, [kv_heads][tile_tokens][head_dim] each.
// Thread contract: owned and changed by the engine thread; pool threads write disjoint segments.
struct SequenceKv {
  SequenceKv() = default;
  SequenceKv(std::shared_ptr<const Codec> codec_of, const KvGeometry& geometry_of)
      : codec(std::move(codec_of)), geometry(geometry_of), layout(*codec, geometry) {}

  std::shared_ptr<const Codec> codec;
  KvGeometry geometry;
  BlockLayout layout;
  std::uint32_t length = 0;        // tokens whose KV is complete in all layers
  std::vector<std::byte*> blocks;  // one for each tile that may close: capacity, not length
  std::byte* open = nullptr;       // open_bytes(); zeroed by start()

  static std::size_t open_bytes(const Codec& codec, const KvGeometry& geometry) {
    return std::size_t{2} * geometry.layers * geometry.kv_heads * codec.tile_tokens() *
           geometry.head_dim * bytes_of(codec.traits().open_dtype);
  }

  std::uint32_t tile_tokens() const { return codec->tile_tokens(); }
  std::uint32_t closed_tiles() const { return length / tile_tokens(); }
  std::uint32_t open_tokens() const { return length % tile_tokens(); }
  std::span<std::byte> segment(std::uint32_t layer, std::uint32_t tile) const {
    return {blocks[tile] + layout.start(layer, tile), layout.bytes(layer, tile)};
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
