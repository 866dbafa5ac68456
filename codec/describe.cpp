#include "codec/describe.h"

#include <memory>

#include "codec/pipeline_codec.h"

namespace kvferry::codec {
namespace {

// Frames with one layer's closed segments.
std::uint64_t closed_frames(const PipelineCodec& codec, const KvGeometry& geometry,
                            std::uint32_t layer, std::uint32_t tiles, const TransferCost& cost) {
  std::uint64_t frames = 0;
  std::size_t used = 0;
  std::uint32_t chunk_of_frame = 0;
  for (std::uint32_t tile = 0; tile < tiles; ++tile) {
    const std::size_t bytes = codec.segment_bytes(geometry, layer, tile, codec.tile_tokens());
    const std::uint32_t chunk = ((tile + 1) * codec.tile_tokens() - 1) / cost.chunk_tokens;
    const bool fits = used + bytes <= cost.max_payload_bytes && chunk == chunk_of_frame;
    if (frames == 0 || !fits) {
      ++frames;
      used = 0;
      chunk_of_frame = chunk;
    }
    used += bytes;
  }
  return frames;
}

void add_layer(const PipelineCodec& codec, const KvGeometry& geometry, std::uint32_t layer,
               std::uint32_t tokens, const TransferCost& cost, ByteBreakdown& bytes) {
  const std::uint32_t tile_tokens = codec.tile_tokens();
  const std::uint32_t closed = tokens / tile_tokens;
  const std::uint32_t tail = tokens % tile_tokens;
  for (const Plane& plane : codec.storage().planes(geometry, {layer, 1})) {
    bytes.planes[static_cast<std::size_t>(plane.kind)] +=
        std::uint64_t{closed} * geometry.kv_heads * plane.bytes;
  }
  bytes.segment_headers += (closed + (tail > 0 ? 1u : 0u)) * kSegmentHeaderBytes;
  if (closed > 0) {
    bytes.first_tile_extra += codec.segment_bytes(geometry, layer, 0, tile_tokens) -
                              codec.segment_bytes(geometry, layer, 1, tile_tokens);
  }
  std::uint64_t frames = closed_frames(codec, geometry, layer, closed, cost);
  if (tail > 0) {
    bytes.open_tile += codec.segment_bytes(geometry, layer, closed, tail) - kSegmentHeaderBytes;
    ++frames;
  }
  bytes.frame_headers += frames * cost.header_bytes;
  bytes.control_frames += frames * cost.header_bytes;
}

CostPoint cost_of(const PipelineCodec& codec, const KvGeometry& geometry, std::uint32_t tokens,
                  const TransferCost& cost) {
  CostPoint point;
  point.tokens = tokens;
  point.values = std::uint64_t{tokens} * geometry.values_per_token();
  for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
    add_layer(codec, geometry, layer, tokens, cost, point.bytes);
  }
  point.bytes.control_frames += cost.exchange_bytes + codec.spec().size();
  point.bits_per_value =
      8.0 * static_cast<double>(point.bytes.total()) / static_cast<double>(point.values);
  point.closed_bits_per_value = closed_bits_per_value(codec, geometry);
  return point;
}

}  // namespace

double closed_bits_per_value(const Codec& codec, const KvGeometry& geometry) {
  const std::uint32_t tokens = codec.tile_tokens();
  std::size_t bytes = 0;
  for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
    bytes += codec.segment_bytes(geometry, layer, 1, tokens) - kSegmentHeaderBytes;
  }
  const std::size_t values = tokens * geometry.values_per_token();
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(values);
}

Result<CodecDescription> describe_codec(std::string_view spec, const KvGeometry& geometry,
                                        const std::vector<std::uint32_t>& token_counts,
                                        const TransferCost& cost) {
  KVF_ASSIGN_OR_RETURN(const auto codec, make_pipeline_codec(spec));
  KVF_RETURN_IF_ERROR(codec->supports(geometry));
  if (cost.chunk_tokens == 0) return invalid_argument("a chunk has at least one token");
  CodecDescription description{codec->spec(), codec->id(), codec->traits(), {}};
  for (const std::uint32_t tokens : token_counts) {
    if (tokens == 0) return invalid_argument("a sequence has at least one token");
    description.points.push_back(cost_of(*codec, geometry, tokens, cost));
  }
  return description;
}

}  // namespace kvferry::codec
