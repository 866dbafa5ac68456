#include "codec/reconstructed.h"

#include "codec/dense.h"

namespace kvferry::codec {
namespace {

// 128 KiB for the longest tile of the widest heads.
struct Bf16Tile {
  alignas(64) std::uint16_t k[kMaxTileTokens * kernels::kMaxHeadDim];
  alignas(64) std::uint16_t v[kMaxTileTokens * kernels::kMaxHeadDim];

  const std::byte* k_bytes() const { return reinterpret_cast<const std::byte*>(k); }
  const std::byte* v_bytes() const { return reinterpret_cast<const std::byte*>(v); }
};

}  // namespace

void ReconstructedStorage::attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                                       const QueryRows& queries,
                                       kernels::AttentionStates states) const {
  Bf16Tile tile;
  write_head(geometry, id, part, tile.k, tile.v);
  attend_dense(OpenDtype::kBf16, traits().tile_tokens, tile.k_bytes(), tile.v_bytes(), queries,
               nullptr, states);
}

void ReconstructedStorage::reconstruct_head(const KvGeometry& geometry, TileId id,
                                            const std::byte* part, float* k, float* v) const {
  Bf16Tile tile;
  write_head(geometry, id, part, tile.k, tile.v);
  const std::size_t n = std::size_t{traits().tile_tokens} * geometry.head_dim;
  widen(OpenDtype::kBf16, tile.k_bytes(), n, k);
  widen(OpenDtype::kBf16, tile.v_bytes(), n, v);
}

}  // namespace kvferry::codec
