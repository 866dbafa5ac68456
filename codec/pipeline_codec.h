// The codec made of domain stages, one storage stage and perhaps a wire stage. Segments, headers
// and checks are here; what a closed tile's bytes mean is the storage stage's.
//
// Thread contract: as Codec.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "codec/codec.h"
#include "codec/segment.h"
#include "codec/stage.h"

namespace kvferry::codec {

// What a spec names and this process lacks, and where: its digest, empty when nothing is missing.
struct MissingArtifact {
  std::string digest;
  std::size_t position = 0;
};

class PipelineCodec final : public Codec {
 public:
  PipelineCodec(std::vector<DomainPtr> domain, StoragePtr storage, WirePtr wire,
                MissingArtifact missing);

  std::string missing_artifact() const override { return missing_.digest; }
  std::string layer_spec(std::uint32_t layer) const override { return storage_->layer_text(layer); }
  Status supports(const KvGeometry& geometry) const override;
  void to_domain_q(float* x, std::size_t heads, std::size_t head_dim) const override;
  void to_domain_k(float* x, std::size_t heads, std::size_t head_dim) const override;
  void to_domain_v(float* x, std::size_t heads, std::size_t head_dim) const override;
  void write_open_k(float* x, std::size_t heads, std::size_t head_dim, std::byte* out,
                    std::size_t stride) const override;
  void write_open_v(float* x, std::size_t heads, std::size_t head_dim, std::byte* out,
                    std::size_t stride) const override;
  void from_domain_o(float* x, std::size_t heads, std::size_t head_dim) const override;
  std::size_t segment_bytes(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                            std::uint32_t tokens) const override;
  Status encode(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                std::uint32_t tokens, const OpenTile& input,
                std::span<std::byte> out) const override;
  Status validate(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                  std::uint32_t tokens, std::span<const std::byte> segment) const override;
  void attend_all(const KvGeometry& geometry, std::span<const AttendWork> works) const override;
  void reconstruct(const KvGeometry& geometry, std::span<const std::byte> segment,
                   std::uint32_t kv_head, float* k, float* v) const override;
  void attend_open(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                   const OpenTile& open, std::uint32_t kv_head, const QueryRows& queries,
                   const std::uint32_t* visible, kernels::AttentionStates states) const override;
  void load_open(const KvGeometry& geometry, std::span<const std::byte> segment,
                 const OpenTile& out) const override;
  std::size_t wrap(const KvGeometry& geometry, std::span<const std::byte> segment,
                   std::span<std::byte> out) const override;
  Status unwrap(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                std::uint32_t tokens, std::span<const std::byte> wire,
                std::span<std::byte> out) const override;

  const StorageStage& storage() const { return *storage_; }

 private:
  // Whether the last domain stage rounds what it writes to an open tile.
  bool writes_through_domain() const {
    return !domain_.empty() && traits().open_dtype == OpenDtype::kBf16;
  }
  bool is_open(std::uint32_t tokens) const { return tokens < tile_tokens(); }
  std::size_t head_bytes(const KvGeometry& geometry, TileId id, std::uint32_t tokens) const;
  std::vector<Plane> head_planes(const KvGeometry& geometry, TileId id, std::uint32_t tokens) const;
  SegmentHeader header(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                       std::uint32_t tokens) const;

  std::vector<DomainPtr> domain_;
  StoragePtr storage_;
  MissingArtifact missing_;
  WirePtr wire_;  // null: segments go as they are
};

// The storage of a spec made of adapters and one storage stage: a part of a codec.
Result<StoragePtr> make_storage(std::string_view spec);

// make_codec, for those inside the room who ask the storage stage itself.
Result<std::shared_ptr<const PipelineCodec>> make_pipeline_codec(
    std::string_view spec, SpecFiles files = SpecFiles::kRead);

}  // namespace kvferry::codec
