// hack(layout=paper): the published algorithm (arXiv 2502.03589) as it is written, to be compared
// with. docs/codecs.md has the formulas.
//
// Part of one KV head of a closed tile of T = max(64, group) tokens, D = head_dim, in partitions of
// P values, group tokens of V and group channels of K, but at most D; n = T D / P:
// K codes (T D k / 8 bytes), K scales (2 n), K minima (2 n), K sums (n or 2 n, none with se=off),
// then the same of V; planes as in kernels/paper_kernels.h.
#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/hash.h"
#include "codec/stages.h"
#include "kernels/hack_encode_kernels.h"
#include "kernels/paper_kernels.h"
#include "kernels/reconstruct_kernels.h"

namespace kvferry::codec {
namespace {

using kernels::HackBlock;
using kernels::kHackBlock;
using kernels::kHackMaxRows;
using kernels::PaperPlanes;
using kernels::PaperRandom;

constexpr std::uint32_t kFirstBits = 8;
constexpr std::uint64_t kMaxSeed = 0xffffffff;
constexpr std::size_t kMaxHeadDim = 256;
// More than a head's part takes: 128 tokens of 8 bits, with scales for every 32 values.
constexpr std::size_t kMaxPartBytes = 2 * kMaxTileTokens * (kMaxHeadDim + 6 * kMaxHeadDim / 32);

struct PaperOptions {
  std::uint32_t k_bits = 4, v_bits = 2;
  std::uint32_t group = 64;
  bool first_8_bits = false;
  bool stochastic = false;
  std::uint64_t seed = 0;
  bool stored_sums = true;  // summation elimination
  bool dense_open = true;   // requantization elimination

  std::uint32_t tile_tokens() const { return std::max(group, kGridTokens); }
};

std::string normalised(const PaperOptions& options) {
  std::string text = "hack(k=" + std::to_string(options.k_bits) +
                     ",v=" + std::to_string(options.v_bits) + ",layout=paper";
  if (options.group != 64) text += ",group=" + std::to_string(options.group);
  if (options.first_8_bits) text += ",first_bits=8";
  if (options.stochastic) text += ",rounding=stochastic,seed=" + std::to_string(options.seed);
  if (!options.stored_sums) text += ",se=off";
  if (!options.dense_open) text += ",rqe=off";
  return text + ")";
}

// The planes of K or of V, in their order.
struct Planes {
  std::size_t codes = 0, scales = 0, minima = 0, sums = 0;  // bytes
  std::size_t total() const { return codes + scales + minima + sums; }
};

// Where K's planes or V's lie, to be written.
struct Target {
  std::byte* codes;
  std::byte* scales;
  std::byte* minima;
  std::byte* sums;  // null: not stored
  std::uint32_t bits;
};

// A partition of rows x 64 and its codes' places: [index] in the planes of 64 lanes each.
struct Partition {
  HackBlock block;
  std::uint32_t used_rows;    // those behind are no codes
  std::size_t index;          // of its first scale
  const PaperRandom* random;  // null: to the nearest
};

// What K and V of one head's tile are rounded by; null: to the nearest.
class Randoms {
 public:
  Randoms(const PaperOptions& options, TileId id, std::uint32_t kv_head)
      : stochastic_(options.stochastic) {
    const std::uint64_t layer_key = counter_random(options.seed, id.layer);
    k_.key = counter_random(layer_key, 2 * std::uint64_t{kv_head});
    v_.key = counter_random(layer_key, 2 * std::uint64_t{kv_head} + 1);
    k_.first = v_.first = std::uint64_t{id.tile} * options.tile_tokens() * 256;
  }
  const PaperRandom* of_k() const { return stochastic_ ? &k_ : nullptr; }
  const PaperRandom* of_v() const { return stochastic_ ? &v_ : nullptr; }

