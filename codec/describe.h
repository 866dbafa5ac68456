// What a codec costs: bits a value for sequences of given lengths, and where every byte goes. All
// bytes that are sent for a prompt count: codes, scales, minima, the headers of segments and
// frames, the first tile at 8 bits and the open last tile.
//
// Thread contract: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codec/codec.h"

namespace kvferry::codec {

// How segments travel: whole segments of one layer in order share a frame as long as they fit.
struct FrameCost {
  std::size_t header_bytes = 128;
  std::size_t max_payload_bytes = std::size_t{1} << 20;
};

struct ByteBreakdown {
  std::uint64_t codes = 0;  // of closed tiles; raw: their values
  std::uint64_t scales = 0;
  std::uint64_t minima = 0;
  std::uint64_t segment_headers = 0;
  std::uint64_t first_tile_extra = 0;  // what the first tile takes beyond another closed tile
  std::uint64_t open_tile = 0;         // values of the tokens behind the last closed tile
  std::uint64_t frame_headers = 0;

  std::uint64_t total() const {
    return codes + scales + minima + segment_headers + first_tile_extra + open_tile + frame_headers;
  }
};

struct CostPoint {
  std::uint32_t tokens = 0;
  std::uint64_t values = 0;
  double bits_per_value = 0.0;  // total() * 8 / values
  // Codes, scales and minima of a closed tile behind the first: what a long sequence tends to, but
  // for headers.
  double closed_bits_per_value = 0.0;
  ByteBreakdown bytes;
};

struct CodecDescription {
  std::string spec;  // normalised
  CodecId id = 0;
  CodecTraits traits;
  std::vector<CostPoint> points;
};

// kInvalidArgument for a wrong spec, geometry or a count of 0 tokens; kUnsupported when the codec
// cannot serve the geometry.
Result<CodecDescription> describe_codec(std::string_view spec, const KvGeometry& geometry,
                                        const std::vector<std::uint32_t>& token_counts,
                                        const FrameCost& frames = {});

}  // namespace kvferry::codec
