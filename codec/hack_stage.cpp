// hack: codes of 1 to 8 bits that attention works on as they are. Here are its options; what the
// bytes of a part are is in codec/hack_part.h.
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "codec/dense.h"
#include "codec/hack_part.h"
#include "codec/stages.h"
#include "kernels/reconstruct_kernels.h"

namespace kvferry::codec {
namespace {

using kernels::HackRange;

// Measured (docs/codecs.md): search loses about 45 % less than min-max in squares at 2 bits and 7 %
// at 4, nothing at 8. Least squares loses less in squares than search, but not in KL.
constexpr HackRange default_range(std::uint32_t bits) {
  return bits <= 3 ? HackRange::kSearch : HackRange::kMinMax;
}

constexpr std::uint32_t kFirstBits = 8;

// How tile 0 is stored, where the attention sinks are.
enum class First : std::uint8_t { k8Bits, k16Bits, kAsTheRest };

// In the order of HackRange and First.
constexpr std::string_view kRangeNames[] = {"minmax", "search", "lsq"};
constexpr std::string_view kFirstNames[] = {"8", "16", "none"};

// A tile holds whole groups.
constexpr std::uint32_t default_tile(std::uint32_t group) {
  return group > kGridTokens ? group : kGridTokens;
}

struct HackOptions {
  std::uint32_t k_bits = 4, v_bits = 2;
  HackRange k_range = default_range(4), v_range = default_range(2);
  std::uint32_t group = 64;
  std::uint32_t tile = 64;  // tokens
  bool balanced = false;
  First first = First::k8Bits;

  bool range_is_default() const {
    return k_range == default_range(k_bits) && v_range == default_range(v_bits);
  }
  // With that, first_bits=8 and first_bits=none are one meaning.
  bool rest_is_as_first() const {
    return first == First::kAsTheRest && k_bits == kFirstBits && v_bits == kFirstBits &&
           k_range == HackRange::kMinMax && v_range == HackRange::kMinMax;
  }
};

std::string normalised(const HackOptions& options) {
  std::string text =
      "hack(k=" + std::to_string(options.k_bits) + ",v=" + std::to_string(options.v_bits);
  if (!options.range_is_default()) {
    text += ",range=" + std::string(kRangeNames[static_cast<std::size_t>(options.k_range)]);
  }
  if (options.group != 64) text += ",group=" + std::to_string(options.group);
  if (options.tile != default_tile(options.group)) text += ",tile=" + std::to_string(options.tile);
  if (options.balanced) text += ",balance=dual";
  if (options.first != First::k8Bits) {
    text += ",first_bits=" + std::string(kFirstNames[static_cast<std::size_t>(options.first)]);
  }
  return text + ")";
}

class HackStage final : public StorageStage {
 public:
  explicit HackStage(HackOptions options) : options_(options) {}

  std::string text() const override { return normalised(options_); }
  CodecTraits traits() const override {
    CodecTraits traits;
    traits.removes_bias = true;
    traits.tile_tokens = options_.tile;
    return traits;
  }
  Status supports(const KvGeometry& geometry) const override {
    if (geometry.head_dim == 64 || geometry.head_dim == 128 || geometry.head_dim == 256) {
      return ok_status();
    }
    return unsupported("hack: head_dim " + std::to_string(geometry.head_dim) +
                       " is not 64, 128 or 256; use raw");
  }
  SegmentKind kind(TileId id) const override {
    return bits(id).k == 16 ? SegmentKind::kDense : SegmentKind::kCodes;
  }
  Bits bits(TileId id) const override {
    if (id.tile == 0 && options_.first == First::k8Bits) return {kFirstBits, kFirstBits};
    if (id.tile == 0 && options_.first == First::k16Bits) return {16, 16};
    return {static_cast<std::uint8_t>(options_.k_bits), static_cast<std::uint8_t>(options_.v_bits)};
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId id) const override {
    return hack_planes(part_of(geometry, id));
  }
  std::size_t head_bytes(const KvGeometry& geometry, TileId id) const override {
    return hack_bytes(part_of(geometry, id));
  }
  void encode_head(const KvGeometry& geometry, TileId id, std::uint32_t, const std::byte* k,
                   const std::byte* v, std::byte* out) const override {
    // The first tile's 8 bits are min-max always, so that range= says nothing about a tile that it
    // cannot improve.
    const bool minmax = id.tile == 0 && options_.first == First::k8Bits;
    encode_hack(part_of(geometry, id), minmax ? HackRange::kMinMax : options_.k_range,
                minmax ? HackRange::kMinMax : options_.v_range, k, v, out);
  }
  Status validate_head(const KvGeometry& geometry, TileId id,
                       const std::byte* bytes) const override {
    return validate_hack(part_of(geometry, id), bytes);
  }
  void attend_head(const KvGeometry& geometry, TileId id, const std::byte* bytes,
                   const QueryRows& queries, kernels::AttentionStates states) const override {
    const HeadWork work{id, bytes, queries, states};
    attend_heads(geometry, {&work, 1});
  }
  void attend_heads(const KvGeometry& geometry, std::span<const HeadWork> works) const override;
  void reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* bytes, float* k,
                        float* v) const override;
  void write_head(const KvGeometry& geometry, TileId id, const std::byte* bytes, std::uint16_t* k,
                  std::uint16_t* v) const override;

