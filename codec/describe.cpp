#include "codec/describe.h"

#include <memory>

#include "codec/pipeline_codec.h"

namespace kvferry::codec {
namespace {

// Frames that carry one layer's segments in order.
class FrameCounter {
 public:
  explicit FrameCounter(std::size_t max_payload) : max_payload_(max_payload) {}
  void add(std::size_t segment) {
    if (frames_ > 0 && used_ + segment <= max_payload_) {
      used_ += segment;
      return;
    }
    frames_ += (segment + max_payload_ - 1) / max_payload_;
    used_ = (segment - 1) % max_payload_ + 1;
  }
  std::uint64_t frames() const { return frames_; }

 private:
  std::size_t max_payload_;
  std::size_t used_ = 0;
  std::uint64_t frames_ = 0;
};

void add_layer(const PipelineCodec& codec, const KvGeometry& geometry, std::uint32_t layer,
               std::uint32_t tokens, const FrameCost& cost, ByteBreakdown& bytes) {
  const std::uint32_t tile_tokens = codec.tile_tokens();
  const std::uint32_t closed = tokens / tile_tokens;
  const std::uint32_t tail = tokens % tile_tokens;
  for (const Plane& plane : codec.storage().planes(geometry, {layer, 1})) {
    bytes.planes[static_cast<std::size_t>(plane.kind)] +=
        std::uint64_t{closed} * geometry.kv_heads * plane.bytes;
  }
  bytes.segment_headers += (closed + (tail > 0 ? 1u : 0u)) * kSegmentHeaderBytes;
  FrameCounter frames(cost.max_payload_bytes);
  for (std::uint32_t tile = 0; tile < closed; ++tile) {
    frames.add(codec.segment_bytes(geometry, layer, tile, tile_tokens));
  }
  if (closed > 0) {
    bytes.first_tile_extra += codec.segment_bytes(geometry, layer, 0, tile_tokens) -
                              codec.segment_bytes(geometry, layer, 1, tile_tokens);
  }
  if (tail > 0) {
    const std::size_t segment = codec.segment_bytes(geometry, layer, closed, tail);
    bytes.open_tile += segment - kSegmentHeaderBytes;
    frames.add(segment);
  }
  bytes.frame_headers += frames.frames() * cost.header_bytes;
}

double closed_bits(const PipelineCodec& codec, const KvGeometry& geometry) {
  std::size_t bytes = 0;
  for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
    bytes += codec.storage().head_bytes(geometry, {layer, 1});
  }
  const std::size_t values =
      std::size_t{2} * codec.tile_tokens() * geometry.head_dim * geometry.layers;
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(values);
}

CostPoint cost_of(const PipelineCodec& codec, const KvGeometry& geometry, std::uint32_t tokens,
                  const FrameCost& cost) {
  CostPoint point;
  point.tokens = tokens;
  point.values = std::uint64_t{tokens} * geometry.values_per_token();
  for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
    add_layer(codec, geometry, layer, tokens, cost, point.bytes);
  }
  point.bits_per_value =
      8.0 * static_cast<double>(point.bytes.total()) / static_cast<double>(point.values);
  point.closed_bits_per_value = closed_bits(codec, geometry);
  return point;
}

}  // namespace

Result<CodecDescription> describe_codec(std::string_view spec, const KvGeometry& geometry,
                                        const std::vector<std::uint32_t>& token_counts,
                                        const FrameCost& frames) {
  KVF_ASSIGN_OR_RETURN(const auto codec, make_pipeline_codec(spec));
  KVF_RETURN_IF_ERROR(codec->supports(geometry));
  if (frames.max_payload_bytes == 0) return invalid_argument("frames must carry some payload");
  CodecDescription description{codec->spec(), codec->id(), codec->traits(), {}};
  for (const std::uint32_t tokens : token_counts) {
    if (tokens == 0) return invalid_argument("a sequence has at least one token");
    description.points.push_back(cost_of(*codec, geometry, tokens, frames));
  }
  return description;
}

}  // namespace kvferry::codec
