// The scalar attention of hack: what the others are measured against.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/hack_common.h"

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kBlock = kHackBlock;

// As MINPS and MAXPS: the second operand when both are equal, which decides the sign of a zero.
float min_of(float a, float b) { return a < b ? a : b; }
float max_of(float a, float b) { return a > b ? a : b; }

float widen(std::uint16_t v) { return std::bit_cast<float>(std::uint32_t{v} << 16); }

float load_bf16(const std::byte* p, std::size_t index) {
  std::uint16_t v;
  std::memcpy(&v, p + 2 * index, sizeof(v));
  return widen(v);
}

// To the nearest integer, ties to even, for |v| < 2^22: beyond 2^23 f32 has no fraction bits.
float nearest_integer(float v) { return (v + 0x1.8p23f) - 0x1.8p23f; }

// codes[i][lane]: the code at place i of the packed axis, for i in 0..count and every lane.
void unpack(const std::byte* packed, std::uint32_t bits, std::uint32_t count, std::uint32_t lanes,
            std::uint8_t* codes) {
  const std::uint32_t fields = 8 / bits;
  const std::uint32_t mask = (1u << bits) - 1u;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t word = i / (4 * fields);
    const std::uint32_t field = i / 4 % fields;
    for (std::uint32_t lane = 0; lane < lanes; ++lane) {
      const auto byte =
          static_cast<std::uint32_t>(packed[4 * (std::size_t{word} * lanes + lane) + i % 4]);
      codes[std::size_t{i} * lanes + lane] =
          static_cast<std::uint8_t>((byte >> (field * bits)) & mask);
    }
  }
}

// A tile with its codes one a byte: k[channel][token], v[token][channel].
struct Unpacked {
  std::uint8_t k[256 * kBlock];
  std::uint8_t v[kBlock * 256];
};

void unpack_tile(const HackPlanes& p, Unpacked& out) {
  unpack(p.k_codes, p.k_bits, p.head_dim, kBlock, out.k);
  unpack(p.v_codes, p.v_bits, kBlock, p.head_dim, out.v);
}

// One query row against the tile: its own softmax state. False when f32 might not hold it.
struct RowState {
  float m, l;
  float o[256];
};

bool score_row(const HackPlanes& p, const Unpacked& codes, const float* q, float* scores) {
  const float levels = static_cast<float>((1u << p.k_bits) - 1u);
  float offset = 0.0f;
  float bound = 0.0f;
  std::fill(scores, scores + kBlock, 0.0f);
  for (std::uint32_t g = 0; g < p.head_dim / kBlock; ++g) {
    float folded[kBlock];
    float largest = 0.0f;
    for (std::uint32_t i = 0; i < kBlock; ++i) {
      const std::uint32_t d = g * kBlock + i;
      folded[i] = q[d] * load_bf16(p.k_scale, d);
      largest = max_of(std::fabs(folded[i]), largest);
      offset = offset + q[d] * load_bf16(p.k_min, d);
    }
    if (largest < kHackTiny) continue;
    const float inv = 127.0f / largest;
    const float step = largest / 127.0f;
    bound = bound + step * (64.0f * 127.0f * levels);
    if (!(bound < kHackHuge)) return false;
    std::int32_t rounded[kBlock];
    for (std::uint32_t i = 0; i < kBlock; ++i) {
      rounded[i] = static_cast<std::int32_t>(nearest_integer(folded[i] * inv));
    }
    for (std::uint32_t t = 0; t < kBlock; ++t) {
      std::int32_t dot = 0;
      for (std::uint32_t i = 0; i < kBlock; ++i) {
        dot += rounded[i] * codes.k[(g * kBlock + i) * kBlock + t];
      }
      scores[t] = scores[t] + step * static_cast<float>(dot);
    }
  }
  for (std::uint32_t t = 0; t < kBlock; ++t) scores[t] = scores[t] + offset;
  return bound + std::fabs(offset) < kHackHuge;
}

bool value_row(const HackPlanes& p, const Unpacked& codes, const float* probs, float* o) {
  for (std::uint32_t g = 0; g < p.head_dim / kBlock; ++g) {
    float folded[kBlock];
    float largest = 0.0f;
    float offset = 0.0f;
    for (std::uint32_t t = 0; t < kBlock; ++t) {
      folded[t] = probs[t] * load_bf16(p.v_scale, g * kBlock + t);
      largest = max_of(folded[t], largest);
      offset = offset + probs[t] * load_bf16(p.v_min, g * kBlock + t);
    }
    const bool tiny = largest < kHackTiny;
    const float inv = tiny ? 0.0f : 255.0f / largest;
    const float step = tiny ? 0.0f : largest / 255.0f;
    if (!(step * kHackMaxVDot + std::fabs(offset) < kHackHuge)) return false;
    std::int32_t rounded[kBlock];
    for (std::uint32_t t = 0; t < kBlock; ++t) {
      rounded[t] = static_cast<std::int32_t>(nearest_integer(folded[t] * inv));
    }
    for (std::uint32_t i = 0; i < kBlock; ++i) {
      const std::uint32_t d = g * kBlock + i;
      std::int32_t dot = 0;
      for (std::uint32_t t = 0; t < kBlock; ++t) {
        dot += rounded[t] * codes.v[t * p.head_dim + d];
      }
      o[d] = step * static_cast<float>(dot) + offset;
    }
  }
  return true;
}

