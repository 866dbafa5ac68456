#include "bench/oracle.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "bench/kv_data.h"
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
// What tiny q~ and p~ leave out, and subnormal results that f32 rounds.
constexpr double kTinySlop = 1e-29;
constexpr int kDraws = 8;

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

// One query row's passage through the oracle.
struct Row {
  const DecodedHead& head;
  const float* q;
  std::size_t dim, tokens;

  double folded(std::size_t t, std::size_t d) const { return q[d] * head.k_scale[t * dim + d]; }

  // The step of q~ of a token and the group of channels that d is in.
  double q_step(std::size_t t, std::size_t d) const {
    const std::size_t first = d / head.rounding.channels * head.rounding.channels;
    double least = folded(t, first), largest = least, size = 0.0;
    for (std::size_t i = first; i < first + head.rounding.channels; ++i) {
      least = std::min(least, folded(t, i));
      largest = std::max(largest, folded(t, i));
      size = std::max(size, std::fabs(folded(t, i)));
    }
    return head.rounding.asymmetric ? (largest - least) / 255.0 : size / 127.0;
  }
  // What f32 sums of q for channel d: itself, or a minimum and steps of its group.
  double q_size(std::size_t d) const {
    if (!head.rounding.asymmetric) return std::fabs(q[d]);
    const std::size_t first = d / head.rounding.channels * head.rounding.channels;
    double size = 0.0;
    for (std::size_t i = first; i < first + head.rounding.channels; ++i) {
      size = std::max(size, 3.0 * std::fabs(double{q[i]}));
    }
    return size;
  }
};