 private:
  bool stochastic_;
  PaperRandom k_, v_;
};

// Codes [rows][64] of one partition; its scales, minima and sums go to the target.
void encode_partition(const Partition& p, const Target& out, std::uint8_t* codes) {
  std::uint16_t scale[kHackBlock], min[kHackBlock], sums[kHackBlock];
  kernels::hack_encode_kernels().quantize_block(p.block, out.bits, kernels::HackRange::kMinMax,
                                                codes, scale, min);
  const kernels::PaperKernels& table = kernels::paper_kernels();
  if (p.random != nullptr) {
    table.round_stochastic(p.block, out.bits, scale, min, *p.random, codes);
  }
  std::fill(codes + p.used_rows * kHackBlock, codes + p.block.rows * kHackBlock, std::uint8_t{0});
  std::memcpy(out.scales + 2 * p.index, scale, sizeof(scale));
  std::memcpy(out.minima + 2 * p.index, min, sizeof(min));
  if (out.sums == nullptr) return;
  table.sum_codes(codes, p.block.rows, sums);
  const std::size_t bytes = kernels::paper_sum_bytes(p.block.rows, out.bits);
  for (std::size_t c = 0; c < kHackBlock; ++c) {
    std::memcpy(out.sums + bytes * (p.index + c), &sums[c], bytes);
  }
}

// Codes [rows][64] into their sub-planes. at: of the first row and lane, in a sub-plane of 1 bit of
// `plane` bytes, whose places of 32 take 4 lanes bytes.
void pack(const std::uint8_t* codes, std::uint32_t rows, std::uint32_t bits, std::size_t plane,
          std::size_t lanes, std::size_t first_row, std::size_t first_lane, std::byte* out) {
  const kernels::HackSubPlanes& subs = kernels::kHackSubPlanes[bits];
  for (std::uint32_t i = 0; i < subs.count; ++i) {
    const auto [width, shift] = subs.part[i];
    std::byte* at = out + plane * shift + first_row / 32 * width * 4 * lanes + 4 * first_lane;
    kernels::paper_kernels().pack_rows(codes, rows, shift, width, lanes, at);
  }
}

class PaperStage final : public StorageStage {
 public:
  explicit PaperStage(PaperOptions options) : options_(options) {}

  std::string text() const override { return normalised(options_); }
  CodecTraits traits() const override {
    CodecTraits traits;
    traits.tile_tokens = options_.tile_tokens();
    return traits;
  }
  Status supports(const KvGeometry& geometry) const override;
  SegmentKind kind(TileId) const override { return SegmentKind::kPaperCodes; }
  Bits bits(TileId id) const override {
    if (id.tile == 0 && options_.first_8_bits) return {kFirstBits, kFirstBits};
    return {static_cast<std::uint8_t>(options_.k_bits), static_cast<std::uint8_t>(options_.v_bits)};
  }
  std::size_t head_bytes(const KvGeometry& geometry, TileId id) const override {
    const Bits b = bits(id);
    return planes_of(geometry, true, b.k).total() + planes_of(geometry, false, b.v).total();
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId id) const override;
  void encode_head(const KvGeometry& geometry, TileId id, std::uint32_t kv_head, const std::byte* k,
                   const std::byte* v, std::byte* out) const override;
  Status validate_head(const KvGeometry& geometry, TileId id, const std::byte* part) const override;
  void attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                   const QueryRows& queries, kernels::AttentionStates states) const override {
    kernels::paper_kernels().attend(kernel_planes(geometry, bits(id), part),
                                    {queries.q, queries.score_add}, states);
  }
  void reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* part, float* k,
                        float* v) const override {
    kernels::reconstruct_kernels().paper(kernel_planes(geometry, bits(id), part), k, v);
  }
  void write_head(const KvGeometry& geometry, TileId id, const std::byte* part, std::uint16_t* k,
                  std::uint16_t* v) const override {
    kernels::reconstruct_kernels().paper_bf16(kernel_planes(geometry, bits(id), part), k, v);
  }
  void attend_open_head(TileId id, std::uint32_t kv_head, const std::byte* k, const std::byte* v,
                        const QueryRows& queries, const std::uint32_t* visible,
                        kernels::AttentionStates states) const override;