bool attend_row(const HackPlanes& p, const Unpacked& codes, const Queries& query, RowState& state) {
  float scores[kBlock];
  if (!score_row(p, codes, query.q, scores)) return false;
  for (std::uint32_t t = 0; query.score_add != nullptr && t < kBlock; ++t) {
    scores[t] = scores[t] + query.score_add[t];
  }
  state.m = *std::max_element(scores, scores + kBlock);
  state.l = 0.0f;
  float probs[kBlock];
  for (std::uint32_t t = 0; t < kBlock; ++t) {
    probs[t] = std::exp(scores[t] - state.m);
    state.l = state.l + probs[t];
  }
  return value_row(p, codes, probs, state.o);
}

float saturated(double v) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(v, -kLargest, kLargest));
}

void merge_row(const RowState& tile, AttentionStates states, std::uint32_t row) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const float m = max_of(states.m[row], tile.m);
  const float old_weight = std::exp(states.m[row] - m);
  const float new_weight = std::exp(tile.m - m);
  float* o = states.o + std::size_t{row} * states.head_dim;
  states.m[row] = m;
  states.l[row] = states.l[row] * old_weight + tile.l * new_weight;
  for (std::uint32_t d = 0; d < states.head_dim; ++d) {
    o[d] = min_of(max_of(o[d] * old_weight + tile.o[d] * new_weight, -kLargest), kLargest);
  }
}

void attend(const HackPlanes& planes, const Queries& queries, AttentionStates states) {
  Unpacked codes;
  unpack_tile(planes, codes);
  for (std::uint32_t r = 0; r < states.rows; ++r) {
    const Queries row = skip_rows(queries, r, planes.head_dim);
    RowState state;
    if (attend_row(planes, codes, row, state)) {
      merge_row(state, states, r);
    } else {
      hack_attend_row_exact(planes, row, states, r);
    }
  }
}

}  // namespace

const HackKernels kHackScalar = {attend};

void hack_attend_row_exact(const HackPlanes& planes, const Queries& queries, AttentionStates states,
                           std::uint32_t row) {
  Unpacked codes;
  unpack_tile(planes, codes);
  const std::uint32_t dim = planes.head_dim;
  double scores[kBlock] = {};
  for (std::uint32_t d = 0; d < dim; ++d) {
    const double scale = load_bf16(planes.k_scale, d);
    const double min = load_bf16(planes.k_min, d);
    for (std::uint32_t t = 0; t < kBlock; ++t) {
      scores[t] += double{queries.q[d]} * (scale * codes.k[d * kBlock + t] + min);
    }
  }
  for (std::uint32_t t = 0; queries.score_add != nullptr && t < kBlock; ++t) {
    scores[t] += double{queries.score_add[t]};
  }
  const double largest = *std::max_element(scores, scores + kBlock);
  RowState state;
  state.m = saturated(largest);
  double sum = 0.0;
  double o[256] = {};
  for (std::uint32_t t = 0; t < kBlock; ++t) {
    const double p = std::exp(scores[t] - largest);
    sum += p;
    for (std::uint32_t d = 0; d < dim; ++d) {
      const std::uint32_t at = d / kBlock * kBlock + t;
      const double scale = load_bf16(planes.v_scale, at);
      const double min = load_bf16(planes.v_min, at);
      o[d] += p * (scale * codes.v[t * dim + d] + min);
    }
  }
  state.l = static_cast<float>(sum);
  for (std::uint32_t d = 0; d < dim; ++d) state.o[d] = saturated(o[d]);
  merge_row(state, states, row);
}

void hack_reconstruct(const HackPlanes& planes, float* k, float* v) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  Unpacked codes;
  unpack_tile(planes, codes);
  const auto value = [&](float scale, std::uint8_t code, float min) {
    return std::clamp(std::fmaf(scale, code, min), -kLargest, kLargest);
  };
  for (std::uint32_t t = 0; t < kBlock; ++t) {
    for (std::uint32_t d = 0; d < planes.head_dim; ++d) {
      const std::size_t at = std::size_t{t} * planes.head_dim + d;
      const std::uint32_t place = d / kBlock * kBlock + t;
      k[at] =
          value(load_bf16(planes.k_scale, d), codes.k[d * kBlock + t], load_bf16(planes.k_min, d));
      v[at] = value(load_bf16(planes.v_scale, place), codes.v[t * planes.head_dim + d],
                    load_bf16(planes.v_min, place));
    }
  }
}

}  // namespace kvferry::kernels
