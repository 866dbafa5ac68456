// dequantize: attends on what the storage behind it reconstructs, rounded to bf16, instead of on
// its codes. What engines do that have no kernel for codes: the baseline of attending on them.
// Before a storage that has none either it changes nothing, and is left out of the normalised spec.
#include <memory>
#include <string>
#include <utility>

#include "codec/reconstructed.h"
#include "codec/stages.h"

namespace kvferry::codec {
namespace {

class DequantizeStage final : public ReconstructedStorage {
 public:
  explicit DequantizeStage(StoragePtr behind) : behind_(std::move(behind)) {}

  std::string text() const override { return "dequantize | " + behind_->text(); }
  std::string layer_text(std::uint32_t layer) const override {
    return "dequantize | " + behind_->layer_text(layer);
  }
  CodecTraits traits() const override { return behind_->traits(); }
  Status supports(const KvGeometry& geometry) const override { return behind_->supports(geometry); }
  SegmentKind kind(TileId id) const override { return behind_->kind(id); }
  Bits bits(TileId id) const override { return behind_->bits(id); }
  std::size_t head_bytes(const KvGeometry& geometry, TileId id) const override {
    return behind_->head_bytes(geometry, id);
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId id) const override {
    return behind_->planes(geometry, id);
  }
  void encode_head(const KvGeometry& geometry, TileId id, std::uint32_t kv_head, const std::byte* k,
                   const std::byte* v, std::byte* out) const override {
    behind_->encode_head(geometry, id, kv_head, k, v, out);
  }
  Status validate_head(const KvGeometry& geometry, TileId id,
                       const std::byte* part) const override {
    return behind_->validate_head(geometry, id, part);
  }
  void attend_open_head(TileId id, std::uint32_t kv_head, const std::byte* k, const std::byte* v,
                        const QueryRows& queries, const std::uint32_t* visible,
                        kernels::AttentionStates states) const override {
    behind_->attend_open_head(id, kv_head, k, v, queries, visible, states);
  }

 private:
  void write_head(const KvGeometry& geometry, TileId id, const std::byte* part, std::uint16_t* k,
                  std::uint16_t* v) const override {
    behind_->write_head(geometry, id, part, k, v);
  }

  StoragePtr behind_;
};

}  // namespace

Result<Stage> make_dequantize_stage(const SpecStage& spec) {
  KVF_RETURN_IF_ERROR(SpecArguments(spec).check_keys({}));
  return Stage(Adapter([](StoragePtr behind) -> Result<StoragePtr> {
    if (behind->attends_bf16()) return behind;
    return StoragePtr(std::make_shared<DequantizeStage>(std::move(behind)));
  }));
}

}  // namespace kvferry::codec
