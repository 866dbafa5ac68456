// The bytes of a segment: one layer x one tile x all KV heads. A header of 64 bytes, little-endian,
// then the parts of the KV heads in order, each a multiple of 64 bytes (of 4 * head_dim in a dense
// segment). A segment says what it is and may lie at any even address, a wire form at
// any. docs/codecs.md has the offsets.
//
// Dense part (raw, and every open tile as it is sent): K [tokens][head_dim], then V alike, in the
// open dtype. Hack parts: see codec/hack_stage.cpp and codec/paper_stage.cpp.
//
// Thread contract: plain data and pure functions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "base/status.h"
#include "codec/codec.h"

namespace kvferry::codec {

static_assert(std::endian::native == std::endian::little, "segments are used where they lie");

inline constexpr std::uint32_t kSegmentMagic = 0x4753564b;  // "KVSG"
inline constexpr std::uint16_t kSegmentVersion = 1;

enum class SegmentKind : std::uint8_t {
  kDense = 1,
  kCodes = 2,
  kPaperCodes = 3,
  kFp8 = 4,
  kInt8 = 5,
  kIntGroups = 6
};

struct SegmentHeader {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint8_t kind;        // SegmentKind
  std::uint8_t open_dtype;  // OpenDtype of the codec
  std::uint8_t k_bits;      // of a code, or of a dense value
  std::uint8_t v_bits;
  std::uint16_t tokens;  // 1..tile_tokens
  std::uint16_t layer;
  std::uint16_t kv_heads;
  std::uint16_t head_dim;
  std::uint16_t wrapped;    // 1: the bytes behind the header are those of a wire stage
  std::uint32_t tile;       // number of the tile; 0 is the first of the sequence
  std::uint32_t bytes;      // of all that the header begins, in the form it is in
  std::uint32_t reserved1;  // 0
  std::uint64_t codec_id;
  std::uint8_t reserved2[24];  // 0
};
static_assert(sizeof(SegmentHeader) == 64 && std::is_trivially_copyable_v<SegmentHeader>);
static_assert(offsetof(SegmentHeader, tokens) == 10 && offsetof(SegmentHeader, tile) == 20 &&
              offsetof(SegmentHeader, bytes) == 24 && offsetof(SegmentHeader, codec_id) == 32 &&
              offsetof(SegmentHeader, reserved2) == 40);
static_assert(std::has_unique_object_representations_v<SegmentHeader>, "no padding");

inline constexpr std::size_t kSegmentHeaderBytes = sizeof(SegmentHeader);

// How many bytes the wire form that begins here says it has, by its header. kDataLoss where there
// is no whole header, it does not begin one, or it claims more bytes than there are.
Result<std::size_t> wire_bytes(std::span<const std::byte> wire);

// Bytes of one KV head of a dense segment.
inline std::size_t dense_head_bytes(const KvGeometry& geometry, std::uint32_t tokens,
                                    OpenDtype dtype) {
  return std::size_t{2} * tokens * geometry.head_dim * bytes_of(dtype);
}

// The part of one KV head, of a segment with or without codes: what attention reads of it.
inline kernels::Ahead head_memory(std::span<const std::byte> segment, std::uint32_t kv_heads,
                                  std::uint32_t kv_head) {
  const std::size_t bytes = (segment.size() - kSegmentHeaderBytes) / kv_heads;
  return {segment.data() + kSegmentHeaderBytes + kv_head * bytes, bytes};
}

}  // namespace kvferry::codec
