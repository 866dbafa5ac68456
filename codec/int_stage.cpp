// int(k=2,v=2,group=64): plain integer groups. K and V alike are cut, token by token, into groups
// of channels; each has a scale and a minimum, from its least value to its greatest. What most
// engines mean by a KV cache of 2 to 8 bits: a baseline.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "codec/reconstructed.h"
#include "codec/stages.h"
#include "kernels/byte_kernels.h"
#include "kernels/hack_encode_kernels.h"

namespace kvferry::codec {
namespace {

struct IntOptions {
  std::uint32_t k_bits = 2, v_bits = 2;
  std::uint32_t group = 64;  // channels that share a scale and a minimum
};

// The planes of K, or of V: codes [64 tokens][D] packed, then bf16 scales and minima
// [D / group][64 tokens].
struct IntPlanes {
  std::size_t dim, bits, group;

  std::size_t row_bytes() const { return dim / 8 * bits; }
  std::size_t code_bytes() const { return kGridTokens * row_bytes(); }
  std::size_t scales() const { return dim / group * kGridTokens; }
  std::size_t total() const { return code_bytes() + 4 * scales(); }

  std::byte* scale(std::byte* part) const { return part + code_bytes(); }
  std::byte* min(std::byte* part) const { return scale(part) + 2 * scales(); }
  const std::byte* scale(const std::byte* part) const { return part + code_bytes(); }
  const std::byte* min(const std::byte* part) const { return scale(part) + 2 * scales(); }
};

std::uint16_t bits_at(const std::byte* plane, std::size_t index) {
  std::uint16_t value;
  std::memcpy(&value, plane + 2 * index, sizeof(value));
  return value;
}

void encode(const IntPlanes& planes, const std::byte* values, std::byte* out) {
  const auto* x = reinterpret_cast<const std::uint16_t*>(values);
  std::uint8_t codes[kGridTokens * kernels::kMaxHeadDim];    // [token][channel]
  std::uint8_t turned[kernels::kHackMaxRows * kGridTokens];  // [channel][token]
  for (std::size_t first = 0, group = 0; first < planes.dim; first += planes.group, ++group) {
    std::uint16_t scale[kGridTokens], min[kGridTokens];
    const kernels::HackBlock block{x + first, planes.dim, static_cast<std::uint32_t>(planes.group),
                                   true};
    kernels::hack_encode_kernels().quantize_block(block, static_cast<std::uint32_t>(planes.bits),
                                                  kernels::HackRange::kMinMax, turned, scale, min);
    for (std::size_t t = 0; t < kGridTokens; ++t) {
      for (std::size_t d = 0; d < planes.group; ++d) {
        codes[t * planes.dim + first + d] = turned[d * kGridTokens + t];
      }
    }
    std::memcpy(planes.scale(out) + group * sizeof(scale), scale, sizeof(scale));
    std::memcpy(planes.min(out) + group * sizeof(min), min, sizeof(min));
  }
  kernels::byte_kernels().pack_codes(codes, kGridTokens * planes.dim,
                                     static_cast<std::uint32_t>(planes.bits), out);
}

Status validate(const IntPlanes& planes, const std::byte* part) {
  for (std::size_t i = 0; i < planes.scales(); ++i) {
    const std::uint16_t scale = bits_at(planes.scale(part), i);
    if (scale < 0x0080 || scale > 0x7f7f) {
      return data_loss("scale " + std::to_string(i) + " is not a positive normal number");
    }
    if ((bits_at(planes.min(part), i) & 0x7f80u) == 0x7f80u) {
      return data_loss("minimum " + std::to_string(i) + " is NaN or infinite");
    }
  }
  return ok_status();
}

void write(const IntPlanes& planes, const std::byte* part, std::uint16_t* out) {
  const kernels::ByteKernels& table = kernels::byte_kernels();
  for (std::size_t t = 0; t < kGridTokens; ++t) {
    std::uint8_t codes[kernels::kMaxHeadDim];
    table.unpack_codes(part + t * planes.row_bytes(), planes.dim,
                       static_cast<std::uint32_t>(planes.bits), codes);
    for (std::size_t first = 0, group = 0; first < planes.dim; first += planes.group, ++group) {
      const std::size_t at = group * kGridTokens + t;
      table.from_codes(
          codes + first, planes.group, kernels::f32_from_bf16(bits_at(planes.scale(part), at)),
          kernels::f32_from_bf16(bits_at(planes.min(part), at)), out + t * planes.dim + first);
    }
  }
}

class IntStage final : public ReconstructedStorage {
 public:
  explicit IntStage(IntOptions options) : options_(options) {}

