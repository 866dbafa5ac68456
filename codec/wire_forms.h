// The wire forms of a prompt's segments while they are sent: for a codec that wraps, pool memory of
// as many bytes as the segments, which stay where they are, since later tokens attend to them.
//
// Thread contract: made and destroyed on any thread; wrap may run on several threads for different
// segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/extent_pool.h"
#include "base/status.h"
#include "codec/sequence_kv.h"

namespace kvferry::codec {

class WireForms {
 public:
  // Pool bytes, rounded as the pool rounds; 0 for a codec that does not wrap.
  static std::size_t bytes_needed(const Codec& codec, const KvGeometry& geometry,
                                  std::uint32_t prompt_tokens);

  // Memory for all segments of a prompt, or kResourceExhausted.
  static Result<std::unique_ptr<WireForms>> create(ExtentPool& pool,
                                                   std::shared_ptr<const Codec> codec,
                                                   const KvGeometry& geometry,
                                                   std::uint32_t prompt_tokens);

  // The wire form of the segment of (layer, tile), which stays until this is destroyed. Of a codec
  // that does not wrap: the segment.
  std::span<const std::byte> wrap(std::uint32_t layer, std::uint32_t tile,
                                  std::span<const std::byte> segment) const;

 private:
  WireForms(std::shared_ptr<const Codec> codec, const KvGeometry& geometry)
      : codec_(std::move(codec)), geometry_(geometry), layout_(*codec_, geometry_) {}

  std::shared_ptr<const Codec> codec_;
  KvGeometry geometry_;
  BlockLayout layout_;
  std::vector<Extent> blocks_;  // of closed tiles; then that of the open one, if there is one
  std::size_t closed_ = 0;
};

}  // namespace kvferry::codec