 private:
  // The values that share a scale, a minimum and a sum.
  std::uint32_t partition(const KvGeometry& geometry, bool of_k) const {
    return of_k ? std::min(options_.group, geometry.head_dim) : options_.group;
  }
  std::size_t scale_count(const KvGeometry& geometry, bool of_k) const {
    return std::size_t{options_.tile_tokens()} * geometry.head_dim / partition(geometry, of_k);
  }
  Planes planes_of(const KvGeometry& geometry, bool of_k, std::uint32_t bits) const {
    const std::size_t n = scale_count(geometry, of_k);
    const std::size_t sum = kernels::paper_sum_bytes(partition(geometry, of_k), bits);
    return {std::size_t{options_.tile_tokens()} * geometry.head_dim * bits / 8, 2 * n, 2 * n,
            options_.stored_sums ? n * sum : 0};
  }
  PaperPlanes kernel_planes(const KvGeometry& geometry, Bits bits, const std::byte* part) const;
  Target target(const KvGeometry& geometry, bool of_k, std::uint32_t bits, std::byte* at) const;
  void encode_k(std::size_t dim, const std::uint16_t* k, const PaperRandom* random,
                const Target& out) const;
  void encode_v(std::size_t dim, const std::uint16_t* v, std::uint32_t tokens,
                const PaperRandom* random, const Target& out) const;
  void encode_visible(std::size_t dim, const std::uint16_t* v, std::uint32_t tokens,
                      const PaperRandom* random, const Target& out) const;
  std::byte* v_part(const KvGeometry& geometry, Bits bits, std::byte* part) const {
    return part + planes_of(geometry, true, bits.k).total();
  }

  PaperOptions options_;
};

Status PaperStage::supports(const KvGeometry& geometry) const {
  const std::uint32_t dim = geometry.head_dim;
  if (dim != 64 && dim != 128 && dim != 256) {
    return unsupported("hack: head_dim " + std::to_string(dim) + " is not 64, 128 or 256; use raw");
  }
  return ok_status();
}

std::vector<Plane> PaperStage::planes(const KvGeometry& geometry, TileId id) const {
  std::vector<Plane> all;
  for (const bool of_k : {true, false}) {
    const std::uint32_t width = of_k ? bits(id).k : bits(id).v;
    const Planes p = planes_of(geometry, of_k, width);
    all.push_back({PlaneKind::kCodes, width, p.codes});
    all.push_back({PlaneKind::kScales, 16, p.scales});
    all.push_back({PlaneKind::kMinima, 16, p.minima});
    if (p.sums == 0) continue;
    const std::size_t sum = kernels::paper_sum_bytes(partition(geometry, of_k), width);
    all.push_back({PlaneKind::kSums, static_cast<std::uint32_t>(8 * sum), p.sums});
  }
  return all;
}

PaperPlanes PaperStage::kernel_planes(const KvGeometry& geometry, Bits bits,
                                      const std::byte* part) const {
  const Planes k = planes_of(geometry, true, bits.k);
  const Planes v = planes_of(geometry, false, bits.v);
  PaperPlanes p;
  p.head_dim = geometry.head_dim;
  p.k_partition = partition(geometry, true);
  p.v_partition = partition(geometry, false);
  p.tokens = options_.tile_tokens();
  p.k_bits = bits.k;
  p.v_bits = bits.v;
  p.k_codes = part;
  p.k_scale = p.k_codes + k.codes;
  p.k_min = p.k_scale + k.scales;
  p.v_codes = part + k.total();
  p.v_scale = p.v_codes + v.codes;
  p.v_min = p.v_scale + v.scales;
  if (options_.stored_sums) {
    p.k_sums = p.k_min + k.minima;
    p.v_sums = p.v_min + v.minima;
  }
  return p;
}

Target PaperStage::target(const KvGeometry& geometry, bool of_k, std::uint32_t bits,
                          std::byte* at) const {
  const Planes p = planes_of(geometry, of_k, bits);
  std::byte* scales = at + p.codes;
  std::byte* minima = scales + p.scales;
  return {at, scales, minima, options_.stored_sums ? minima + p.minima : nullptr, bits};
}

// K: rows are channels of a partition, columns 64 tokens.
void PaperStage::encode_k(std::size_t dim, const std::uint16_t* k, const PaperRandom* random,
                          const Target& out) const {
  const std::uint32_t tile = options_.tile_tokens();
  const std::size_t plane = 8 * dim;
  const auto group = static_cast<std::uint32_t>(std::min<std::size_t>(options_.group, dim));
  alignas(64) std::uint8_t codes[kHackMaxRows * kHackBlock];
  for (std::uint32_t t = 0; t < tile; t += kHackBlock) {
    for (std::uint32_t d = 0; d < dim; d += group) {
      PaperRandom bits;
      if (random != nullptr) {
        bits = {random->key, random->first + std::uint64_t{t} * 256 + d, 1, 256};
      }
      encode_partition({{k + t * dim + d, dim, group, true},
                        group,
                        std::size_t{d} / group * tile + t,
                        random == nullptr ? nullptr : &bits},
                       out, codes);
      pack(codes, group, out.bits, plane, kHackBlock, d, 0,
           out.codes + t / kHackBlock * plane * out.bits);
    }
  }
}