// log(SUM exp(x)).
double log_sum(const std::vector<double>& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0.0;
  for (const double value : x) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

std::vector<double> softmax(const std::vector<double>& scores) {
  const double whole = log_sum(scores);
  std::vector<double> weights(scores.size());
  for (std::size_t t = 0; t < scores.size(); ++t) weights[t] = std::exp(scores[t] - whole);
  return weights;
}

// Scores, and by how much the integer dot and f32 may move each.
void exact_scores(const Row& row, std::vector<double>& scores, std::vector<double>& moved,
                  std::vector<double>& slop) {
  std::vector<double> sizes(row.dim);
  for (std::size_t d = 0; d < row.dim; ++d) sizes[d] = row.q_size(d);
  for (std::size_t t = 0; t < row.tokens; ++t) {
    double magnitude = 0.0;
    double step = 0.0;
    for (std::size_t d = 0; d < row.dim; ++d) {
      const std::size_t at = t * row.dim + d;
      scores[t] += row.q[d] * row.head.k[at];
      magnitude += sizes[d] * row.head.k_size[at];
      if (d % row.head.rounding.channels == 0) step = row.q_step(t, d);
      moved[t] += step / 2.0 * std::fabs(row.head.k_code[at]);
    }
    slop[t] = row.head.rounding.float_slop * magnitude + kTinySlop;
  }
}

// Of the p~ of a group of tokens, for the 64 channels that d is in: the largest.
double largest_folded(const Row& row, const std::vector<double>& weights, std::size_t group,
                      std::size_t d) {
  const std::size_t n = row.head.rounding.tokens;
  double largest = 0.0;
  for (std::size_t t = group * n; t < (group + 1) * n; ++t) {
    largest = std::max(largest, weights[t] * row.head.v_scale[t * row.dim + d]);
  }
  return largest;
}
// The step of p~; a range from the least p~ of an asymmetric group.
double p_step(const Row& row, const std::vector<double>& weights, std::size_t group,
              std::size_t d) {
  const double largest = largest_folded(row, weights, group, d);
  if (!row.head.rounding.asymmetric) return largest / 255.0;
  const std::size_t n = row.head.rounding.tokens;
  double least = largest;
  for (std::size_t t = group * n; t < (group + 1) * n; ++t) {
    least = std::min(least, weights[t] * row.head.v_scale[t * row.dim + d]);
  }
  return (largest - least) / 255.0;
}

// v_step: 1 when p~ is rounded too, 0 for the part that f32 alone may move.
void bound_row(const Row& row, const std::vector<double>& scores, const std::vector<double>& moved,
               const double* output, double v_step, double* bound) {
  const std::vector<double> weights = softmax(scores);
  std::vector<double> raised = scores;
  for (std::size_t t = 0; t < row.tokens; ++t) raised[t] += moved[t];
  // The normaliser moves by at most the weighted mean of exp(moved), in either direction.
  const double whole = log_sum(scores);
  const double normaliser = log_sum(raised) - whole;
  std::vector<double> high(row.tokens);
  for (std::size_t t = 0; t < row.tokens; ++t) {
    high[t] = std::exp(std::min(0.0, raised[t] - whole + normaliser));
  }
  std::vector<double> lost(row.tokens);
  for (std::size_t t = 0; t < row.tokens; ++t) {
    lost[t] = -weights[t] * std::expm1(-moved[t] - normaliser);
  }
  const std::size_t group_tokens = row.head.rounding.tokens;
  const std::size_t groups = row.tokens / group_tokens;
  for (std::size_t d = 0; d < row.dim; ++d) {
    double sum = 0.0;
    double magnitude = 0.0;
    for (std::size_t t = 0; t < row.tokens; ++t) {
      const std::size_t at = t * row.dim + d;
      const double moves = std::max(high[t] - weights[t], lost[t]);
      sum += moves * std::fabs(row.head.v[at] - output[d]);
      magnitude += high[t] * row.head.v_size[at];
    }
    for (std::size_t group = 0; group < groups; ++group) {
      const double largest = largest_folded(row, high, group, d);
      double codes = 0.0;
      double sizes = 0.0;
      for (std::size_t t = group * group_tokens; t < (group + 1) * group_tokens; ++t) {
        codes += std::fabs(row.head.v_code[t * row.dim + d]);
        sizes += row.head.v_size[t * row.dim + d];
      }
      sum += v_step * largest / 255.0 / 2.0 * codes;
      if (row.head.rounding.asymmetric) magnitude += 3.0 * largest * sizes;
    }
    bound[d] = sum + row.head.rounding.float_slop * magnitude + kTinySlop;
  }
}

// One draw of rounding errors, uniform and independent, through the whole softmax.
void add_draw(const Row& row, const std::vector<double>& scores, const double* output,
              std::uint64_t seed, double* square) {
  std::uint64_t counter = 0;
  std::vector<double> moved_scores = scores;
  const std::size_t key_tokens = row.head.rounding.key_tokens;
  for (std::size_t first = 0; first + key_tokens <= row.tokens; first += key_tokens) {
    // Asymmetric q is rounded alike for every tile.
    if (row.head.rounding.asymmetric) counter = 0;
    double step = 0.0;
    for (std::size_t d = 0; d < row.dim; ++d) {
      if (d % row.head.rounding.channels == 0) step = row.q_step(first, d);
      const double error = step * (uniform(seed, counter++) - 0.5);
      for (std::size_t t = first; t < first + key_tokens; ++t) {
        moved_scores[t] += error * row.head.k_code[t * row.dim + d];
      }
    }
  }
  const std::vector<double> weights = softmax(moved_scores);
  std::vector<double> moved(row.dim, 0.0);
  for (std::size_t t = 0; t < row.tokens; ++t) {
    for (std::size_t d = 0; d < row.dim; ++d) {
      moved[d] += weights[t] * row.head.v[t * row.dim + d];
    }
  }
  const std::size_t group_tokens = row.head.rounding.tokens;
  const std::size_t value_channels = row.head.rounding.value_channels;
  for (std::size_t group = 0; group < row.tokens / group_tokens; ++group) {
    for (std::size_t first = 0; first < row.dim; first += value_channels) {
      const double step = p_step(row, weights, group, first);
      for (std::size_t t = group * group_tokens; t < (group + 1) * group_tokens; ++t) {
        const double error = step * (uniform(seed, counter++) - 0.5);
        for (std::size_t d = first; d < first + value_channels; ++d) {
          moved[d] += error * row.head.v_code[t * row.dim + d];
        }
      }
    }
  }
  for (std::size_t d = 0; d < row.dim; ++d) {
    square[d] += (moved[d] - output[d]) * (moved[d] - output[d]) / kDraws;
  }
}

// Scales, codes and values of one tile, by its kind.
void decode_tile(const SequenceKv& kv, const std::byte* part, const SegmentHeader& header,
                 std::size_t part_bytes, std::size_t first, DecodedHead& out) {
  switch (static_cast<SegmentKind>(header.kind)) {
    case SegmentKind::kCodes:
      return decode_codes(part, header, kv.codec->spec(), first, out);
    case SegmentKind::kPaperCodes:
      return decode_paper(part, header, kv.codec->spec(), first, out);
    case SegmentKind::kFp8:
      return decode_fp8(part, kv.codec->spec(), first, out);
    case SegmentKind::kInt8:
      return decode_int8(part, first, out);
    case SegmentKind::kIntGroups:
      return decode_int_groups(part, header, kv.codec->spec(), first, out);
    case SegmentKind::kDense:
      return decode_dense(part, part + part_bytes / 2, first, kv.tile_tokens(), out);
  }
}

struct Part {
  SegmentHeader header;
  const std::byte* begin;
  std::size_t bytes;
};
Part part_of(const SequenceKv& kv, std::uint32_t tile, std::uint32_t kv_head) {
  const std::span<const std::byte> segment = kv.segment(0, tile);
  Part part;
  std::memcpy(&part.header, segment.data(), sizeof(part.header));
  part.bytes = (segment.size() - sizeof(part.header)) / kv.geometry.kv_heads;
  part.begin = segment.data() + sizeof(part.header) + kv_head * part.bytes;
  return part;
}

// The means that `mean` keeps behind the part of the storage: K's, then V's, bf16 [head_dim].
struct MeansBehind {
  bool of_k, of_v;
  std::size_t dim;
  std::size_t bytes() const { return 2 * dim * ((of_k ? 1 : 0) + (of_v ? 1 : 0)); }
};
MeansBehind means_behind(const std::string& spec, std::size_t dim) {
  const bool any = spec.find("mean") != std::string::npos;
  return {any && spec.find("of=v") == std::string::npos,
          any && spec.find("of=k") == std::string::npos, dim};
}

void add_means(const SequenceKv& kv, std::uint32_t kv_head, const MeansBehind& means,
               DecodedHead& out) {
  for (std::uint32_t t = 0; t < kv.closed_tiles() * kv.tile_tokens(); ++t) {
    const Part part = part_of(kv, t / kv.tile_tokens(), kv_head);
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

}  // namespace

DecodedHead decode_head(const SequenceKv& kv, std::uint32_t kv_head) {
  DecodedHead out;
  out.rounding.float_slop = kFloatSlop;
  out.tokens = kv.length;
  out.head_dim = kv.geometry.head_dim;
  const std::size_t n = std::size_t{out.tokens} * out.head_dim;
  for (auto* values : {&out.k, &out.v, &out.k_code, &out.v_code, &out.k_scale, &out.v_scale,
                       &out.k_size, &out.v_size}) {
    values->assign(n, 0.0);
  }
  const std::string& spec = kv.codec->spec();
  const MeansBehind means = means_behind(spec, out.head_dim);
  for (std::uint32_t tile = 0; tile < kv.closed_tiles(); ++tile) {
    const Part part = part_of(kv, tile, kv_head);
    decode_tile(kv, part.begin, part.header, part.bytes - means.bytes(),
                std::size_t{tile} * kv.tile_tokens(), out);
  }
  const auto stands = [&](const char* stage) { return spec.find(stage) != std::string::npos; };
  // What stands before `mean` in the spec acts on the sums, what stands behind on the rest.
  const bool settles_sums = spec.find("dequantize") < spec.find("mean") && stands("dequantize");
  // A profile's text does not name its layers; the one read here is of hack, with its defaults.
  const bool attendable = stands("hack") || stands("profile");
  if (!attendable || (stands("dequantize") && !settles_sums)) settle_as_bf16(out);
  add_means(kv, kv_head, means, out);
  if (settles_sums) settle_as_bf16(out);
  const OpenTile open = kv.open_tile(0);
  const std::size_t head_bytes = std::size_t{kv.tile_tokens()} * out.head_dim * 2;
  decode_dense(open.k + kv_head * head_bytes, open.v + kv_head * head_bytes,
               std::size_t{kv.closed_tiles()} * kv.tile_tokens(), kv.open_tokens(), out);
  return out;
}

namespace {

OracleAnswer answer_with_draws(const DecodedHead& head, const std::vector<float>& queries,
                               std::uint64_t seed, int draws) {
  OracleAnswer answer;
  for (auto* values :
       {&answer.output, &answer.bound, &answer.predicted_square, &answer.float_slop}) {
    values->assign(queries.size(), 0.0);
  }
  for (std::size_t r = 0; r * head.head_dim < queries.size(); ++r) {
    const std::size_t at = r * head.head_dim;
    const Row row{head, queries.data() + at, head.head_dim, head.tokens};
    std::vector<double> scores(row.tokens, 0.0), moved(row.tokens, 0.0), slop(row.tokens, 0.0);
    exact_scores(row, scores, moved, slop);
    const std::vector<double> weights = softmax(scores);
    for (std::size_t t = 0; t < row.tokens; ++t) {
      for (std::size_t d = 0; d < row.dim; ++d) {
        answer.output[at + d] += weights[t] * head.v[t * row.dim + d];
      }
      moved[t] += slop[t];
    }
    bound_row(row, scores, slop, &answer.output[at], 0.0, &answer.float_slop[at]);
    bound_row(row, scores, moved, &answer.output[at], 1.0, &answer.bound[at]);
    for (int draw = 0; draw < draws; ++draw) {
      add_draw(row, scores, &answer.output[at], seed + 97 * r + 7919 * draw,
               &answer.predicted_square[at]);
    }
  }
  return answer;
}

}  // namespace

OracleAnswer oracle(const DecodedHead& head, const std::vector<float>& queries,
                    std::uint64_t seed) {
  return answer_with_draws(head, queries, seed, kDraws);
}

OracleAnswer oracle_bounds(const DecodedHead& head, const std::vector<float>& queries) {
  return answer_with_draws(head, queries, 0, 0);
}

}  // namespace kvferry::bench