 private:
  HackPart part_of(const KvGeometry& geometry, TileId id) const {
    const Bits b = bits(id);
    return {traits().tile_tokens, geometry.head_dim, b.k, b.v, options_.group, options_.balanced};
  }

  HackOptions options_;
};

void HackStage::attend_heads(const KvGeometry& geometry, std::span<const HeadWork> works) const {
  constexpr std::size_t kTogether = 32;  // 6 KiB
  kernels::HackWork together[kTogether];
  std::size_t count = 0;
  const auto attend_together = [&] {
    kernels::hack_kernels().attend(together, count);
    count = 0;
  };
  for (const HeadWork& work : works) {
    const HackPart part = part_of(geometry, work.id);
    if (part.dense()) {
      attend_together();
      attend_dense(OpenDtype::kBf16, part.tokens, work.part, work.part + hack_bytes(part) / 2,
                   work.queries, nullptr, work.states);
      continue;
    }
    for (std::uint32_t half = 0; half < part.tokens / kGridTokens; ++half) {
      if (count == kTogether) attend_together();
      kernels::HackWork& to = together[count++];
      to.planes = hack_half(part, work.part, half);
      to.queries = work.queries.block(half);
      to.states = work.states;
    }
  }
  attend_together();
}

void HackStage::reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* bytes,
                                 float* k, float* v) const {
  const HackPart part = part_of(geometry, id);
  const std::size_t values = std::size_t{kGridTokens} * part.head_dim;
  for (std::uint32_t half = 0; half < part.tokens / kGridTokens; ++half) {
    float* k_out = k + half * values;
    float* v_out = v + half * values;
    if (part.dense()) {
      widen(OpenDtype::kBf16, bytes + half * values * 2, values, k_out);
      widen(OpenDtype::kBf16, bytes + hack_bytes(part) / 2 + half * values * 2, values, v_out);
    } else {
      kernels::reconstruct_kernels().hack(hack_half(part, bytes, half), k_out, v_out);
    }
  }
}

void HackStage::write_head(const KvGeometry& geometry, TileId id, const std::byte* bytes,
                           std::uint16_t* k, std::uint16_t* v) const {
  const HackPart part = part_of(geometry, id);
  if (part.dense()) {
    std::memcpy(k, bytes, hack_bytes(part) / 2);
    std::memcpy(v, bytes + hack_bytes(part) / 2, hack_bytes(part) / 2);
    return;
  }
  const std::size_t values = std::size_t{kGridTokens} * part.head_dim;
  for (std::uint32_t half = 0; half < part.tokens / kGridTokens; ++half) {
    kernels::reconstruct_kernels().hack_bf16(hack_half(part, bytes, half), k + half * values,
                                             v + half * values);
  }
}

}  // namespace

Result<Stage> make_hack_stage(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_ASSIGN_OR_RETURN(const std::size_t layout, arguments.word("layout", {"channel", "paper"}, 0));
  if (layout == 1) return make_paper_stage(spec);
  KVF_RETURN_IF_ERROR(arguments.check_beside("layout=paper", {"rounding", "seed", "se", "rqe"}));
  KVF_RETURN_IF_ERROR(arguments.check_keys(
      {"k", "v", "layout", "range", "group", "tile", "balance", "first_bits"}));
  HackOptions options;
  KVF_ASSIGN_OR_RETURN(options.k_bits, arguments.integer("k", kCodeBits, options.k_bits));
  KVF_ASSIGN_OR_RETURN(options.v_bits, arguments.integer("v", kCodeBits, options.v_bits));
  constexpr std::size_t kDefault = std::size(kRangeNames);
  KVF_ASSIGN_OR_RETURN(
      const std::size_t range,
      arguments.word("range", {kRangeNames[0], kRangeNames[1], kRangeNames[2]}, kDefault));
  KVF_ASSIGN_OR_RETURN(options.group, arguments.integer("group", {32, 64, 128}, options.group));
  KVF_ASSIGN_OR_RETURN(options.tile,
                       arguments.integer("tile", {64, 128}, default_tile(options.group)));
  if (options.tile < options.group) {
    return spec_error(arguments.position("tile"), "a tile of at least one group");
  }
  KVF_ASSIGN_OR_RETURN(const std::size_t balance, arguments.word("balance", {"none", "dual"}, 0));
  KVF_ASSIGN_OR_RETURN(
      const std::size_t first,
      arguments.word("first_bits", {kFirstNames[0], kFirstNames[1], kFirstNames[2]}, 0));
  options.balanced = balance == 1;
  options.first = static_cast<First>(first);
  options.k_range =
      range == kDefault ? default_range(options.k_bits) : static_cast<HackRange>(range);
  options.v_range =
      range == kDefault ? default_range(options.v_bits) : static_cast<HackRange>(range);
  if (options.rest_is_as_first()) options.first = First::k8Bits;
  return Stage(std::make_shared<HackStage>(options));
}

}  // namespace kvferry::codec
