// What a transfer consists of: every (layer, tile) once, and how long each segment is. Also the
// headers that carry its identity.
//
// Thread contract: values and pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "transport/frame.h"
#include "transport/kv_transfer.h"

namespace kvferry::transport {

class TransferShape {
 public:
  TransferShape() = default;
  explicit TransferShape(const TransferIdentity& identity);

  std::uint32_t layers() const { return geometry_.layers; }
  std::uint32_t tiles() const { return tiles_; }
  std::uint64_t segments() const { return std::uint64_t{layers()} * tiles_; }
  // Index of a segment in [0, segments()).
  std::uint64_t index(std::uint32_t layer, std::uint32_t tile) const {
    return std::uint64_t{layer} * tiles_ + tile;
  }
  bool contains(std::uint32_t layer, std::uint32_t first_tile, std::uint32_t count) const {
    return layer < layers() && std::uint64_t{first_tile} + count <= tiles_;
  }
  std::uint32_t first_token(std::uint32_t tile) const { return tile * tile_tokens_; }
  std::uint32_t tokens_of(std::uint32_t tile) const;                        // 1..tile_tokens
  std::uint32_t tokens_of(std::uint32_t first, std::uint32_t count) const;  // of a range
  std::size_t segment_bytes(std::uint32_t layer, std::uint32_t tile) const;
  // Of a range of tiles.
  std::size_t segment_bytes(std::uint32_t layer, std::uint32_t first, std::uint32_t count) const;
  std::size_t largest_segment() const;
  std::size_t largest_layer() const;                  // bytes of all its segments
  std::size_t raw_bytes(std::uint32_t tokens) const;  // of one layer's K and V in bf16

 private:
  std::shared_ptr<const codec::Codec> codec_;
  codec::KvGeometry geometry_;
  std::uint32_t tokens_ = 0;
  std::uint32_t tile_tokens_ = codec::kGridTokens;
  std::uint32_t tiles_ = 0;
};

// Whether the identity is complete and within limits, and its codec serves its geometry.
Status validate(const TransferIdentity& identity);

// A header of that type with all identity fields of the transfer; the epoch is set on sending.
FrameHeader identity_header(const TransferIdentity& identity, FrameType type);
// The same fields copied from a frame: for answers about transfers that are not known.
FrameHeader answer_header(const FrameHeader& frame, FrameType type);
// Whether a frame's identity fields are those of `expected` (an identity_header).
bool same_identity(const FrameHeader& expected, const FrameHeader& frame);

// The Status that a peer's REFUSE, NACK or RELEASE means; never OK.
Status status_from_wire(std::uint32_t code, const std::string& text);

}  // namespace kvferry::transport
