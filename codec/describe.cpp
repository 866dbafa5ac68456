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

// Bytes of one layer.
ByteBreakdown layer_bytes(const PipelineCodec& codec, const KvGeometry& geometry,
                          std::uint32_t tokens, const FrameCost& cost) {
  const std::uint64_t closed = tokens / kTileTokens;
  const std::uint32_t tail = tokens % kTileTokens;
  const StorageStage::Planes planes = codec.storage().planes(geometry, 1);
  ByteBreakdown bytes;
  bytes.codes = closed * geometry.kv_heads * planes.codes;
  bytes.scales = closed * geometry.kv_heads * planes.scales;
  bytes.minima = closed * geometry.kv_heads * planes.minima;
  bytes.segment_headers = (closed + (tail > 0 ? 1 : 0)) * kSegmentHeaderBytes;
  FrameCounter frames(cost.max_payload_bytes);
  for (std::uint32_t tile = 0; tile < closed; ++tile) {
    frames.add(codec.segment_bytes(geometry, tile, kTileTokens));
  }
  if (closed > 0) {
    bytes.first_tile_extra = codec.segment_bytes(geometry, 0, kTileTokens) -
                             codec.segment_bytes(geometry, 1, kTileTokens);
  }
  if (tail > 0) {
    const std::size_t segment =
        codec.segment_bytes(geometry, static_cast<std::uint32_t>(closed), tail);
    bytes.open_tile = segment - kSegmentHeaderBytes;
    frames.add(segment);
  }
  bytes.frame_headers = frames.frames() * cost.header_bytes;
  return bytes;
}

CostPoint cost_of(const PipelineCodec& codec, const KvGeometry& geometry, std::uint32_t tokens,
                  const FrameCost& cost) {
  CostPoint point;
  point.tokens = tokens;
  point.values = std::uint64_t{tokens} * geometry.values_per_token();
  point.bytes = layer_bytes(codec, geometry, tokens, cost);
  for (std::uint64_t* part :
       {&point.bytes.codes, &point.bytes.scales, &point.bytes.minima, &point.bytes.segment_headers,
        &point.bytes.first_tile_extra, &point.bytes.open_tile, &point.bytes.frame_headers}) {
    *part *= geometry.layers;
  }
  point.bits_per_value =
      8.0 * static_cast<double>(point.bytes.total()) / static_cast<double>(point.values);
  const StorageStage::Planes planes = codec.storage().planes(geometry, 1);
  point.closed_bits_per_value = 8.0 *
                                static_cast<double>(planes.codes + planes.scales + planes.minima) /
                                static_cast<double>(2 * kTileTokens * geometry.head_dim);
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
