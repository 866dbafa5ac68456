#include "codec/pooled_sequence.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace kvferry::codec {
namespace {

std::size_t rounded(std::size_t bytes) {
  return (bytes + ExtentPool::kUnit - 1) / ExtentPool::kUnit * ExtentPool::kUnit;
}

// The longest dense segment of all layers: a tile that lacks one token.
std::size_t open_segments_bytes(const Codec& codec, const KvGeometry& geometry) {
  return geometry.layers * codec.segment_bytes(geometry, 1, kTileTokens - 1);
}

}  // namespace

std::size_t PooledSequence::bytes_needed(const Codec& codec, const KvGeometry& geometry,
                                         std::uint32_t max_tokens) {
  std::size_t bytes = rounded(SequenceKv::open_bytes(codec, geometry)) +
                      rounded(open_segments_bytes(codec, geometry));
  const std::uint32_t tiles = max_tokens / kTileTokens;
  if (tiles > 0) bytes += rounded(SequenceKv::block_bytes(codec, geometry, 0));
  if (tiles > 1) bytes += (tiles - 1) * rounded(SequenceKv::block_bytes(codec, geometry, 1));
  return bytes;
}

Result<std::unique_ptr<PooledSequence>> PooledSequence::create(ExtentPool& pool,
                                                               std::shared_ptr<const Codec> codec,
                                                               const KvGeometry& geometry,
                                                               std::uint32_t max_tokens,
                                                               std::size_t staging_reserve) {
  const PoolUsage usage = pool.usage();
  const auto& staging = usage.classes[static_cast<std::size_t>(ExtentClass::kStaging)];
  const std::size_t staged = staging.leased + staging.resident + staging.quarantined;
  if (usage.free + staged < bytes_needed(*codec, geometry, max_tokens) + staging_reserve) {
    return resource_exhausted("the pool has no room for " + std::to_string(max_tokens) +
                              " tokens now");
  }
  std::unique_ptr<PooledSequence> sequence(new PooledSequence());
  const std::size_t open_bytes = SequenceKv::open_bytes(*codec, geometry);
  KVF_ASSIGN_OR_RETURN(sequence->open_, pool.allocate(open_bytes, ExtentClass::kOpen));
  KVF_ASSIGN_OR_RETURN(sequence->open_segments_,
                       pool.allocate(open_segments_bytes(*codec, geometry), ExtentClass::kOpen));
  std::memset(sequence->open_.data(), 0, open_bytes);
  const std::uint32_t tiles = max_tokens / kTileTokens;
  sequence->kv_.blocks.reserve(tiles);
  for (std::uint32_t tile = 0; tile < tiles; ++tile) {
    KVF_ASSIGN_OR_RETURN(
        Extent block,
        pool.allocate(SequenceKv::block_bytes(*codec, geometry, tile), ExtentClass::kClosed));
    sequence->kv_.blocks.push_back(block.data());
    sequence->blocks_.push_back(std::move(block));
  }
  sequence->kv_.codec = std::move(codec);
  sequence->kv_.geometry = geometry;
  sequence->kv_.open = sequence->open_.data();
  return sequence;
}

std::span<std::byte> PooledSequence::open_segment(std::uint32_t layer, std::uint32_t tile,
                                                  std::uint32_t tokens) {
  const std::size_t bytes = kv_.codec->segment_bytes(kv_.geometry, tile, tokens);
  return {open_segments_.data() + layer * bytes, bytes};
}

void PooledSequence::mark_resident(std::uint32_t tiles) {
  for (; resident_ < std::min<std::size_t>(tiles, blocks_.size()); ++resident_) {
    blocks_[resident_].mark_resident();
  }
}

}  // namespace kvferry::codec
