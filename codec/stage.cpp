#include "codec/stage.h"

#include <algorithm>
#include <charconv>

#include "codec/dense.h"
#include "kernels/byte_kernels.h"

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

std::vector<std::string> list_choices(const StageArgument& argument) {
  const auto number = [](std::string_view text) {
    int value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  };
  std::vector<std::string> list;
  const std::string_view choices = argument.choices;
  if (const std::size_t dots = choices.find(".."); dots != std::string_view::npos) {
    const int last = number(choices.substr(dots + 2));
    for (int i = number(choices); i <= last; ++i) list.push_back(std::to_string(i));
    return list;
  }
  for (std::size_t at = 0; at <= choices.size();) {
    const std::size_t end = std::min(choices.find('|', at), choices.size());
    list.emplace_back(choices.substr(at, end - at));
    at = end + 1;
  }
  return list;
}

std::vector<Plane> dense_planes(std::size_t bytes, OpenDtype dtype) {
  const Plane half{PlaneKind::kValues, static_cast<std::uint32_t>(8 * bytes_of(dtype)), bytes / 2};
  return {half, half};
}

void StorageStage::write_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                              std::uint16_t* k, std::uint16_t* v) const {
  float k_values[kMaxTileTokens * kernels::kMaxHeadDim];
  float v_values[kMaxTileTokens * kernels::kMaxHeadDim];
  reconstruct_head(geometry, id, part, k_values, v_values);
  const std::size_t n = std::size_t{traits().tile_tokens} * geometry.head_dim;
  kernels::byte_kernels().to_finite_bf16(k_values, n, k);
  kernels::byte_kernels().to_finite_bf16(v_values, n, v);
}

void StorageStage::attend_heads(const KvGeometry& geometry, std::span<const HeadWork> works) const {
  for (const HeadWork& work : works) {
    attend_head(geometry, work.id, work.part, work.queries, work.states);
  }
}

void StorageStage::attend_open_head(TileId, std::uint32_t, const std::byte* k, const std::byte* v,
                                    const QueryRows& queries, const std::uint32_t* visible,
                                    kernels::AttentionStates states) const {
  const CodecTraits t = traits();
  attend_dense(t.open_dtype, t.tile_tokens, k, v, queries, visible, states);
}

}  // namespace kvferry::codec
