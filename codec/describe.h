// What a codec costs: bits a value for sequences of given lengths, and where every byte goes. All
// bytes that are sent for a prompt count, both ways: codes, scales, minima, the headers of segments
// and frames, the first tile at 8 bits, the open last tile and control frames. A wire stage makes
// it fewer, by how much depends on the values: the figures are those without it, which it never
// exceeds.
//
// Thread contract: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codec/codec.h"
#include "codec/stage.h"

namespace kvferry::codec {

// What a transfer takes beside segments, as the transport and prefill are set up by default and a
// prompt alone goes through them (docs/wire-format.md; tests/workers holds the figures to the bytes
// that are sent). A frame has segments of one layer, as many as fit, which closed in one chunk;
// each layer's open tile has a frame of its own. Every frame is acknowledged by a bare header.
struct TransferCost {
  std::size_t header_bytes = 128;
  std::size_t max_payload_bytes = std::size_t{1} << 20;  // longer segments go alone
  std::uint32_t chunk_tokens = 512;
  // WANT, GRANT, COMMIT of one choice and COMMIT_ACK, without the spec that WANT holds.
  std::size_t exchange_bytes = 4 * 128 + 36 + 4 + 60;
};

struct ByteBreakdown {
  // Of closed tiles, as many as each would be were all like those behind the first.
  std::array<std::uint64_t, kPlaneKinds> planes{};  // by PlaneKind
  std::uint64_t segment_headers = 0;
  std::uint64_t first_tile_extra = 0;  // what the first tile takes beyond another closed tile
  std::uint64_t open_tile = 0;         // values of the tokens behind the last closed tile
  std::uint64_t frame_headers = 0;     // of frames with segments
  std::uint64_t control_frames = 0;    // acknowledgements, and what opens and ends the transfer

  std::uint64_t total() const {
    return std::accumulate(planes.begin(), planes.end(), std::uint64_t{0}) + segment_headers +
           first_tile_extra + open_tile + frame_headers + control_frames;
  }
};

struct CostPoint {
  std::uint32_t tokens = 0;
  std::uint64_t values = 0;
  double bits_per_value = 0.0;  // total() * 8 / values
  double closed_bits_per_value = 0.0;
  ByteBreakdown bytes;
};

struct CodecDescription {
  std::string spec;  // normalised
  CodecId id = 0;
  CodecTraits traits;
  std::vector<CostPoint> points;
};

// Of a closed tile behind the first as it lies in memory, without its header: what a long sequence
// tends to, but for headers.
double closed_bits_per_value(const Codec& codec, const KvGeometry& geometry);

// kInvalidArgument for a wrong spec, geometry or a count of 0 tokens; kUnsupported when the codec
// cannot serve the geometry.
Result<CodecDescription> describe_codec(std::string_view spec, const KvGeometry& geometry,
                                        const std::vector<std::uint32_t>& token_counts,
                                        const TransferCost& cost = {});

}  // namespace kvferry::codec