  std::string text() const override {
    std::string text =
        "int(k=" + std::to_string(options_.k_bits) + ",v=" + std::to_string(options_.v_bits);
    if (options_.group != IntOptions().group) text += ",group=" + std::to_string(options_.group);
    return text + ")";
  }
  CodecTraits traits() const override {
    CodecTraits traits;
    traits.removes_bias = true;
    return traits;
  }
  Status supports(const KvGeometry& geometry) const override {
    if (geometry.head_dim % options_.group == 0) return ok_status();
    return unsupported("int: head_dim " + std::to_string(geometry.head_dim) +
                       " is not a multiple of group=" + std::to_string(options_.group));
  }
  SegmentKind kind(TileId) const override { return SegmentKind::kIntGroups; }
  Bits bits(TileId) const override {
    return {static_cast<std::uint8_t>(options_.k_bits), static_cast<std::uint8_t>(options_.v_bits)};
  }
  std::size_t head_bytes(const KvGeometry& geometry, TileId) const override {
    return k_planes(geometry).total() + v_planes(geometry).total();
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId) const override {
    std::vector<Plane> list;
    for (const IntPlanes& p : {k_planes(geometry), v_planes(geometry)}) {
      list.push_back({PlaneKind::kCodes, static_cast<std::uint32_t>(p.bits), p.code_bytes()});
      list.push_back({PlaneKind::kScales, 16, 2 * p.scales()});
      list.push_back({PlaneKind::kMinima, 16, 2 * p.scales()});
    }
    return list;
  }
  void encode_head(const KvGeometry& geometry, TileId, std::uint32_t, const std::byte* k,
                   const std::byte* v, std::byte* out) const override {
    encode(k_planes(geometry), k, out);
    encode(v_planes(geometry), v, out + k_planes(geometry).total());
  }
  Status validate_head(const KvGeometry& geometry, TileId, const std::byte* part) const override {
    KVF_RETURN_IF_ERROR(validate(k_planes(geometry), part).with_context("K"));
    return validate(v_planes(geometry), part + k_planes(geometry).total()).with_context("V");
  }

 private:
  IntPlanes k_planes(const KvGeometry& geometry) const {
    return {geometry.head_dim, options_.k_bits, options_.group};
  }
  IntPlanes v_planes(const KvGeometry& geometry) const {
    return {geometry.head_dim, options_.v_bits, options_.group};
  }
  void write_head(const KvGeometry& geometry, TileId, const std::byte* part, std::uint16_t* k,
                  std::uint16_t* v) const override {
    write(k_planes(geometry), part, k);
    write(v_planes(geometry), part + k_planes(geometry).total(), v);
  }

  IntOptions options_;
};

}  // namespace

Result<Stage> make_int_stage(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_RETURN_IF_ERROR(arguments.check_keys({"k", "v", "group"}));
  IntOptions options;
  KVF_ASSIGN_OR_RETURN(options.k_bits, arguments.integer("k", kCodeBits, options.k_bits));
  KVF_ASSIGN_OR_RETURN(options.v_bits, arguments.integer("v", kCodeBits, options.v_bits));
  KVF_ASSIGN_OR_RETURN(options.group, arguments.integer("group", {32, 64, 128}, options.group));
  return Stage(std::make_shared<IntStage>(options));
}

}  // namespace kvferry::codec
