#include "bench/oracle.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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

void decode_codes(const std::byte* part, const SegmentHeader& header, std::size_t first,
                  DecodedHead& out) {
  const std::size_t dim = out.head_dim;
  const std::byte* k_scale = part + 8 * dim * header.k_bits;
  const std::byte* k_min = k_scale + 2 * dim;
  const std::byte* v_codes = k_min + 2 * dim;
  const std::byte* v_scale = v_codes + 8 * dim * header.v_bits;
  const std::byte* v_min = v_scale + 2 * dim;
  for (std::uint32_t t = 0; t < kGridTokens; ++t) {
    for (std::uint32_t d = 0; d < dim; ++d) {
      const std::size_t at = (first + t) * dim + d;
      const std::size_t group = d / 64 * 64 + t;
      out.k_code[at] = code_at(part, dim, header.k_bits, kGridTokens, d, t);
      out.v_code[at] = code_at(v_codes, dim, header.v_bits, out.head_dim, t, d);
      out.k_scale[at] = bf16_at(k_scale, d);
      out.v_scale[at] = bf16_at(v_scale, group);
      out.k[at] = out.k_scale[at] * out.k_code[at] + bf16_at(k_min, d);
      out.v[at] = out.v_scale[at] * out.v_code[at] + bf16_at(v_min, group);
    }
  }
}

void decode_dense(const std::byte* k, const std::byte* v, std::size_t first, std::size_t tokens,
                  DecodedHead& out) {
  for (std::size_t i = 0; i < tokens * out.head_dim; ++i) {
    out.k[first * out.head_dim + i] = bf16_at(k, i);
    out.v[first * out.head_dim + i] = bf16_at(v, i);
  }
}

// One query row's passage through the oracle.
struct Row {
  const DecodedHead& head;
  const float* q;
  std::size_t dim, tokens;

  double folded(std::size_t t, std::size_t d) const { return q[d] * head.k_scale[t * dim + d]; }

