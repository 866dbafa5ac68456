// The KV cache of one sequence in extents of a worker's pool: one extent a block (a tile of all
// layers), one for the open tile, and one for the open tile as it is sent.
//
// Thread contract: made and destroyed on any thread; between, one owner at a time, as SequenceKv.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/extent_pool.h"
#include "base/status.h"
#include "codec/sequence_kv.h"

namespace kvferry::codec {

class PooledSequence {
 public:
  // Pool bytes, rounded as the pool rounds, that a sequence of max_tokens needs.
  static std::size_t bytes_needed(const Codec& codec, const KvGeometry& geometry,
                                  std::uint32_t max_tokens);

  // Takes every extent that max_tokens tokens will need, or none (kResourceExhausted).
  // staging_reserve: pool bytes that sequences never take, so that a transfer always finds slots to
  // land in; what staging holds already counts towards it.
  static Result<std::unique_ptr<PooledSequence>> create(ExtentPool& pool,
                                                        std::shared_ptr<const Codec> codec,
                                                        const KvGeometry& geometry,
                                                        std::uint32_t max_tokens,
                                                        std::size_t staging_reserve);

  SequenceKv& kv() { return kv_; }

  // Where the open last tile's segment of a layer lies as it is sent: `tokens` tokens, dense.
  std::span<std::byte> open_segment(std::uint32_t layer, std::uint32_t tile, std::uint32_t tokens);

  // The closed blocks below `tiles` are complete: they count as resident from now on.
  void mark_resident(std::uint32_t tiles);

 private:
  PooledSequence() = default;
  SequenceKv kv_;
  std::vector<Extent> blocks_;
  Extent open_, open_segments_;
  std::uint32_t resident_ = 0;
};

}  // namespace kvferry::codec
