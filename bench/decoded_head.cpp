#include "bench/decoded_head.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include "codec/segment.h"
#include "kernels/dense_kernels.h"

namespace kvferry::bench {

using codec::kGridTokens;
using codec::OpenTile;
using codec::SegmentHeader;
using codec::SegmentKind;
using codec::SequenceKv;

namespace {

// f32 sums of at most 256 terms, exp and the merges of tiles, each relative to the magnitudes
// summed.
constexpr double kFloatSlop = 4e-5;
// Of layout=paper, which has no long f32 sums, but larger terms: those of a partition.
constexpr double kPaperSlop = 3e-6;

double bf16_at(const std::byte* plane, std::size_t index) {
  std::uint16_t value;
  std::memcpy(&value, plane + 2 * index, 2);
  return kernels::f32_from_bf16(value);
}

// The code at place `along` of the packed axis, in lane `lane` of `lanes`.
double code_at(const std::byte* plane, std::size_t dim, std::uint32_t bits, std::uint32_t lanes,
               std::uint32_t along, std::uint32_t lane) {
  std::uint32_t code = 0, shift = 0;
  for (const std::uint32_t sub : {8u, 4u, 2u, 1u}) {  // the sub-planes are the binary digits
    if ((bits & sub) == 0) continue;
    const std::uint32_t fields = 8 / sub;
    const std::size_t word = along / (4 * fields) * std::size_t{lanes} + lane;
    const auto byte = std::to_integer<std::uint32_t>(plane[8 * dim * shift + 4 * word + along % 4]);
    code |= ((byte >> (along / 4 % fields * sub)) & ((1u << sub) - 1)) << shift;
    shift += sub;
  }
  return code;
}

// The number behind `key` in a spec, or a default.
std::uint32_t number_in(const std::string& spec, const std::string& key, std::uint32_t otherwise) {
  const std::size_t at = spec.find(key);
  if (at == std::string::npos) return otherwise;
  return static_cast<std::uint32_t>(std::strtoul(spec.c_str() + at + key.size(), nullptr, 10));
}

void decode_codes(const std::byte* part, const SegmentHeader& header, const std::string& spec,
                  std::size_t first, DecodedHead& out) {
  const std::uint32_t tokens = header.tokens, dim = header.head_dim;
  const std::uint32_t group = number_in(spec, "group=", 64), v_group = std::min(group, dim);
  const bool balanced = spec.find("balance=dual") != std::string::npos;
  out.rounding.key_tokens = std::min(group, 64u);
  out.rounding.value_channels = v_group;
  const std::size_t values = std::size_t{tokens} * dim;
  const std::byte* k_scale = part + values * header.k_bits / 8;
  const std::byte* k_min = k_scale + 2 * values / group;
  const std::byte* k_row = k_min + 2 * values / group;
  const std::byte* v_codes = k_row + (balanced ? 2 * tokens : 0);
  const std::byte* v_scale = v_codes + values * header.v_bits / 8;
  const std::byte* v_min = v_scale + 2 * values / v_group;
  const std::byte* v_column = v_min + 2 * values / v_group;
  for (std::uint32_t t = 0; t < tokens; ++t) {
    const std::uint32_t half = t / 64, in_half = t % 64;
    for (std::uint32_t d = 0; d < dim; ++d) {
      const std::size_t at = (first + t) * dim + d;
      const std::size_t k_place = t / group * dim + d;
      const std::size_t v_place = (half * (dim / v_group) + d / v_group) * 64 + in_half;
      const double row = balanced ? bf16_at(k_row, t) : 1.0;
      const double column = balanced ? bf16_at(v_column, d) : 1.0;
      const double k_code =
          code_at(part + half * 8 * dim * header.k_bits, dim, header.k_bits, 64, d, in_half);
      const double v_code =
          code_at(v_codes + half * 8 * dim * header.v_bits, dim, header.v_bits, dim, in_half, d);
      out.k_scale[at] = bf16_at(k_scale, k_place);
      out.v_scale[at] = bf16_at(v_scale, v_place);
      const double k_least = bf16_at(k_min, k_place);
      const double v_least = bf16_at(v_min, v_place);
      out.k[at] = row * (out.k_scale[at] * k_code + k_least);
      out.v[at] = column * (out.v_scale[at] * v_code + v_least);
      out.k_code[at] = row * k_code;
      out.v_code[at] = column * v_code;
      out.k_size[at] = row * (out.k_scale[at] * k_code + std::fabs(k_least));
      out.v_size[at] = column * (out.v_scale[at] * v_code + std::fabs(v_least));
    }
  }
}

// K's planes or V's of layout=paper, value by value: put(token, channel, scale * code, minimum).
// Returns what lies behind the planes.
template <class Put>
const std::byte* decode_paper_planes(const std::byte* part, std::uint32_t tile, std::uint32_t dim,
                                     std::uint32_t bits, std::uint32_t group, bool of_k, bool sums,
                                     Put put) {
  const std::size_t n = std::size_t{tile} * dim / group;
  const std::byte* scales = part + std::size_t{tile} * dim * bits / 8;
  const std::byte* minima = scales + 2 * n;
  for (std::uint32_t t = 0; t < tile; ++t) {
    const std::byte* codes = part + std::size_t{t} / kGridTokens * 8 * dim * bits;
    for (std::uint32_t d = 0; d < dim; ++d) {
      const std::uint32_t in_block = t % kGridTokens;
      const double code = of_k ? code_at(codes, dim, bits, kGridTokens, d, in_block)
                               : code_at(codes, dim, bits, dim, in_block, d);
      const std::size_t at =
          of_k ? std::size_t{d} / group * tile + t : std::size_t{t} / group * dim + d;
      put(t, d, bf16_at(scales, at) * code, bf16_at(minima, at));
    }
  }
  const std::size_t sum_bytes = group * ((1u << bits) - 1) <= 255 ? 1 : 2;
  return minima + 2 * n + (sums ? n * sum_bytes : 0);
}

void decode_paper(const std::byte* part, const SegmentHeader& header, const std::string& spec,
                  std::size_t first, DecodedHead& out) {
  const std::uint32_t dim = header.head_dim;
  const std::uint32_t group = number_in(spec, "group=", 64);
  const bool sums = spec.find("se=off") == std::string::npos;
  const std::uint32_t k_group = std::min(group, dim);
  out.rounding = {true, k_group, group, 64, 64, kPaperSlop};
  part = decode_paper_planes(part, header.tokens, dim, header.k_bits, k_group, true, sums,
                             [&](std::size_t t, std::size_t d, double coded, double least) {
                               const std::size_t at = (first + t) * dim + d;
                               out.k[at] = out.k_code[at] = coded + least;
                               out.k_size[at] = coded + std::fabs(least);
                               out.k_scale[at] = 1.0;
                             });
  decode_paper_planes(part, header.tokens, dim, header.v_bits, group, false, sums,
                      [&](std::size_t t, std::size_t d, double coded, double least) {
                        const std::size_t at = (first + t) * dim + d;
                        out.v[at] = out.v_code[at] = coded + least;
                        out.v_size[at] = coded + std::fabs(least);
                        out.v_scale[at] = 1.0;
                      });
}

// The magnitude of an 8-bit float with this many mantissa bits and the usual bias.
double fp8_at(const std::byte* codes, std::size_t index, std::uint32_t mantissa_bits) {
  const int exponent_bits = 7 - static_cast<int>(mantissa_bits);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto code = std::to_integer<int>(codes[index]);
  const int exponent = (code & 0x7f) >> mantissa_bits;
  const int mantissa = code & ((1 << mantissa_bits) - 1);
  const double steps = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
  const double value =
      std::ldexp(steps, std::max(exponent, 1) - bias - static_cast<int>(mantissa_bits));
  return code < 0x80 ? value : -value;
}

void decode_fp8(const std::byte* part, const std::string& spec, std::size_t first,
                DecodedHead& out) {
  const std::uint32_t mantissa_bits = spec.find("e4m3") != std::string::npos ? 3 : 2;
  const std::size_t n = std::size_t{kGridTokens} * out.head_dim;
  for (std::size_t i = 0; i < n; ++i) {
    out.k[first * out.head_dim + i] = fp8_at(part, i, mantissa_bits) * bf16_at(part + 2 * n, 0);
    out.v[first * out.head_dim + i] = fp8_at(part + n, i, mantissa_bits) * bf16_at(part + 2 * n, 1);
  }
}

void decode_int8(const std::byte* part, std::size_t first, DecodedHead& out) {
  const std::size_t n = std::size_t{kGridTokens} * out.head_dim;
  for (auto* values : {&out.k, &out.v}) {
    for (std::size_t i = 0; i < n; ++i) {
      const auto code = static_cast<std::int8_t>(std::to_integer<unsigned>(part[i]));
      (*values)[first * out.head_dim + i] = code * bf16_at(part + n, i / out.head_dim);
    }
    part += n + 2 * kGridTokens;
  }
}

// int(...): codes [tokens][head_dim], `bits` bytes for every eight, then scales and minima.
void decode_int_groups(const std::byte* part, const SegmentHeader& header, const std::string& spec,
                       std::size_t first, DecodedHead& out) {
  const std::size_t dim = out.head_dim;
  const std::uint32_t group = number_in(spec, "group=", 64);
  for (auto* values : {&out.k, &out.v}) {
    const std::uint32_t bits = values == &out.k ? header.k_bits : header.v_bits;
    const std::byte* scales = part + 8 * dim * bits;
    const std::byte* minima = scales + 2 * kGridTokens * dim / group;
    for (std::size_t i = 0; i < kGridTokens * dim; ++i) {
      std::uint32_t code = 0;
      for (std::uint32_t bit = 0; bit < bits; ++bit) {
        const std::size_t at = i * bits + bit;
        code |= (std::to_integer<std::uint32_t>(part[at / 8]) >> (at % 8) & 1u) << bit;
      }
      const std::size_t at = i % dim / group * kGridTokens + i / dim;
      (*values)[first * dim + i] = bf16_at(scales, at) * code + bf16_at(minima, at);
    }
    part = minima + 2 * kGridTokens * dim / group;
  }
}

void decode_dense(const std::byte* k, const std::byte* v, std::size_t first, std::size_t tokens,
                  DecodedHead& out) {
  for (std::size_t i = 0; i < tokens * out.head_dim; ++i) {
    out.k[first * out.head_dim + i] = bf16_at(k, i);
    out.v[first * out.head_dim + i] = bf16_at(v, i);
    out.k_size[first * out.head_dim + i] = std::fabs(bf16_at(k, i));
    out.v_size[first * out.head_dim + i] = std::fabs(bf16_at(v, i));
  }
}

DecodedHead empty_head(std::uint32_t tokens, std::uint32_t head_dim) {
  DecodedHead out;
  out.rounding.float_slop = kFloatSlop;
  out.tokens = tokens;
  out.head_dim = head_dim;
  for (auto* values : {&out.k, &out.v, &out.k_code, &out.v_code, &out.k_scale, &out.v_scale,
                       &out.k_size, &out.v_size}) {
    values->assign(std::size_t{tokens} * head_dim, 0.0);
  }
  return out;
}

double bf16_of(double value) {
  constexpr double kLargest = 0x1.fep127;  // of bf16
  return std::clamp<double>(
      kernels::f32_from_bf16(kernels::bf16_from_f32(static_cast<float>(value))), -kLargest,
      kLargest);
}

// What is attended to densely as bf16: all tokens so far, whatever they were made of.
void settle_as_bf16(DecodedHead& out) {
  out.rounding = {false, 64, 64, 64, 64, kFloatSlop};
  for (std::size_t i = 0; i < out.k.size(); ++i) {
    out.k[i] = bf16_of(out.k[i]);
    out.v[i] = bf16_of(out.v[i]);
    out.k_size[i] = std::fabs(out.k[i]);
    out.v_size[i] = std::fabs(out.v[i]);
    out.k_code[i] = out.v_code[i] = out.k_scale[i] = out.v_scale[i] = 0.0;
  }
}

// One head of one layer, and the spec of what stores it.
struct Source {
  const SequenceKv& kv;
  std::uint32_t layer, kv_head;
  std::string spec;

