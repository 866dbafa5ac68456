// fp8(e4m3|e5m2): 8-bit floats, with one scale for K and one for V of each KV head and tile, so
// that nothing has to be calibrated and no value saturates. The scale is a power of two: it costs
// no precision, since floats have the same relative steps everywhere, and what a code means is then
// a bf16 number exactly.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "codec/reconstructed.h"
#include "codec/stages.h"
#include "kernels/byte_kernels.h"

namespace kvferry::codec {
namespace {

using kernels::Fp8;

// In the order of Fp8.
constexpr std::string_view kFormatNames[] = {"e4m3", "e5m2"};

// A line of the cache: K's scale, V's, zeros.
constexpr std::size_t kScaleBytes = 64;
// So that the least step of a tile is a normal number, and the largest scale that is needed.
constexpr int kMinExponent = -110, kMaxExponent = 120;

constexpr std::uint16_t bf16_of_exponent(int exponent) {
  return static_cast<std::uint16_t>((exponent + 127) << 7);
}
float float_of_exponent(int exponent) { return std::ldexp(1.0f, exponent); }

// The least power of two by which the largest magnitude may be divided: both formats end at 1.75
// times a power of two.
int scale_exponent(Fp8 format, std::uint16_t largest) {
  constexpr int kMantissaOf1_75 = 0x60, kMantissaBits = 7, kBias = 127;
  const int top = format == Fp8::kE4m3 ? 8 : 15;
  const int exponent = (largest >> kMantissaBits) - kBias - top;
  const bool above = (largest & 0x7f) > kMantissaOf1_75;
  return std::clamp(exponent + (above ? 1 : 0), kMinExponent, kMaxExponent);
}

class Fp8Stage final : public ReconstructedStorage {
 public:
  explicit Fp8Stage(Fp8 format) : format_(format) {}

  std::string text() const override {
    return "fp8(" + std::string(kFormatNames[static_cast<std::size_t>(format_)]) + ")";
  }
  CodecTraits traits() const override {
    CodecTraits traits;
    traits.removes_bias = true;
    return traits;
  }
  Status supports(const KvGeometry&) const override { return ok_status(); }
  SegmentKind kind(TileId) const override { return SegmentKind::kFp8; }
  Bits bits(TileId) const override { return {8, 8}; }
  std::size_t head_bytes(const KvGeometry& geometry, TileId) const override {
    return 2 * values(geometry) + kScaleBytes;
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId) const override {
    return {{PlaneKind::kCodes, 8, values(geometry)},
            {PlaneKind::kCodes, 8, values(geometry)},
            {PlaneKind::kScales, 16, kScaleBytes}};
  }
  void encode_head(const KvGeometry& geometry, TileId, std::uint32_t, const std::byte* k,
                   const std::byte* v, std::byte* out) const override {
    const std::size_t n = values(geometry);
    std::uint16_t scales[kScaleBytes / 2] = {};
    scales[0] = encode(reinterpret_cast<const std::uint16_t*>(k), n, out);
    scales[1] = encode(reinterpret_cast<const std::uint16_t*>(v), n, out + n);
    std::memcpy(out + 2 * n, scales, sizeof(scales));
  }
  Status validate_head(const KvGeometry& geometry, TileId, const std::byte* part) const override;

 private:
  static std::size_t values(const KvGeometry& geometry) {
    return std::size_t{kGridTokens} * geometry.head_dim;
  }
  // Returns the scale.
  std::uint16_t encode(const std::uint16_t* x, std::size_t n, std::byte* out) const {
    const kernels::ByteKernels& table = kernels::byte_kernels();
    const int exponent = scale_exponent(format_, table.max_magnitude(x, n));
    table.to_fp8(format_, x, n, float_of_exponent(exponent), reinterpret_cast<std::uint8_t*>(out));
    return bf16_of_exponent(exponent);
  }
  void write_head(const KvGeometry& geometry, TileId, const std::byte* part, std::uint16_t* k,
                  std::uint16_t* v) const override {
    const std::size_t n = values(geometry);
    const kernels::ByteKernels& table = kernels::byte_kernels();
    std::uint16_t scales[2];
    std::memcpy(scales, part + 2 * n, sizeof(scales));
    const auto* codes = reinterpret_cast<const std::uint8_t*>(part);
    table.from_fp8(format_, codes, n, kernels::f32_from_bf16(scales[0]), k);
    table.from_fp8(format_, codes + n, n, kernels::f32_from_bf16(scales[1]), v);
  }

  Fp8 format_;
};

Status Fp8Stage::validate_head(const KvGeometry& geometry, TileId, const std::byte* part) const {
  const std::size_t n = 2 * values(geometry);
  const std::uint8_t largest = kernels::fp8_shape(format_).largest;
  std::uint8_t most = 0;
  for (std::size_t i = 0; i < n; ++i) {
    most = std::max(most, static_cast<std::uint8_t>(std::to_integer<unsigned>(part[i]) & 0x7fu));
  }
  if (most > largest) return data_loss("a code is NaN or infinite");
  std::uint16_t scales[kScaleBytes / 2];
  std::memcpy(scales, part + n, sizeof(scales));
  for (int i = 0; i < 2; ++i) {
    if (scales[i] % 0x80 != 0 || scales[i] < bf16_of_exponent(kMinExponent) ||
        scales[i] > bf16_of_exponent(kMaxExponent)) {
      return data_loss(std::string("the scale of ") + (i == 0 ? "K" : "V") +
                       " is not a power of two from 2^-110 to 2^120");
    }
  }
  if (std::any_of(scales + 2, std::end(scales), [](std::uint16_t x) { return x != 0; })) {
    return data_loss("a byte behind the scales is not zero");
  }
  return ok_status();
}

}  // namespace

Result<Stage> make_fp8_stage(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_RETURN_IF_ERROR(arguments.check_keys({""}));
  KVF_ASSIGN_OR_RETURN(const std::size_t format,
                       arguments.word("", {kFormatNames[0], kFormatNames[1]}, 0));
  return Stage(std::make_shared<Fp8Stage>(static_cast<Fp8>(format)));
}

}  // namespace kvferry::codec