// V: rows are tokens of a partition, columns 64 channels. Tokens from `tokens` on are no codes.
void PaperStage::encode_v(std::size_t dim, const std::uint16_t* v, std::uint32_t tokens,
                          const PaperRandom* random, const Target& out) const {
  const std::size_t plane = 8 * dim;
  alignas(64) std::uint8_t codes[kHackMaxRows * kHackBlock];
  for (std::uint32_t t = 0; t < options_.tile_tokens(); t += options_.group) {
    for (std::uint32_t d = 0; d < dim; d += kHackBlock) {
      PaperRandom bits;
      if (random != nullptr) {
        bits = {random->key, random->first + std::uint64_t{t} * 256 + d, 256, 1};
      }
      const std::uint32_t used = tokens <= t ? 0 : std::min(tokens - t, options_.group);
      encode_partition({{v + t * dim + d, dim, options_.group, false},
                        used,
                        std::size_t{t} / options_.group * dim + d,
                        random == nullptr ? nullptr : &bits},
                       out, codes);
      for (std::uint32_t r = 0; r < options_.group; r += kHackBlock) {
        pack(codes + r * kHackBlock, std::min(options_.group, kHackBlock), out.bits, plane, dim,
             (t + r) % kHackBlock, d, out.codes + (t + r) / kHackBlock * plane * out.bits);
      }
    }
  }
}

void PaperStage::encode_head(const KvGeometry& geometry, TileId id, std::uint32_t kv_head,
                             const std::byte* k, const std::byte* v, std::byte* out) const {
  const Bits b = bits(id);
  const Randoms random(options_, id, kv_head);
  encode_k(geometry.head_dim, reinterpret_cast<const std::uint16_t*>(k), random.of_k(),
           target(geometry, true, b.k, out));
  encode_v(geometry.head_dim, reinterpret_cast<const std::uint16_t*>(v), options_.tile_tokens(),
           random.of_v(), target(geometry, false, b.v, v_part(geometry, b, out)));
}

Status PaperStage::validate_head(const KvGeometry& geometry, TileId id,
                                 const std::byte* part) const {
  const PaperPlanes p = kernel_planes(geometry, bits(id), part);
  for (const bool of_k : {true, false}) {
    const std::string whose = of_k ? " of K" : " of V";
    for (std::size_t i = 0; i < scale_count(geometry, of_k); ++i) {
      const auto bf16_at = [i](const std::byte* plane) {
        std::uint16_t value;
        std::memcpy(&value, plane + 2 * i, sizeof(value));
        return value;
      };
      const std::uint16_t scale = bf16_at(of_k ? p.k_scale : p.v_scale);
      if (scale >= 0x7f80u || scale < 0x0080u) {  // negative, infinite, NaN; zero, subnormal
        return {Code::kDataLoss,
                "scale " + std::to_string(i) + whose + " is not a positive normal number"};
      }
      if ((bf16_at(of_k ? p.k_min : p.v_min) & 0x7f80u) == 0x7f80u) {
        return {Code::kDataLoss, "minimum " + std::to_string(i) + whose + " is NaN or infinite"};
      }
    }
  }
  if (options_.stored_sums && !kernels::paper_kernels().sums_match(p)) {
    return {Code::kDataLoss, "a stored sum is not that of its codes"};
  }
  return ok_status();
}

