// int8: symmetric 8-bit integers with a scale for each token and KV head, of K and of V: what
// engines offer as INT8 KV where there is no FP8.
#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <string>

#include "codec/reconstructed.h"
#include "codec/stages.h"
#include "kernels/byte_kernels.h"

namespace kvferry::codec {
namespace {

constexpr std::uint16_t kMinScale = 0x0080;  // 2^-126, of tokens of zeros

// largest / 127 rounded up to bf16, so that no code leaves -127 .. 127.
std::uint16_t scale_of(std::uint16_t largest) {
  const auto bits = std::bit_cast<std::uint32_t>(kernels::f32_from_bf16(largest) / 127.0f);
  return std::max(kMinScale, static_cast<std::uint16_t>((bits + 0xffffu) >> 16));
}

class Int8Stage final : public ReconstructedStorage {
 public:
  std::string text() const override { return "int8"; }
  CodecTraits traits() const override {
    CodecTraits traits;
    traits.removes_bias = true;
    return traits;
  }
  Status supports(const KvGeometry&) const override { return ok_status(); }
  SegmentKind kind(TileId) const override { return SegmentKind::kInt8; }
  Bits bits(TileId) const override { return {8, 8}; }
  std::size_t head_bytes(const KvGeometry& geometry, TileId) const override {
    return 2 * (values(geometry) + kScaleBytes);
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId) const override {
    return {{PlaneKind::kCodes, 8, values(geometry)},
            {PlaneKind::kScales, 16, kScaleBytes},
            {PlaneKind::kCodes, 8, values(geometry)},
            {PlaneKind::kScales, 16, kScaleBytes}};
  }
  void encode_head(const KvGeometry& geometry, TileId, std::uint32_t, const std::byte* k,
                   const std::byte* v, std::byte* out) const override {
    encode(geometry, k, out);
    encode(geometry, v, out + values(geometry) + kScaleBytes);
  }
  Status validate_head(const KvGeometry& geometry, TileId, const std::byte* part) const override {
    KVF_RETURN_IF_ERROR(validate(geometry, part).with_context("K"));
    return validate(geometry, part + values(geometry) + kScaleBytes).with_context("V");
  }

 private:
  static constexpr std::size_t kScaleBytes = 2 * kGridTokens;

  static std::size_t values(const KvGeometry& geometry) {
    return std::size_t{kGridTokens} * geometry.head_dim;
  }
  static void encode(const KvGeometry& geometry, const std::byte* values_in, std::byte* out) {
    const kernels::ByteKernels& table = kernels::byte_kernels();
    const std::size_t dim = geometry.head_dim;
    const auto* x = reinterpret_cast<const std::uint16_t*>(values_in);
    std::uint16_t scales[kGridTokens];
    for (std::size_t t = 0; t < kGridTokens; ++t) {
      scales[t] = scale_of(table.max_magnitude(x + t * dim, dim));
      table.to_int8(x + t * dim, dim, kernels::f32_from_bf16(scales[t]),
                    reinterpret_cast<std::int8_t*>(out) + t * dim);
    }
    std::memcpy(out + values(geometry), scales, sizeof(scales));
  }
  static Status validate(const KvGeometry& geometry, const std::byte* part) {
    const std::byte* end = part + values(geometry);
    if (std::find(part, end, std::byte{0x80}) != end) return data_loss("a code is -128");
    std::uint16_t scales[kGridTokens];
    std::memcpy(scales, end, sizeof(scales));
    for (std::size_t t = 0; t < kGridTokens; ++t) {
      if (scales[t] < kMinScale || scales[t] > 0x7f7f) {
        return data_loss("scale " + std::to_string(t) + " is not a positive normal number");
      }
    }
    return ok_status();
  }
  static void write(const KvGeometry& geometry, const std::byte* part, std::uint16_t* out) {
    const std::size_t dim = geometry.head_dim;
    std::uint16_t scales[kGridTokens];
    std::memcpy(scales, part + values(geometry), sizeof(scales));
    for (std::size_t t = 0; t < kGridTokens; ++t) {
      kernels::byte_kernels().from_int8(reinterpret_cast<const std::int8_t*>(part) + t * dim, dim,
                                        kernels::f32_from_bf16(scales[t]), out + t * dim);
    }
  }
  void write_head(const KvGeometry& geometry, TileId, const std::byte* part, std::uint16_t* k,
                  std::uint16_t* v) const override {
    write(geometry, part, k);
    write(geometry, part + values(geometry) + kScaleBytes, v);
  }
};

}  // namespace

Result<Stage> make_int8_stage(const SpecStage& spec) {
  KVF_RETURN_IF_ERROR(SpecArguments(spec).check_keys({}));
  return Stage(std::make_shared<Int8Stage>());
}

}  // namespace kvferry::codec
