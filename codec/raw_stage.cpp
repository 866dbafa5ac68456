// raw: values as they lie in the open tile. `raw` in bf16, and the internal exact codec in f32.
#include <cstring>
#include <memory>
#include <string>

#include "codec/dense.h"
#include "codec/stages.h"

namespace kvferry::codec {
namespace {

class RawStage final : public StorageStage {
 public:
  RawStage(std::string text, OpenDtype dtype) : text_(std::move(text)), dtype_(dtype) {}

  std::string text() const override { return text_; }
  CodecTraits traits() const override {
    CodecTraits traits;
    traits.lossless = true;
    traits.open_dtype = dtype_;
    return traits;
  }
  Status supports(const KvGeometry&) const override { return ok_status(); }
  SegmentKind kind(TileId) const override { return SegmentKind::kDense; }
  Bits bits(TileId) const override {
    const auto bits = static_cast<std::uint8_t>(8 * bytes_of(dtype_));
    return {bits, bits};
  }
  std::size_t head_bytes(const KvGeometry& geometry, TileId) const override {
    return dense_head_bytes(geometry, kGridTokens, dtype_);
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId id) const override {
    return dense_planes(head_bytes(geometry, id), dtype_);
  }
  void encode_head(const KvGeometry& geometry, TileId id, std::uint32_t, const std::byte* k,
                   const std::byte* v, std::byte* out) const override {
    const std::size_t half = head_bytes(geometry, id) / 2;
    std::memcpy(out, k, half);
    std::memcpy(out + half, v, half);
  }
  Status validate_head(const KvGeometry& geometry, TileId id,
                       const std::byte* part) const override {
    return check_dense(dtype_, part, head_bytes(geometry, id));
  }
  void attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                   const QueryRows& queries, kernels::AttentionStates states) const override {
    const std::byte* v = part + head_bytes(geometry, id) / 2;
    attend_dense(dtype_, kGridTokens, part, v, queries, nullptr, states);
  }
  void reconstruct_head(const KvGeometry& geometry, TileId, const std::byte* part, float* k,
                        float* v) const override {
    const std::size_t n = std::size_t{kGridTokens} * geometry.head_dim;
    widen(dtype_, part, n, k);
    widen(dtype_, part + n * bytes_of(dtype_), n, v);
  }
  bool attends_bf16() const override { return dtype_ == OpenDtype::kBf16; }

 private:
  std::string text_;
  OpenDtype dtype_;
};

}  // namespace

Result<Stage> make_raw_stage(const SpecStage& spec) {
  KVF_RETURN_IF_ERROR(SpecArguments(spec).check_keys({}));
  return Stage(std::make_shared<RawStage>("raw", OpenDtype::kBf16));
}

StoragePtr make_exact_storage() { return std::make_shared<RawStage>("exact", OpenDtype::kF32); }

}  // namespace kvferry::codec