// Without requantization elimination the open tile is coded too, anew for every length that a row
// sees: the last partition of V ends where the row's tokens do.
void PaperStage::attend_open_head(TileId id, std::uint32_t kv_head, const std::byte* k,
                                  const std::byte* v, const QueryRows& queries,
                                  const std::uint32_t* visible,
                                  kernels::AttentionStates states) const {
  if (options_.dense_open) {
    StorageStage::attend_open_head(id, kv_head, k, v, queries, visible, states);
    return;
  }
  KvGeometry geometry;
  geometry.head_dim = states.head_dim;
  const std::size_t dim = states.head_dim;
  const std::uint32_t tile = options_.tile_tokens();
  alignas(64) std::array<std::byte, kMaxPartBytes> part;
  const Bits b = bits(id);
  const Randoms random(options_, id, kv_head);
  encode_k(dim, reinterpret_cast<const std::uint16_t*>(k), random.of_k(),
           target(geometry, true, b.k, part.data()));
  PaperPlanes planes = kernel_planes(geometry, b, part.data());
  planes.tokens = 0;
  for (std::uint32_t r = 0; r < queries.rows; ++r) {
    const std::uint32_t tokens = visible == nullptr ? tile : visible[r];
    if (tokens == 0) continue;
    if (tokens != planes.tokens) {
      planes.tokens = tokens;
      encode_visible(dim, reinterpret_cast<const std::uint16_t*>(v), tokens, random.of_v(),
                     target(geometry, false, b.v, v_part(geometry, b, part.data())));
    }
    float score_add[kMaxTileTokens];
    for (std::uint32_t block = 0; queries.score_add != nullptr && block < tile / kGridTokens;
         ++block) {
      std::memcpy(score_add + block * kGridTokens,
                  queries.block(block).score_add + std::size_t{r} * kGridTokens,
                  kGridTokens * sizeof(float));
    }
    kernels::paper_kernels().attend(
        planes, {queries.q + r * dim, queries.score_add == nullptr ? nullptr : score_add},
        {states.m + r, states.l + r, states.o + r * dim, 1, states.head_dim});
  }
}

// V of the first tokens; behind them the last is repeated, which moves no range.
void PaperStage::encode_visible(std::size_t dim, const std::uint16_t* v, std::uint32_t tokens,
                                const PaperRandom* random, const Target& out) const {
  alignas(64) std::array<std::uint16_t, kMaxTileTokens * kMaxHeadDim> padded;
  std::copy_n(v, tokens * dim, padded.begin());
  for (std::size_t t = tokens; t < options_.tile_tokens(); ++t) {
    std::copy_n(v + (tokens - 1) * dim, dim, padded.begin() + static_cast<std::ptrdiff_t>(t * dim));
  }
  encode_v(dim, padded.data(), tokens, random, out);
}

}  // namespace

Result<Stage> make_paper_stage(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_RETURN_IF_ERROR(
      arguments.check_beside("layout=channel, not paper,", {"range", "tile", "balance"}));
  KVF_RETURN_IF_ERROR(arguments.check_keys(
      {"k", "v", "layout", "group", "first_bits", "rounding", "seed", "se", "rqe"}));
  PaperOptions options;
  KVF_ASSIGN_OR_RETURN(options.k_bits, arguments.integer("k", kCodeBits, options.k_bits));
  KVF_ASSIGN_OR_RETURN(options.v_bits, arguments.integer("v", kCodeBits, options.v_bits));
  KVF_ASSIGN_OR_RETURN(options.group, arguments.integer("group", {32, 64, 128}, options.group));
  KVF_ASSIGN_OR_RETURN(const std::size_t first, arguments.word("first_bits", {"none", "8"}, 0));
  KVF_ASSIGN_OR_RETURN(const std::size_t rounding,
                       arguments.word("rounding", {"nearest", "stochastic"}, 0));
  KVF_ASSIGN_OR_RETURN(const std::size_t se, arguments.word("se", {"on", "off"}, 0));
  KVF_ASSIGN_OR_RETURN(const std::size_t rqe, arguments.word("rqe", {"on", "off"}, 0));
  const bool all_8_bits = options.k_bits == kFirstBits && options.v_bits == kFirstBits;
  options.first_8_bits = first == 1 && !all_8_bits;
  options.stochastic = rounding == 1;
  options.stored_sums = se == 0;
  options.dense_open = rqe == 0;
  KVF_ASSIGN_OR_RETURN(options.seed, arguments.number("seed", kMaxSeed, 0));
  if (!options.stochastic) {
    KVF_RETURN_IF_ERROR(arguments.check_beside("rounding=stochastic", {"seed"}));
  }
  return Stage(std::make_shared<PaperStage>(options));
}

}  // namespace kvferry::codec
