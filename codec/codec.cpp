#include "codec/codec.h"

#include <cstring>
#include <string>
#include <utility>

#include "base/hash.h"
#include "codec/dense.h"
#include "codec/segment.h"

namespace kvferry::codec {

Codec::Codec(CodecTraits traits, std::string spec)
    : traits_(traits), spec_(std::move(spec)), id_(hash64(spec_)) {}

void Codec::to_domain_q(float*, std::size_t, std::size_t) const {}
void Codec::to_domain_k(float*, std::size_t, std::size_t) const {}
void Codec::to_domain_v(float*, std::size_t, std::size_t) const {}
void Codec::write_open_k(float* x, std::size_t heads, std::size_t head_dim, std::byte* out,
                         std::size_t stride) const {
  to_domain_k(x, heads, head_dim);
  narrow_heads(traits_.open_dtype, x, heads, head_dim, out, stride);
}
void Codec::write_open_v(float* x, std::size_t heads, std::size_t head_dim, std::byte* out,
                         std::size_t stride) const {
  to_domain_v(x, heads, head_dim);
  narrow_heads(traits_.open_dtype, x, heads, head_dim, out, stride);
}
void Codec::from_domain_o(float*, std::size_t, std::size_t) const {}

void Codec::attend(const KvGeometry& geometry, std::span<const std::byte> segment,
                   std::uint32_t kv_head, const QueryRows& queries,
                   kernels::AttentionStates states) const {
  SegmentHeader header;
  std::memcpy(&header, segment.data(), sizeof(header));
  const AttendWork work{header.layer, header.tile, segment, kv_head, queries, states};
  attend_all(geometry, {&work, 1});
}

void Codec::attend_open(const KvGeometry& geometry, std::uint32_t, std::uint32_t,
                        const OpenTile& open, std::uint32_t kv_head, const QueryRows& queries,
                        const std::uint32_t* visible, kernels::AttentionStates states) const {
  const OpenDtype dtype = traits_.open_dtype;
  const std::size_t head =
      std::size_t{kv_head} * traits_.tile_tokens * geometry.head_dim * bytes_of(dtype);
  attend_dense(dtype, traits_.tile_tokens, open.k + head, open.v + head, queries, visible, states);
}

std::size_t Codec::wrap(const KvGeometry&, std::span<const std::byte> segment,
                        std::span<std::byte> out) const {
  std::memcpy(out.data(), segment.data(), segment.size());
  return segment.size();
}

Status Codec::unwrap(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                     std::uint32_t tokens, std::span<const std::byte> wire,
                     std::span<std::byte> out) const {
  if (wire.size() != out.size()) {
    return data_loss("segment of " + std::to_string(wire.size()) + " bytes, expected " +
                     std::to_string(out.size()));
  }
  // Where it will lie: behind a wrapped segment the wire form may begin at an odd address.
  std::memcpy(out.data(), wire.data(), wire.size());
  return validate(geometry, layer, tile, tokens, out);
}

}  // namespace kvferry::codec