  bool has(const char* stage) const { return spec.find(stage) != std::string::npos; }
  std::uint32_t tokens() const { return kv.closed_tiles() * kv.tile_tokens(); }
};

Source source_of(const SequenceKv& kv, std::uint32_t layer, std::uint32_t kv_head) {
  return {kv, layer, kv_head, kv.codec->layer_spec(layer)};
}

struct Part {
  SegmentHeader header;
  const std::byte* begin;
  std::size_t bytes;
};
Part part_of(const Source& from, std::uint32_t tile) {
  const std::span<const std::byte> segment = from.kv.segment(from.layer, tile);
  Part part;
  std::memcpy(&part.header, segment.data(), sizeof(part.header));
  part.bytes = (segment.size() - sizeof(part.header)) / from.kv.geometry.kv_heads;
  part.begin = segment.data() + sizeof(part.header) + from.kv_head * part.bytes;
  return part;
}

// Scales, codes and values of one tile, by its kind. bytes: without means.
void decode_tile(const Source& from, const Part& part, std::size_t bytes, std::size_t first,
                 DecodedHead& out) {
  switch (static_cast<SegmentKind>(part.header.kind)) {
    case SegmentKind::kCodes:
      return decode_codes(part.begin, part.header, from.spec, first, out);
    case SegmentKind::kPaperCodes:
      return decode_paper(part.begin, part.header, from.spec, first, out);
    case SegmentKind::kFp8:
      return decode_fp8(part.begin, from.spec, first, out);
    case SegmentKind::kInt8:
      return decode_int8(part.begin, first, out);
    case SegmentKind::kIntGroups:
      return decode_int_groups(part.begin, part.header, from.spec, first, out);
    case SegmentKind::kDense:
      return decode_dense(part.begin, part.begin + bytes / 2, first, from.kv.tile_tokens(), out);
  }
}

// The means that `mean` keeps behind the part of the storage: K's, then V's, bf16 [head_dim].
struct MeansBehind {
  bool of_k, of_v;
  std::size_t dim;
  std::size_t bytes() const { return 2 * dim * ((of_k ? 1 : 0) + (of_v ? 1 : 0)); }
};
MeansBehind means_behind(const Source& from) {
  return {from.has("mean") && !from.has("of=v"), from.has("mean") && !from.has("of=k"),
          from.kv.geometry.head_dim};
}

void add_means(const Source& from, const MeansBehind& means, DecodedHead& out) {
  for (std::uint32_t t = 0; t < from.tokens(); ++t) {
    const Part part = part_of(from, t / from.kv.tile_tokens());
    const std::byte* k_means = part.begin + part.bytes - means.bytes();
    const std::byte* v_means = k_means + (means.of_k ? 2 * means.dim : 0);
    for (std::size_t d = 0; d < means.dim; ++d) {
      const double k = means.of_k ? bf16_at(k_means, d) : 0.0;
      const double v = means.of_v ? bf16_at(v_means, d) : 0.0;
      out.k[t * means.dim + d] += k;
      out.v[t * means.dim + d] += v;
      out.k_size[t * means.dim + d] += std::fabs(k);
      out.v_size[t * means.dim + d] += std::fabs(v);
    }
  }
}

// The open tile as bf16 of all its places: behind its tokens the last one is repeated.
std::vector<std::byte> filled_tile(const Source& from, const std::byte* open) {
  const SequenceKv& kv = from.kv;
  const std::size_t row = std::size_t{kv.geometry.head_dim} * 2;
  std::vector<std::byte> filled;
  for (std::uint32_t h = 0; h < kv.geometry.kv_heads; ++h) {
    for (std::uint32_t t = 0; t < kv.tile_tokens(); ++t) {
      const std::uint32_t token = std::min(t, kv.open_tokens() - 1);
      const std::byte* at = open + (std::size_t{h} * kv.tile_tokens() + token) * row;
      filled.insert(filled.end(), at, at + row);
    }
  }
  return filled;
}

// With rqe=off a row's open tile is coded as far as the row sees it, by the storage alone and
// whatever stands before that: as a closed tile, since a repeated token moves no range.
void decode_coded_open(const Source& from, DecodedHead& out) {
  const SequenceKv& kv = from.kv;
  const std::size_t begin = from.spec.find("hack(");
  const std::string spec = from.spec.substr(begin, from.spec.find(')', begin) + 1 - begin);
  const auto codec = codec::make_codec(spec).value();
  const OpenTile open = kv.open_tile(from.layer);
  std::vector<std::byte> k = filled_tile(from, open.k), v = filled_tile(from, open.v);
  const std::uint32_t number = kv.closed_tiles(), tokens = kv.tile_tokens();
  std::vector<std::byte> segment(codec->segment_bytes(kv.geometry, from.layer, number, tokens));
  const Status status =
      codec->encode(kv.geometry, from.layer, number, tokens, {k.data(), v.data()}, segment);
  if (!status.ok()) std::abort();  // what lies open is finite
  SegmentHeader header;
  std::memcpy(&header, segment.data(), sizeof(header));
  const std::size_t bytes = (segment.size() - sizeof(header)) / kv.geometry.kv_heads;
  DecodedHead tile = empty_head(tokens, out.head_dim);
  decode_paper(segment.data() + sizeof(header) + from.kv_head * bytes, header, spec, 0, tile);
  tile.rounding.float_slop = std::max(tile.rounding.float_slop, out.rounding.float_slop);
  out.rounding = tile.rounding;
  const std::size_t seen = std::size_t{kv.open_tokens()} * out.head_dim;
  for (auto plane :
       {&DecodedHead::k, &DecodedHead::v, &DecodedHead::k_code, &DecodedHead::v_code,
        &DecodedHead::k_scale, &DecodedHead::v_scale, &DecodedHead::k_size, &DecodedHead::v_size}) {
    std::copy_n((tile.*plane).begin(), seen,
                (out.*plane).begin() + std::size_t{from.tokens()} * out.head_dim);
  }
}

}  // namespace

DecodedHead decode_head(const SequenceKv& kv, std::uint32_t layer, std::uint32_t kv_head) {
  DecodedHead out = empty_head(kv.length, kv.geometry.head_dim);
  const Source from = source_of(kv, layer, kv_head);
  const MeansBehind means = means_behind(from);
  for (std::uint32_t tile = 0; tile < kv.closed_tiles(); ++tile) {
    const Part part = part_of(from, tile);
    decode_tile(from, part, part.bytes - means.bytes(), std::size_t{tile} * kv.tile_tokens(), out);
  }
  // What stands before `mean` in the spec acts on the sums, what stands behind on the rest.
  const bool settles_sums =
      from.has("dequantize") && from.spec.find("dequantize") < from.spec.find("mean");
  if (!from.has("hack") || (from.has("dequantize") && !settles_sums)) settle_as_bf16(out);
  add_means(from, means, out);
  if (settles_sums) settle_as_bf16(out);
  if (kv.open_tokens() == 0) return out;
  if (from.has("rqe=off")) {
    decode_coded_open(from, out);
    return out;
  }
  const OpenTile open = kv.open_tile(layer);
  const std::size_t head_bytes = std::size_t{kv.tile_tokens()} * out.head_dim * 2;
  decode_dense(open.k + kv_head * head_bytes, open.v + kv_head * head_bytes, from.tokens(),
               kv.open_tokens(), out);
  return out;
}

std::vector<std::uint32_t> layers_that_differ(const codec::Codec& codec, std::uint32_t layers) {
  std::vector<std::uint32_t> first_layers;
  std::set<std::string> seen;
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    if (seen.insert(codec.layer_spec(layer)).second) first_layers.push_back(layer);
  }
  return first_layers;
}

}  // namespace kvferry::bench
