// hack: codes of 1 to 8 bits that attention works on as they are.
//
// Part of one KV head of a closed tile, D = head_dim, k and v the bits of the tile (8 and 8 in the
// first): K codes (8 D k bytes), K scales (2 D), K minima (2 D), V codes (8 D v), V scales (2 D),
// V minima (2 D); planes as in kernels/hack_kernels.h. In all 8 D (k + v + 1) bytes, so
// (k + v + 1) / 2 bits a value.
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "codec/stages.h"
#include "kernels/hack_encode_kernels.h"
#include "kernels/hack_kernels.h"

namespace kvferry::codec {
namespace {

using kernels::HackPlanes;
using kernels::HackRange;
using kernels::kHackBlock;

constexpr std::uint32_t kFirstBits = 8;  // of tile 0, where the attention sinks are

// Measured: search buys about 45 % of the squared error at 2 bits and 7 % at 4, nothing at 8. At 1
// bit it leaves 0.50 of Gaussian values' variance, least squares 0.35.
constexpr HackRange default_range(std::uint32_t bits) {
  if (bits == 1) return HackRange::kLeastSquares;
  return bits <= 3 ? HackRange::kSearch : HackRange::kMinMax;
}

struct HackOptions {
  std::uint32_t k_bits = 4, v_bits = 2;
  HackRange k_range = default_range(4), v_range = default_range(2);

  bool range_is_default() const {
    return k_range == default_range(k_bits) && v_range == default_range(v_bits);
  }
};

// In the order of HackRange.
constexpr std::string_view kRangeNames[] = {"minmax", "search", "lsq"};

std::string normalised(const HackOptions& options) {
  std::string text =
      "hack(k=" + std::to_string(options.k_bits) + ",v=" + std::to_string(options.v_bits);
  if (!options.range_is_default()) {
    text += ",range=" + std::string(kRangeNames[static_cast<std::size_t>(options.k_range)]);
  }
  return text + ")";
}

std::uint16_t bf16_at(const std::byte* plane, std::size_t index) {
  std::uint16_t value;
  std::memcpy(&value, plane + 2 * index, sizeof(value));
  return value;
}

class HackStage final : public StorageStage {
 public:
  explicit HackStage(HackOptions options) : options_(options) {}

  std::string text() const override { return normalised(options_); }
  CodecTraits traits() const override {
    CodecTraits traits;
    traits.removes_bias = true;
    return traits;
  }
  Status supports(const KvGeometry& geometry) const override {
    if (geometry.head_dim == 64 || geometry.head_dim == 128 || geometry.head_dim == 256) {
      return ok_status();
    }
    return unsupported("hack: head_dim " + std::to_string(geometry.head_dim) +
                       " is not 64, 128 or 256; use raw");
  }
  SegmentKind kind(TileId) const override { return SegmentKind::kCodes; }
  Bits bits(TileId id) const override {
    if (id.tile == 0) return {kFirstBits, kFirstBits};
    return {static_cast<std::uint8_t>(options_.k_bits), static_cast<std::uint8_t>(options_.v_bits)};
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId id) const override {
    const Bits b = bits(id);
    const std::size_t dim = geometry.head_dim;
    return {{PlaneKind::kCodes, b.k, 8 * dim * b.k}, {PlaneKind::kScales, 16, 2 * dim},
            {PlaneKind::kMinima, 16, 2 * dim},       {PlaneKind::kCodes, b.v, 8 * dim * b.v},
            {PlaneKind::kScales, 16, 2 * dim},       {PlaneKind::kMinima, 16, 2 * dim}};
  }
  std::size_t head_bytes(const KvGeometry& geometry, TileId id) const override {
    const Bits b = bits(id);
    return std::size_t{8} * geometry.head_dim * (b.k + b.v + 1u);
  }
  void encode_head(const KvGeometry& geometry, TileId id, std::uint32_t kv_head, const std::byte* k,
                   const std::byte* v, std::byte* out) const override;
  Status validate_head(const KvGeometry& geometry, TileId id, const std::byte* part) const override;
  void attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                   const QueryRows& queries, kernels::AttentionStates states) const override {
    kernels::hack_kernels().attend(planes_at(geometry, id, part), queries.block(0), states);
  }
  void reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* part, float* k,
                        float* v) const override {
    kernels::hack_reconstruct(planes_at(geometry, id, part), k, v);
  }

 private:
  HackPlanes planes_at(const KvGeometry& geometry, TileId id, const std::byte* part) const {
    const Bits b = bits(id);
    const std::size_t dim = geometry.head_dim;
    HackPlanes p;
    p.head_dim = geometry.head_dim;
    p.k_bits = b.k;
    p.v_bits = b.v;
    p.k_codes = part;
    p.k_scale = p.k_codes + 8 * dim * b.k;
    p.k_min = p.k_scale + 2 * dim;
    p.v_codes = p.k_min + 2 * dim;
    p.v_scale = p.v_codes + 8 * dim * b.v;
    p.v_min = p.v_scale + 2 * dim;
    return p;
  }

  HackOptions options_;
};

