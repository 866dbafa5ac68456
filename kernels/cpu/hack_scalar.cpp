// The scalar attention of hack: what the others are measured against.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/hack_codes.h"
#include "kernels/cpu/hack_common.h"

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kBlock = kHackBlock;
constexpr std::uint32_t kMaxGroup = 128;  // channels that share scales of V

// To the nearest integer, ties to even, for |v| < 2^22: beyond 2^23 f32 has no fraction bits.
float nearest_integer(float v) { return (v + 0x1.8p23f) - 0x1.8p23f; }

// One query row against the tile: its own softmax state. False when f32 might not hold it.
struct RowState {
  float m, l;
  float o[kHackMaxDim];
};

// Rounding to integers of magnitude `levels` at most: value = step * integer. What is tiny is zero.
struct Rounding {
  float step, inv;
};
Rounding rounding_to(float levels, float largest) {
  if (largest < kHackTiny) return {0.0f, 0.0f};
  return {largest / levels, levels / largest};
}
void round_values(const float* values, float inv, std::int32_t* rounded) {
  for (std::uint32_t i = 0; i < kBlock; ++i) {
    rounded[i] = static_cast<std::int32_t>(nearest_integer(values[i] * inv));
  }
}

// dots[j] = SUM_{i < 64} values[i] * codes[i][j], j < count. This way round compilers find vectors.
void add_up(const std::int32_t* values, const std::uint8_t* codes, std::size_t stride,
            std::uint32_t count, std::int32_t* dots) {
  std::fill(dots, dots + count, 0);
  for (std::uint32_t i = 0; i < kBlock; ++i) {
    const auto value = static_cast<std::int16_t>(values[i]);
    const std::uint8_t* row = codes + i * stride;
    for (std::uint32_t j = 0; j < count; ++j) {
      dots[j] += std::int32_t{value} * static_cast<std::int16_t>(row[j]);
    }
  }
}

// The largest of a plane of factors, at least 1, which null stands for.
float largest_factor(const std::byte* plane, std::uint32_t count) {
  float largest = 1.0f;
  for (std::uint32_t i = 0; plane != nullptr && i < count; ++i) {
    largest = std::max(hack_load_bf16(plane, i), largest);
  }
  return largest;
}

// Scores of tokens first .. first + count, which share the scales and minima at k_scale and k_min.
bool score_tokens(const HackPlanes& p, const HackCodes& codes, const float* q, std::uint32_t first,
                  std::uint32_t count, float* scores) {
  const std::size_t plane = std::size_t{first} / count * p.head_dim;
  const float levels = static_cast<float>((1u << p.k_bits) - 1u);
  float offset = 0.0f;
  float bound = 0.0f;
  for (std::uint32_t g = 0; g < p.head_dim / kBlock; ++g) {
    float folded[kBlock];
    float largest = 0.0f;
    for (std::uint32_t i = 0; i < kBlock; ++i) {
      const std::uint32_t d = g * kBlock + i;
      folded[i] = q[d] * hack_load_bf16(p.k_scale, plane + d);
      largest = std::max(std::fabs(folded[i]), largest);
      offset = offset + q[d] * hack_load_bf16(p.k_min, plane + d);
    }
    const Rounding rounding = rounding_to(127.0f, largest);
    bound = bound + rounding.step * (64.0f * 127.0f * levels);
    if (!(bound < kHackHuge)) return false;
    std::int32_t rounded[kBlock];
    round_values(folded, rounding.inv, rounded);
    std::int32_t dots[kBlock];
    add_up(rounded, codes.k + g * kBlock * kBlock + first, kBlock, count, dots);
    for (std::uint32_t i = 0; i < count; ++i) {
      scores[first + i] = scores[first + i] + rounding.step * static_cast<float>(dots[i]);
    }
  }
  for (std::uint32_t t = first; t < first + count; ++t) {
    scores[t] = scores[t] + offset;
    if (p.k_row != nullptr) scores[t] = scores[t] * hack_load_bf16(p.k_row, t);
  }
  return (bound + std::fabs(offset)) * largest_factor(p.k_row, kBlock) < kHackHuge;
}

bool score_row(const HackPlanes& p, const HackCodes& codes, const float* q, float* scores) {
  std::fill(scores, scores + kBlock, 0.0f);
  const std::uint32_t count = std::min(p.k_group, kBlock);
  for (std::uint32_t first = 0; first < kBlock; first += count) {
    if (!score_tokens(p, codes, q, first, count, scores)) return false;
  }
  return true;
}

bool value_row(const HackPlanes& p, const HackCodes& codes, const float* probs, float* o) {
  const float largest_column = largest_factor(p.v_column, p.head_dim);
  for (std::uint32_t g = 0; g < p.head_dim / p.v_group; ++g) {
    float folded[kBlock];
    float largest = 0.0f;
    float offset = 0.0f;
    for (std::uint32_t t = 0; t < kBlock; ++t) {
      folded[t] = probs[t] * hack_load_bf16(p.v_scale, g * kBlock + t);
      largest = std::max(folded[t], largest);
      offset = offset + probs[t] * hack_load_bf16(p.v_min, g * kBlock + t);
    }
    const Rounding rounding = rounding_to(255.0f, largest);
    const float bound = rounding.step * kHackMaxVDot + std::fabs(offset);
    if (!(bound * largest_column < kHackHuge)) return false;
    std::int32_t rounded[kBlock];
    round_values(folded, rounding.inv, rounded);
    const std::uint32_t first = g * p.v_group;
    std::int32_t dots[kMaxGroup];
    add_up(rounded, codes.v + first, p.head_dim, p.v_group, dots);
    for (std::uint32_t i = 0; i < p.v_group; ++i) {
      o[first + i] = rounding.step * static_cast<float>(dots[i]) + offset;
      if (p.v_column != nullptr)
        o[first + i] = o[first + i] * hack_load_bf16(p.v_column, first + i);
    }
  }
  return true;
}

bool attend_row(const HackPlanes& p, const HackCodes& codes, const Queries& query,
                RowState& state) {
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

void attend_one(const HackPlanes& planes, const Queries& queries, AttentionStates states) {
  HackCodes codes;
  hack_unpack(planes, codes);
  for (std::uint32_t r = 0; r < states.rows; ++r) {
    const Queries row = skip_rows(queries, r, planes.head_dim);
    RowState state;
    if (attend_row(planes, codes, row, state)) {
      hack_merge_row({state.m, state.l, state.o}, states, r);
    } else {
      hack_attend_row_exact(planes, row, states, r);
    }
  }
}

void attend(const HackWork* work, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    attend_one(work[i].planes, work[i].queries, work[i].states);
  }
}

}  // namespace

const HackKernels kHackScalar = {attend};

}  // namespace kvferry::kernels
