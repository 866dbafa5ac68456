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
  return geometry.layers * codec.segment_bytes(geometry, 0, 1, codec.tile_tokens() - 1);
}

}  // namespace

std::size_t PooledSequence::bytes_needed(const Codec& codec, const KvGeometry& geometry,
                                         const SequenceShape& shape) {
  const BlockLayout layout(codec, geometry);
  const auto blocks = [&](std::uint32_t first, std::uint32_t last) {
    std::size_t bytes = 0;
    if (first == 0 && last > 0) bytes += rounded(layout.block_bytes(0));
    const std::uint32_t later = std::max(first, 1u);
    if (last > later) bytes += (last - later) * rounded(layout.block_bytes(1));
    return bytes;
  };
  const std::uint32_t shared = shape.prompt_tokens / codec.tile_tokens();
  const std::size_t each = rounded(SequenceKv::open_bytes(codec, geometry)) +
                           blocks(shared, shape.max_tokens / codec.tile_tokens());
  return rounded(open_segments_bytes(codec, geometry)) + blocks(0, shared) + shape.choices * each;
}

Result<std::vector<std::unique_ptr<PooledSequence>>> PooledSequence::create(
    ExtentPool& pool, const std::shared_ptr<const Codec>& codec, const KvGeometry& geometry,
    const SequenceShape& shape, std::size_t staging_reserve) {
  const PoolUsage usage = pool.usage();
  const auto& staging = usage.classes[static_cast<std::size_t>(ExtentClass::kStaging)];
  const std::size_t staged = staging.leased + staging.resident + staging.quarantined;
  if (usage.free + staged < bytes_needed(*codec, geometry, shape) + staging_reserve) {
    return resource_exhausted("the pool has no room for " + std::to_string(shape.max_tokens) +
                              " tokens now");
  }
  const std::size_t open_bytes = SequenceKv::open_bytes(*codec, geometry);
  std::vector<std::unique_ptr<PooledSequence>> sequences;
  for (std::uint32_t choice = 0; choice < shape.choices; ++choice) {
    std::unique_ptr<PooledSequence> sequence(new PooledSequence());
    sequence->kv_ = SequenceKv(codec, geometry);
    KVF_ASSIGN_OR_RETURN(sequence->open_, pool.allocate(open_bytes, ExtentClass::kOpen));
    std::memset(sequence->open_.data(), 0, open_bytes);
    sequence->kv_.open = sequence->open_.data();
    if (choice == 0) {
      KVF_ASSIGN_OR_RETURN(
          sequence->open_segments_,
          pool.allocate(open_segments_bytes(*codec, geometry), ExtentClass::kOpen));
    } else {
      const auto& prompt = sequences.front()->blocks_;
      sequence->blocks_.assign(prompt.begin(),
                               prompt.begin() + shape.prompt_tokens / codec->tile_tokens());
    }
    KVF_RETURN_IF_ERROR(sequence->take_blocks(pool, shape.max_tokens / codec->tile_tokens()));
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

// Those from the end of blocks_ to `tiles`.
Status PooledSequence::take_blocks(ExtentPool& pool, std::uint32_t tiles) {
  kv_.blocks.reserve(tiles);
  for (const auto& shared : blocks_) kv_.blocks.push_back(shared->data());
  for (auto tile = static_cast<std::uint32_t>(blocks_.size()); tile < tiles; ++tile) {
    KVF_ASSIGN_OR_RETURN(Extent block,
                         pool.allocate(kv_.layout.block_bytes(tile), ExtentClass::kClosed));
    kv_.blocks.push_back(block.data());
    blocks_.push_back(std::make_shared<Extent>(std::move(block)));
  }
  return ok_status();
}

void PooledSequence::copy_prompt(const PooledSequence& first) {
  std::memcpy(open_.data(), first.open_.data(), open_.size());
  kv_.length = first.kv_.length;
}

std::span<std::byte> PooledSequence::open_segment(std::uint32_t layer, std::uint32_t tile,
                                                  std::uint32_t tokens) {
  const std::size_t bytes = kv_.codec->segment_bytes(kv_.geometry, layer, tile, tokens);
  return {open_segments_.data() + layer * bytes, bytes};
}

void PooledSequence::mark_resident(std::uint32_t tiles) {
  for (; resident_ < std::min<std::size_t>(tiles, blocks_.size()); ++resident_) {
    blocks_[resident_]->mark_resident();
  }
}

}  // namespace kvferry::codec