// Where the codes, scales and minima of one block of 64 x 64 go. A block of 64 channels fills whole
// rows of words of K, each 64 tokens wide; of V it fills 64 lanes of each.
struct BlockOut {
  bool of_k;
  std::size_t dim, first_channel;
  std::byte* codes;  // the plane, of all channels
  std::byte* scale;  // of this block
  std::byte* min;
};

void encode_block(const kernels::HackBlock& block, std::uint32_t bits, HackRange range,
                  const BlockOut& out) {
  const kernels::HackEncodeKernels& table = kernels::hack_encode_kernels();
  alignas(64) std::uint8_t codes[kHackBlock * kHackBlock];
  std::uint16_t scale[kHackBlock];
  std::uint16_t min[kHackBlock];
  table.quantize_block(block, bits, range, codes, scale, min);
  const kernels::HackSubPlanes& planes = kernels::kHackSubPlanes[bits];
  for (std::uint32_t i = 0; i < planes.count; ++i) {
    const kernels::HackSubPlane part = planes.part[i];
    std::byte* plane = out.codes + 8 * out.dim * part.shift;
    table.pack_block(codes, part.shift, part.bits, out.of_k ? kHackBlock : out.dim,
                     plane + out.first_channel * (out.of_k ? 8 * part.bits : 4));
  }
  std::memcpy(out.scale, scale, sizeof(scale));
  std::memcpy(out.min, min, sizeof(min));
}

void HackStage::encode_head(const KvGeometry& geometry, TileId id, std::uint32_t,
                            const std::byte* k, const std::byte* v, std::byte* out) const {
  const std::size_t dim = geometry.head_dim;
  const Bits b = bits(id);
  // 8 bits are min-max always, so that range= says nothing about a tile that it cannot improve.
  const HackRange k_range = id.tile == 0 ? HackRange::kMinMax : options_.k_range;
  const HackRange v_range = id.tile == 0 ? HackRange::kMinMax : options_.v_range;
  const auto* k_in = reinterpret_cast<const std::uint16_t*>(k);
  const auto* v_in = reinterpret_cast<const std::uint16_t*>(v);
  std::byte* k_scale = out + 8 * dim * b.k;
  std::byte* v_codes = k_scale + 4 * dim;
  std::byte* v_scale = v_codes + 8 * dim * b.v;
  for (std::size_t first = 0; first < dim; first += kHackBlock) {
    encode_block({k_in + first, dim, kHackBlock, false}, b.k, k_range,
                 {true, dim, first, out, k_scale + 2 * first, k_scale + 2 * dim + 2 * first});
    encode_block({v_in + first, dim, kHackBlock, true}, b.v, v_range,
                 {false, dim, first, v_codes, v_scale + 2 * first, v_scale + 2 * dim + 2 * first});
  }
}

Status HackStage::validate_head(const KvGeometry& geometry, TileId id,
                                const std::byte* part) const {
  const HackPlanes p = planes_at(geometry, id, part);
  for (std::size_t i = 0; i < geometry.head_dim; ++i) {
    for (const std::byte* scale : {p.k_scale, p.v_scale}) {
      const std::uint16_t value = bf16_at(scale, i);
      if (value >= 0x7f80u || value < 0x0080u) {  // negative, infinite, NaN; zero, subnormal
        return {Code::kDataLoss, std::string("scale ") + std::to_string(i) + " of " +
                                     (scale == p.k_scale ? "K" : "V") +
                                     " is not a positive normal number"};
      }
    }
    for (const std::byte* min : {p.k_min, p.v_min}) {
      if ((bf16_at(min, i) & 0x7f80u) == 0x7f80u) {
        return {Code::kDataLoss, std::string("minimum ") + std::to_string(i) + " of " +
                                     (min == p.k_min ? "K" : "V") + " is NaN or infinite"};
      }
    }
  }
  return ok_status();
}

}  // namespace

Result<Stage> make_hack_stage(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_ASSIGN_OR_RETURN(const std::size_t layout, arguments.word("layout", {"channel", "paper"}, 0));
  if (layout == 1) return make_paper_stage(spec);
  KVF_RETURN_IF_ERROR(arguments.check_keys({"k", "v", "layout", "range", "first_bits"}));
  HackOptions options;
  const std::initializer_list<std::uint32_t> bits = {1, 2, 3, 4, 5, 6, 7, 8};
  KVF_ASSIGN_OR_RETURN(options.k_bits, arguments.integer("k", bits, options.k_bits));
  KVF_ASSIGN_OR_RETURN(options.v_bits, arguments.integer("v", bits, options.v_bits));
  constexpr std::size_t kDefault = std::size(kRangeNames);
  KVF_ASSIGN_OR_RETURN(
      const std::size_t range,
      arguments.word("range", {kRangeNames[0], kRangeNames[1], kRangeNames[2]}, kDefault));
  KVF_RETURN_IF_ERROR(arguments.integer("first_bits", {kFirstBits}, kFirstBits).status());
  options.k_range =
      range == kDefault ? default_range(options.k_bits) : static_cast<HackRange>(range);
  options.v_range =
      range == kDefault ? default_range(options.v_bits) : static_cast<HackRange>(range);
  return Stage(std::make_shared<HackStage>(options));
}

}  // namespace kvferry::codec
