// What the codes of a tile mean, one by one: the definition that the fast kernels are tested
// against, and the arithmetic of the rows that do not fit f32.
#include "kernels/cpu/hack_codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/hack_common.h"
#include "kernels/cpu/reconstruct_tables.h"

namespace kvferry::kernels {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

// codes[i][lane] += the sub-code at place i of the packed axis, shifted; for i < count, each lane.
void add_sub_plane(const std::byte* packed, HackSubPlane sub, std::uint32_t count,
                   std::uint32_t lanes, std::uint8_t* codes) {
  const std::uint32_t fields = 8 / sub.bits;
  const std::uint32_t mask = (1u << sub.bits) - 1u;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t word = i / (4 * fields);
    const std::uint32_t field = i / 4 % fields;
    for (std::uint32_t lane = 0; lane < lanes; ++lane) {
      const auto byte =
          static_cast<std::uint32_t>(packed[4 * (std::size_t{word} * lanes + lane) + i % 4]);
      std::uint8_t& code = codes[std::size_t{i} * lanes + lane];
      code = static_cast<std::uint8_t>(code | (byte >> (field * sub.bits) & mask) << sub.shift);
    }
  }
}

void unpack(const std::byte* packed, std::uint32_t bits, std::uint32_t head_dim,
            std::uint32_t count, std::uint32_t lanes, std::uint8_t* codes) {
  std::fill_n(codes, std::size_t{count} * lanes, std::uint8_t{0});
  const HackSubPlanes& planes = kHackSubPlanes[bits];
  for (std::uint32_t i = 0; i < planes.count; ++i) {
    add_sub_plane(packed + std::size_t{8} * head_dim * planes.part[i].shift, planes.part[i], count,
                  lanes, codes);
  }
}

// The factors of an element of K, token t and channel d, or of V.
struct Meaning {
  float scale, min, factor;
};
Meaning meaning_of_k(const HackPlanes& p, std::uint32_t t, std::uint32_t d) {
  const std::size_t at = std::size_t{t} / p.k_group * p.head_dim + d;
  return {hack_load_bf16(p.k_scale, at), hack_load_bf16(p.k_min, at),
          p.k_row == nullptr ? 1.0f : hack_load_bf16(p.k_row, t)};
}
Meaning meaning_of_v(const HackPlanes& p, std::uint32_t t, std::uint32_t d) {
  const std::size_t at = std::size_t{d} / p.v_group * kHackBlock + t;
  return {hack_load_bf16(p.v_scale, at), hack_load_bf16(p.v_min, at),
          p.v_column == nullptr ? 1.0f : hack_load_bf16(p.v_column, d)};
}

double exact_value(const Meaning& m, std::uint8_t code) {
  return double{m.factor} * (double{m.scale} * code + double{m.min});
}
float rounded_value(const Meaning& m, std::uint8_t code) {
  return std::clamp(std::fmaf(m.scale, code, m.min) * m.factor, -kLargest, kLargest);
}

float saturated(double v) {
  return static_cast<float>(std::clamp(v, -double{kLargest}, double{kLargest}));
}

}  // namespace

float hack_load_bf16(const std::byte* plane, std::size_t index) {
  std::uint16_t v;
  std::memcpy(&v, plane + 2 * index, sizeof(v));
  return std::bit_cast<float>(std::uint32_t{v} << 16);
}

void hack_unpack(const HackPlanes& planes, HackCodes& out) {
  unpack(planes.k_codes, planes.k_bits, planes.head_dim, planes.head_dim, kHackBlock, out.k);
  unpack(planes.v_codes, planes.v_bits, planes.head_dim, kHackBlock, planes.head_dim, out.v);
}

void hack_merge_row(const HackRowState& tile, AttentionStates states, std::uint32_t row) {
  const float m = std::max(tile.m, states.m[row]);
  const float old_weight = std::exp(states.m[row] - m);
  const float new_weight = std::exp(tile.m - m);
  float* o = states.o + std::size_t{row} * states.head_dim;
  states.m[row] = m;
  states.l[row] = states.l[row] * old_weight + tile.l * new_weight;
  for (std::uint32_t d = 0; d < states.head_dim; ++d) {
    o[d] = std::clamp(o[d] * old_weight + tile.o[d] * new_weight, -kLargest, kLargest);
  }
}

void hack_attend_row_exact(const HackPlanes& planes, const Queries& queries, AttentionStates states,
                           std::uint32_t row) {
  HackCodes codes;
  hack_unpack(planes, codes);
  const std::uint32_t dim = planes.head_dim;
  double scores[kHackBlock] = {};
  for (std::uint32_t d = 0; d < dim; ++d) {
    for (std::uint32_t t = 0; t < kHackBlock; ++t) {
      scores[t] += double{queries.q[d]} *
                   exact_value(meaning_of_k(planes, t, d), codes.k[d * kHackBlock + t]);
    }
  }
  for (std::uint32_t t = 0; queries.score_add != nullptr && t < kHackBlock; ++t) {
    scores[t] += double{queries.score_add[t]};
  }
  const double largest = *std::max_element(scores, scores + kHackBlock);
  double sum = 0.0;
  double o[kHackMaxDim] = {};
  for (std::uint32_t t = 0; t < kHackBlock; ++t) {
    const double p = std::exp(scores[t] - largest);
    sum += p;
    for (std::uint32_t d = 0; d < dim; ++d) {
      o[d] += p * exact_value(meaning_of_v(planes, t, d), codes.v[t * dim + d]);
    }
  }
  float tile[kHackMaxDim];
  for (std::uint32_t d = 0; d < dim; ++d) tile[d] = saturated(o[d]);
  hack_merge_row({saturated(largest), static_cast<float>(sum), tile}, states, row);
}

void hack_reconstruct_scalar(const HackPlanes& planes, float* k, float* v) {
  HackCodes codes;
  hack_unpack(planes, codes);
  for (std::uint32_t t = 0; t < kHackBlock; ++t) {
    for (std::uint32_t d = 0; d < planes.head_dim; ++d) {
      const std::size_t at = std::size_t{t} * planes.head_dim + d;
      k[at] = rounded_value(meaning_of_k(planes, t, d), codes.k[d * kHackBlock + t]);
      v[at] = rounded_value(meaning_of_v(planes, t, d), codes.v[at]);
    }
  }
}

}  // namespace kvferry::kernels
