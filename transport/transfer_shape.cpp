#include "transport/transfer_shape.h"

#include <algorithm>
#include <span>
#include <vector>

#include "base/hash.h"

namespace kvferry::transport {
namespace {

// 4096 layers x 2^18 tiles would already be a coverage map of 128 MiB.
constexpr std::uint32_t kMaxLayers = 4096;
constexpr std::uint32_t kMaxTokens = 1u << 24;

}  // namespace

std::uint64_t layout_fingerprint(const codec::KvGeometry& geometry, const codec::Codec& codec) {
  const std::uint32_t tokens = codec.tile_tokens();
  std::vector<std::uint64_t> fields = {geometry.layers,
                                       geometry.kv_heads,
                                       geometry.q_heads,
                                       geometry.head_dim,
                                       geometry.removed_bias,
                                       tokens,
                                       codec.id(),
                                       codec.segment_bytes(geometry, 0, 1, 1)};
  for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
    fields.push_back(codec.segment_bytes(geometry, layer, 0, tokens));
    fields.push_back(codec.segment_bytes(geometry, layer, 1, tokens));
  }
  return hash64(std::as_bytes(std::span(fields)));
}

TransferShape::TransferShape(const TransferIdentity& identity)
    : codec_(identity.codec),
      geometry_(identity.geometry),
      tokens_(identity.tokens),
      tile_tokens_(codec_->tile_tokens()),
      tiles_((identity.tokens + tile_tokens_ - 1) / tile_tokens_) {}

std::uint32_t TransferShape::tokens_of(std::uint32_t tile) const { return tokens_of(tile, 1); }

std::uint32_t TransferShape::tokens_of(std::uint32_t first, std::uint32_t count) const {
  return std::min(count * tile_tokens_, tokens_ - first_token(first));
}

std::size_t TransferShape::segment_bytes(std::uint32_t layer, std::uint32_t tile) const {
  return codec_->segment_bytes(geometry_, layer, tile, tokens_of(tile));
}

std::size_t TransferShape::segment_bytes(std::uint32_t layer, std::uint32_t first,
                                         std::uint32_t count) const {
  std::size_t bytes = 0;
  for (std::uint32_t tile = first; tile < first + count; ++tile) {
    bytes += segment_bytes(layer, tile);
  }
  return bytes;
}

// Tiles differ only in that they are the first, a later one, or the last, open one.
std::size_t TransferShape::largest_segment() const {
  std::size_t largest = 0;
  for (std::uint32_t layer = 0; layer < layers(); ++layer) {
    for (const std::uint32_t tile : {0u, std::min(1u, tiles_ - 1), tiles_ - 1}) {
      largest = std::max(largest, segment_bytes(layer, tile));
    }
  }
  return largest;
}

std::size_t TransferShape::largest_layer() const {
  std::size_t largest = 0;
  for (std::uint32_t layer = 0; layer < layers(); ++layer) {
    largest = std::max(largest, segment_bytes(layer, 0, tiles_));
  }
  return largest;
}

std::size_t TransferShape::raw_bytes(std::uint32_t tokens) const {
  return std::size_t{tokens} * 2 * geometry_.kv_heads * geometry_.head_dim * 2;
}

Status validate(const TransferIdentity& identity) {
  if (identity.codec == nullptr) return invalid_argument("transfer without a codec");
  if (identity.tokens == 0 || identity.tokens > kMaxTokens) {
    return invalid_argument("transfer of " + std::to_string(identity.tokens) + " tokens");
  }
  if (identity.geometry.layers == 0 || identity.geometry.layers > kMaxLayers) {
    return invalid_argument("transfer of " + std::to_string(identity.geometry.layers) + " layers");
  }
  KVF_RETURN_IF_ERROR(identity.codec->supports(identity.geometry));
  const TransferShape shape(identity);
  if (shape.largest_segment() > kMaxPayloadBytes) {
    return unsupported("a segment of " + std::to_string(shape.largest_segment()) +
                       " bytes is longer than a frame may be");
  }
  return ok_status();
}

FrameHeader identity_header(const TransferIdentity& identity, FrameType type) {
  FrameHeader header;
  header.type = type;
  header.request_id = identity.request_id;
  header.transfer_id = identity.transfer_id;
  header.codec_id = identity.codec->id();
  header.model_fingerprint = identity.model_fingerprint;
  header.layout_fingerprint = layout_fingerprint(identity.geometry, *identity.codec);
  header.numerics_class = identity.numerics_class;
  return header;
}

FrameHeader answer_header(const FrameHeader& frame, FrameType type) {
  FrameHeader header;
  header.type = type;
  header.request_id = frame.request_id;
  header.transfer_id = frame.transfer_id;
  header.codec_id = frame.codec_id;
  header.model_fingerprint = frame.model_fingerprint;
  header.layout_fingerprint = frame.layout_fingerprint;
  header.numerics_class = frame.numerics_class;
  return header;
}

bool same_identity(const FrameHeader& a, const FrameHeader& b) {
  return a.request_id == b.request_id && a.transfer_id == b.transfer_id &&
         a.codec_id == b.codec_id && a.model_fingerprint == b.model_fingerprint &&
         a.layout_fingerprint == b.layout_fingerprint && a.numerics_class == b.numerics_class;
}

Status status_from_wire(std::uint32_t code, const std::string& text) {
  const std::string message = text.empty() ? "the peer ended the transfer" : "the peer: " + text;
  if (code == static_cast<std::uint32_t>(Code::kOk)) return cancelled(message);
  if (code > static_cast<std::uint32_t>(Code::kInternal)) return internal_error(message);
  return {static_cast<Code>(code), message};
}

}  // namespace kvferry::transport
