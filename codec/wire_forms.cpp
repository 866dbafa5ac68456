#include "codec/wire_forms.h"

#include <utility>

namespace kvferry::codec {
namespace {

// Of each block that the segments of a prompt make up: the closed tiles', then the open one's.
std::vector<std::size_t> block_sizes(const Codec& codec, const KvGeometry& geometry,
                                     std::uint32_t prompt_tokens) {
  const BlockLayout layout(codec, geometry);
  const std::uint32_t closed = prompt_tokens / codec.tile_tokens();
  const std::uint32_t open = prompt_tokens % codec.tile_tokens();
  std::vector<std::size_t> sizes;
  for (std::uint32_t tile = 0; tile < closed; ++tile) sizes.push_back(layout.block_bytes(tile));
  if (open > 0) {
    sizes.push_back(geometry.layers * codec.segment_bytes(geometry, 0, closed, open));
  }
  return sizes;
}

}  // namespace

std::size_t WireForms::bytes_needed(const Codec& codec, const KvGeometry& geometry,
                                    std::uint32_t prompt_tokens) {
  if (!codec.traits().wraps) return 0;
  std::size_t bytes = 0;
  for (const std::size_t size : block_sizes(codec, geometry, prompt_tokens)) {
    bytes += (size + ExtentPool::kUnit - 1) / ExtentPool::kUnit * ExtentPool::kUnit;
  }
  return bytes;
}

Result<std::unique_ptr<WireForms>> WireForms::create(ExtentPool& pool,
                                                     std::shared_ptr<const Codec> codec,
                                                     const KvGeometry& geometry,
                                                     std::uint32_t prompt_tokens) {
  std::unique_ptr<WireForms> forms(new WireForms(std::move(codec), geometry));
  if (!forms->codec_->traits().wraps) return forms;
  forms->closed_ = prompt_tokens / forms->codec_->tile_tokens();
  for (const std::size_t size : block_sizes(*forms->codec_, geometry, prompt_tokens)) {
    KVF_ASSIGN_OR_RETURN(Extent block, pool.allocate(size, ExtentClass::kClosed));
    forms->blocks_.push_back(std::move(block));
  }
  return forms;
}

std::span<const std::byte> WireForms::wrap(std::uint32_t layer, std::uint32_t tile,
                                           std::span<const std::byte> segment) const {
  if (!codec_->traits().wraps) return segment;
  const std::size_t start =
      tile < closed_ ? layout_.start(layer, tile) : layer * segment.size();  // open: all alike
  const std::span<std::byte> room(blocks_[tile].data() + start, segment.size());
  return room.first(codec_->wrap(geometry_, segment, room));
}

}  // namespace kvferry::codec
