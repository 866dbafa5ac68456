// Storages without an attention kernel of their own: a tile's bytes are written out as bf16 into
// the core's cache, on the stack, and attended to densely. The arithmetic of attention is then that
// of `raw` over the values that the bytes mean; memory is read at the size of the bytes.
//
// Thread contract: as StorageStage.
#pragma once

#include <cstdint>

#include "codec/stage.h"

namespace kvferry::codec {

class ReconstructedStorage : public StorageStage {
 public:
  void attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                   const QueryRows& queries, kernels::AttentionStates states) const final;
  void reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* part, float* k,
                        float* v) const final;
  bool attends_bf16() const final { return true; }

  void write_head(const KvGeometry& geometry, TileId id, const std::byte* part, std::uint16_t* k,
                  std::uint16_t* v) const override = 0;
};

}  // namespace kvferry::codec
