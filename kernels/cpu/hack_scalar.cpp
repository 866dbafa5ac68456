// The scalar kernels of hack: what the others are measured against. Their order of operations is
// the definition of the encoded bytes (docs/codecs.md).
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

// f32 to the upper half of its bits. The values given never round to infinity.
std::uint16_t round_down(float v) {
  const auto u = std::bit_cast<std::uint32_t>(v);
  const std::uint32_t away = (u >> 31) != 0 ? 0xffffu : 0u;  // a negative value grows in magnitude
  return static_cast<std::uint16_t>((u + away) >> 16);
}
std::uint16_t round_up_positive(float v) {
  return static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(v) + 0xffffu) >> 16);
}
std::uint16_t round_nearest(float v) {
  const auto u = std::bit_cast<std::uint32_t>(v);
  return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

std::size_t first_not_finite(const std::uint16_t* x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if ((x[i] & 0x7f80u) == 0x7f80u) return i;
  }
  return n;
}

void widen_block(const std::uint16_t* x, std::size_t stride, float* out) {
  for (std::uint32_t r = 0; r < kBlock; ++r) {
    for (std::uint32_t c = 0; c < kBlock; ++c) out[r * kBlock + c] = widen(x[r * stride + c]);
  }
}

void transpose_block(const std::uint16_t* x, std::size_t stride, float* out) {
  for (std::uint32_t r = 0; r < kBlock; ++r) {
    for (std::uint32_t c = 0; c < kBlock; ++c) out[r * kBlock + c] = widen(x[c * stride + r]);
  }
}

struct Range {
  float scale, min;
};

// The code of a halved value, before rounding: halves, because max - min may overflow. xh and mh
// are half of the value and of the minimum, inv is 2 / scale.
float position(float xh, float mh, float inv) { return (xh - mh) * inv; }

// To the nearest integer, ties to even, for |v| < 2^22: beyond 2^23 f32 has no fraction bits.
float nearest_integer(float v) { return (v + 0x1.8p23f) - 0x1.8p23f; }

float nearest_code(float position, float levels) {
  return nearest_integer(min_of(max_of(position, 0.0f), levels));
}

// The range shrunk by the factor at `index`; index 0 leaves it whole, rounded outwards.
Range shrunk_range(float min, float half, float levels, int index) {
  Range r;
  if (index == 0) {
    r.min = widen(round_down(min));
    r.scale = widen(round_up_positive(max_of((half / levels) * 2.0f, kHackMinScale)));
  } else {
    const float f = kHackShrink[index];
    r.min = widen(round_nearest(min + half * (1.0f - f)));
    r.scale = widen(round_nearest(max_of(((half * f) / levels) * 2.0f, kHackMinScale)));
  }
  return r;
}

// Squared error over the column in units of the scale.
float squared_error(const float* xh, Range range, float levels) {
  const float mh = range.min * 0.5f;
  const float inv = 2.0f / range.scale;
  float sum = 0.0f;
  for (std::uint32_t r = 0; r < kBlock; ++r) {
    const float t = position(xh[r], mh, inv);
    const float e = t - nearest_code(t, levels);
    sum = sum + e * e;
  }
  return sum;
}

Range choose_range(const float* xh, float min, float half, float levels, HackRange kind) {
  Range best = shrunk_range(min, half, levels, 0);
  if (kind == HackRange::kMinMax) return best;
  const float whole_scale = best.scale;
  float best_error = squared_error(xh, best, levels);
  for (int i = 1; i < kHackShrinks; ++i) {
    const Range candidate = shrunk_range(min, half, levels, i);
    const float ratio = candidate.scale / whole_scale;
    const float error = squared_error(xh, candidate, levels) * (ratio * ratio);
    if (error < best_error) {
      best_error = error;
      best = candidate;
    }
  }
  return best;
}

void quantize_block(const float* x, std::uint32_t bits, HackRange range, std::uint8_t* codes,
                    std::uint16_t* scale, std::uint16_t* min) {
  const float levels = static_cast<float>((1u << bits) - 1u);
  for (std::uint32_t c = 0; c < kBlock; ++c) {
    float xh[kBlock];
    float lo = x[c];
    float hi = x[c];
    for (std::uint32_t r = 0; r < kBlock; ++r) {
      const float v = x[r * kBlock + c];
      lo = min_of(lo, v);
      hi = max_of(hi, v);
      xh[r] = v * 0.5f;
    }
    const float half = hi * 0.5f - lo * 0.5f;
    const Range best = choose_range(xh, lo, half, levels, range);
    const float mh = best.min * 0.5f;
    const float inv = 2.0f / best.scale;
    for (std::uint32_t r = 0; r < kBlock; ++r) {
      codes[r * kBlock + c] =
          static_cast<std::uint8_t>(nearest_code(position(xh[r], mh, inv), levels));
    }
    scale[c] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(best.scale) >> 16);
    min[c] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(best.min) >> 16);
  }
}

void pack_block(const std::uint8_t* codes, std::uint32_t bits, std::size_t lanes, std::byte* out) {
  const std::uint32_t fields = 8 / bits;
  for (std::uint32_t j = 0; j < 16 / fields; ++j) {
    for (std::uint32_t r = 0; r < kBlock; ++r) {
      std::byte* word = out + 4 * (j * lanes + r);
      for (std::uint32_t b = 0; b < 4; ++b) {
        std::uint32_t packed = 0;
        for (std::uint32_t f = 0; f < fields; ++f) {
          packed |= std::uint32_t{codes[r * kBlock + 4 * (fields * j + f) + b]} << (f * bits);
        }
        word[b] = static_cast<std::byte>(packed);
      }
    }
  }
}

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

const HackKernels kHackScalar = {first_not_finite, widen_block, transpose_block,
                                 quantize_block,   pack_block,  attend};

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
