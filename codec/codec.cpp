#include "codec/codec.h"

#include <utility>

#include "base/hash.h"
#include "codec/dense.h"

namespace kvferry::codec {

Codec::Codec(CodecTraits traits, std::string spec)
    : traits_(traits), spec_(std::move(spec)), id_(hash64(spec_)) {}

void Codec::to_domain_q(float*, std::size_t, std::size_t) const {}
void Codec::to_domain_k(float*, std::size_t, std::size_t) const {}
void Codec::to_domain_v(float*, std::size_t, std::size_t) const {}
void Codec::from_domain_o(float*, std::size_t, std::size_t) const {}

void attend_open(const KvGeometry& geometry, OpenDtype dtype, const OpenTile& tile,
                 std::uint32_t kv_head, const QueryRows& queries, const std::uint32_t* visible,
                 kernels::AttentionStates states) {
  const std::size_t head = std::size_t{kv_head} * kTileTokens * geometry.head_dim * bytes_of(dtype);
  attend_dense(dtype, tile.k + head, tile.v + head, queries, visible, states);
}

}  // namespace kvferry::codec
