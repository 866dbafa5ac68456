// The KV cache of one sequence in extents of a worker's pool: one extent a block (a tile of all
// layers), one for the open tile, and one for the open tile as it is sent. Sequences that go on
// from one prompt (the choices of a request) share the blocks of its closed tiles, which go back to
// the pool with the last of them.
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

// Tokens that are reserved for: `choices` sequences of max_tokens each, prompt included.
struct SequenceShape {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t max_tokens = 0;
  std::uint32_t choices = 1;
};

class PooledSequence {
 public:
  // Pool bytes, rounded as the pool rounds, that the sequences of a shape need together.
  static std::size_t bytes_needed(const Codec& codec, const KvGeometry& geometry,
                                  const SequenceShape& shape);

  // One sequence for each choice, with every extent that they will need, or none
  // (kResourceExhausted). The prompt is written to the first; the others follow by copy_prompt.
  // staging_reserve: pool bytes that sequences never take, so that a transfer always finds slots to
  // land in; what staging holds already counts towards it.
  static Result<std::vector<std::unique_ptr<PooledSequence>>> create(
      ExtentPool& pool, const std::shared_ptr<const Codec>& codec, const KvGeometry& geometry,
      const SequenceShape& shape, std::size_t staging_reserve);

  SequenceKv& kv() { return kv_; }

  // Goes on from the prompt of `first`, the first of the same shape, which is complete: its open
  // tile is copied.
  void copy_prompt(const PooledSequence& first);

  // Where the open last tile's segment of a layer lies as it is sent: `tokens` tokens, dense. Of
  // the first sequence.
  std::span<std::byte> open_segment(std::uint32_t layer, std::uint32_t tile, std::uint32_t tokens);

  // The closed blocks below `tiles` are complete: they count as resident from now on.
  void mark_resident(std::uint32_t tiles);

 private:
  PooledSequence() = default;
  Status take_blocks(ExtentPool& pool, std::uint32_t tiles);

  SequenceKv kv_;
  std::vector<std::shared_ptr<Extent>> blocks_;
  Extent open_, open_segments_;
  std::uint32_t resident_ = 0;
};

}  // namespace kvferry::codec