  // The step of q~ of a token's tile and a group of channels.
  double q_step(std::size_t t, std::size_t g) const {
    double largest = 0.0;
    for (std::size_t d = 64 * g; d < 64 * g + 64; ++d) {
      largest = std::max(largest, std::fabs(folded(t, d)));
    }
    return largest / 127.0;
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
  for (std::size_t t = 0; t < row.tokens; ++t) {
    double magnitude = 0.0;
    for (std::size_t d = 0; d < row.dim; ++d) {
      const std::size_t at = t * row.dim + d;
      scores[t] += row.q[d] * row.head.k[at];
      const double coded = row.head.k_scale[at] * row.head.k_code[at];
      magnitude += std::fabs(row.q[d]) * (coded + std::fabs(row.head.k[at] - coded));
    }
    for (std::size_t g = 0; g < row.dim / 64; ++g) {
      double codes = 0.0;
      for (std::size_t d = 64 * g; d < 64 * g + 64; ++d) codes += row.head.k_code[t * row.dim + d];
      moved[t] += row.q_step(t, g) / 2.0 * codes;
    }
    slop[t] = kFloatSlop * magnitude + kTinySlop;
  }
}

// The largest p~ of a tile and group: max over the tile's tokens of weight * scale.
double largest_folded(const Row& row, const std::vector<double>& weights, std::size_t tile,
                      std::size_t g) {
  double largest = 0.0;
  for (std::size_t t = tile * kGridTokens; t < (tile + 1) * kGridTokens; ++t) {
    largest = std::max(largest, weights[t] * row.head.v_scale[t * row.dim + 64 * g]);
  }
  return largest;
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
  const std::size_t closed = row.tokens / kGridTokens;
  for (std::size_t d = 0; d < row.dim; ++d) {
    double sum = 0.0;
    double magnitude = 0.0;
    for (std::size_t t = 0; t < row.tokens; ++t) {
      const std::size_t at = t * row.dim + d;
      const double moves = std::max(high[t] - weights[t], lost[t]);
      sum += moves * std::fabs(row.head.v[at] - output[d]);
      const double coded = row.head.v_scale[at] * row.head.v_code[at];
      magnitude += high[t] * (coded + std::fabs(row.head.v[at] - coded));
    }
    for (std::size_t tile = 0; tile < closed; ++tile) {
      double codes = 0.0;
      for (std::size_t t = 0; t < kGridTokens; ++t) {
        codes += row.head.v_code[(tile * kGridTokens + t) * row.dim + d];
      }
      sum += v_step * largest_folded(row, high, tile, d / 64) / 255.0 / 2.0 * codes;
    }
    bound[d] = sum + kFloatSlop * magnitude + kTinySlop;
  }
}

// One draw of rounding errors, uniform and independent, through the whole softmax.
void add_draw(const Row& row, const std::vector<double>& scores, const double* output,
              std::uint64_t seed, double* square) {
  std::uint64_t counter = 0;
  const std::size_t closed = row.tokens / kGridTokens;
  std::vector<double> moved_scores = scores;
  for (std::size_t tile = 0; tile < closed; ++tile) {
    const std::size_t first = tile * kGridTokens;
    for (std::size_t d = 0; d < row.dim; ++d) {
      const double step = row.q_step(first, d / 64);
      const double error = step * (uniform(seed, counter++) - 0.5);
      for (std::size_t t = first; t < first + kGridTokens; ++t) {
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
  for (std::size_t tile = 0; tile < closed; ++tile) {
    for (std::size_t g = 0; g < row.dim / 64; ++g) {
      const double step = largest_folded(row, weights, tile, g) / 255.0;
      for (std::size_t t = tile * kGridTokens; t < (tile + 1) * kGridTokens; ++t) {
        const double error = step * (uniform(seed, counter++) - 0.5);
        for (std::size_t d = 64 * g; d < 64 * g + 64; ++d) {
          moved[d] += error * row.head.v_code[t * row.dim + d];
        }
      }
    }
  }
  for (std::size_t d = 0; d < row.dim; ++d) {
    square[d] += (moved[d] - output[d]) * (moved[d] - output[d]) / kDraws;
  }
}

}  // namespace

DecodedHead decode_head(const SequenceKv& kv, std::uint32_t kv_head) {
  DecodedHead out;
  out.tokens = kv.length;
  out.head_dim = kv.geometry.head_dim;
  const std::size_t n = std::size_t{out.tokens} * out.head_dim;
  for (auto* values : {&out.k, &out.v, &out.k_code, &out.v_code, &out.k_scale, &out.v_scale}) {
    values->assign(n, 0.0);
  }
  for (std::uint32_t tile = 0; tile < kv.closed_tiles(); ++tile) {
    const std::span<const std::byte> segment = kv.segment(0, tile);
    SegmentHeader header;
    std::memcpy(&header, segment.data(), sizeof(header));
    const std::size_t part_bytes = (segment.size() - sizeof(header)) / kv.geometry.kv_heads;
    const std::byte* part = segment.data() + sizeof(header) + kv_head * part_bytes;
    const std::size_t first = std::size_t{tile} * kv.tile_tokens();
    if (header.kind == static_cast<std::uint8_t>(SegmentKind::kCodes)) {
      decode_codes(part, header, first, out);
    } else {
      decode_dense(part, part + part_bytes / 2, first, kv.tile_tokens(), out);
    }
  }
  const OpenTile open = kv.open_tile(0);
  const std::size_t head_bytes = std::size_t{kv.tile_tokens()} * out.head_dim * 2;
  decode_dense(open.k + kv_head * head_bytes, open.v + kv_head * head_bytes,
               std::size_t{kv.closed_tiles()} * kv.tile_tokens(), kv.open_tokens(), out);
  return out;
}

OracleAnswer oracle(const DecodedHead& head, const std::vector<float>& queries,
                    std::uint64_t seed) {
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
    for (int draw = 0; draw < kDraws; ++draw) {
      add_draw(row, scores, &answer.output[at], seed + 97 * r + 7919 * draw,
               &answer.predicted_square[at]);
    }
  }
  return answer;
}

}  // namespace kvferry::bench
