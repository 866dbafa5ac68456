#include "codec/stage.h"

#include "codec/dense.h"

namespace kvferry::codec {

std::string_view plane_name(PlaneKind kind) {
  static constexpr std::string_view kNames[kPlaneKinds] = {"values", "codes",   "scales", "minima",
                                                           "sums",   "factors", "means"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::string_view stage_kind_name(StageKind kind) {
  static constexpr std::string_view kNames[] = {"domain", "adapter", "storage", "wire", "preset"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::vector<Plane> dense_planes(std::size_t bytes, OpenDtype dtype) {
  const Plane half{PlaneKind::kValues, static_cast<std::uint32_t>(8 * bytes_of(dtype)), bytes / 2};
  return {half, half};
}

void StorageStage::attend_open_head(std::uint32_t, const std::byte* k, const std::byte* v,
                                    const QueryRows& queries, const std::uint32_t* visible,
                                    kernels::AttentionStates states) const {
  const CodecTraits t = traits();
  attend_dense(t.open_dtype, t.tile_tokens, k, v, queries, visible, states);
}

}  // namespace kvferry::codec
