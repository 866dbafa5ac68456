// One tile of hack under one warp: 64 tokens of one KV head, up to 8 query rows, tensor cores on
// the codes. docs/codecs.md has the arithmetic, README.md the layout of work over lanes.
//
// In a warp, lane 4 g + t (g in 0..7, t in 0..3) reads bytes for
//   operands   column g of the dots, that is row g of the queries or weights, and 16 of 64 values
//              along the dot: those from 16 t on;
//   codes      rows 8 g .. 8 g + 7 of 64 (tokens of K, channels of V), the same 16 values;
//   results    rows 8 g .. 8 g + 7 and the query rows 2 t and 2 t + 1.
// So its codes are 32 neighbouring bytes of the planes as they are stored, whatever the bits, and
// fields of one word go to neighbouring operands of the tensor cores.
#pragma once

#include "kernels/cuda/warp_ops.h"

namespace kvferry::cuda {

constexpr int kGroup = 64;  // values of a dot that share a step

// A row whose sums could pass 2^80 times the codes is computed with clamped operands: finite, and
// not faithful. Below kTiny an operand counts as zero, as on the CPU.
constexpr float kHuge = 0x1p80f;
constexpr float kTiny = 0x1p-118f;

// Where the planes of a tile's KV head lie, as codec/hack_part.h has them: one after the other.
template <int kDim>
struct TilePart {
  const std::byte* base;
  int k_bits, v_bits;  // 2, 4 or 8

  static constexpr int kScaleBytes = 2 * kDim;
  KVF_HOST_DEVICE static int code_bytes(int bits) { return kTileTokens * kDim / 8 * bits; }
  KVF_HOST_DEVICE static int bytes(int k_bits, int v_bits) {
    return code_bytes(k_bits + v_bits) + 4 * kScaleBytes;
  }
  KVF_DEVICE const std::byte* k_codes() const { return base; }
  KVF_DEVICE const std::byte* k_scale() const { return base + code_bytes(k_bits); }
  KVF_DEVICE const std::byte* k_min() const { return k_scale() + kScaleBytes; }
  KVF_DEVICE const std::byte* v_codes() const { return k_min() + kScaleBytes; }
  KVF_DEVICE const std::byte* v_scale() const { return v_codes() + code_bytes(v_bits); }
  KVF_DEVICE const std::byte* v_min() const { return v_scale() + kScaleBytes; }
};

// Codes in shared memory have the 16-byte pieces of a row of words exchanged, by the lane t that
// reads the row: with f(t) = 0, 1, 4, 5 the 8 lanes that are served at once meet no bank twice
// (g of two values reads pieces 2 g, so they and f fill the 8 places).
KVF_HOST_DEVICE int exchanged(int piece, int row, int bits) {
  const int t = (row >> (bits == 8 ? 2 : bits == 4 ? 1 : 0)) & 3;
  return piece ^ ((t & 1) | ((t & 2) << 1));
}

// A tile's part to shared memory, all lanes together.
template <int kDim, class Lane>
KVF_DEVICE void copy_part(const Lane& lane, const TilePart<kDim>& from, std::byte* to) {
  using Part = TilePart<kDim>;
  const int k_pieces = Part::code_bytes(from.k_bits) / 16;
  const int v_first = static_cast<int>(from.v_codes() - from.base) / 16;
  const int v_end = v_first + Part::code_bytes(from.v_bits) / 16;
  const int pieces = Part::bytes(from.k_bits, from.v_bits) / 16;
  constexpr int kRowK = kTileTokens / 4, kRowV = kDim / 4;  // pieces of a row of words
  for (int i = lane.lane(); i < pieces; i += kWarp) {
    int at = i;
    if (i < k_pieces) at = exchanged(i, i / kRowK, from.k_bits);
    if (i >= v_first && i < v_end) {
      at = v_first + exchanged(i - v_first, (i - v_first) / kRowV, from.v_bits);
    }
    lane.copy_async(to + 16 * at, from.base + 16 * i);
  }
}

// acc[i][2 h + r] += dots of the codes of row 8 g + 2 i + h with operand row 2 t + r, over 64
// values. codes: a plane in shared memory of `row_bytes` a row of words, of which the 64 values
// begin at `first_row` and the 64 rows at piece `first_piece`. operands: 16 bytes of row g.
template <DotKind kKind, int kBits, class Lane>
KVF_DEVICE void add_dots(const Lane& lane, const std::byte* codes, int row_bytes, int first_row,
                         int first_piece, const std::uint32_t (&operands)[4],
                         std::int32_t (&acc)[4][4]) {
  constexpr int kFields = 8 / kBits;
  constexpr std::uint32_t kMask = ((1u << kBits) - 1u) * 0x01010101u;
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  std::uint32_t words[4 / kFields][8];  // of this lane's rows of words: 8 neighbours
  KVF_UNROLL
  for (int r = 0; r < 4 / kFields; ++r) {
    const int row = first_row + 4 / kFields * t + r;
    KVF_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int piece = exchanged(first_piece + 2 * g + half, row, kBits);
      const Words loaded = lane.load16(codes + row * row_bytes + 16 * piece);
      KVF_UNROLL
      for (int i = 0; i < 4; ++i) words[r][4 * half + i] = loaded.w[i];
    }
  }
  const auto quad = [&](int n, int i) {  // the lane's n-th four values of 16, of row 8 g + i
    return (words[n / kFields][i] >> (n % kFields * kBits)) & kMask;
  };
  KVF_UNROLL
  for (int pair = 0; pair < 4; pair += 2) {
    KVF_UNROLL
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t a[4] = {quad(pair, 2 * i), quad(pair, 2 * i + 1), quad(pair + 1, 2 * i),
                                  quad(pair + 1, 2 * i + 1)};
      lane.template dots<kKind>(acc[i], a, operands[pair], operands[pair + 1]);
    }
  }
}

template <DotKind kKind, class Lane>
KVF_DEVICE void add_dots(const Lane& lane, int bits, const std::byte* codes, int row_bytes,
                         int group, int first_piece, const std::uint32_t (&operands)[4],
                         std::int32_t (&acc)[4][4]) {
  // 64 values take 2 rows of words a bit.
  const int first_row = 2 * bits * group;
  switch (bits) {  // the same for all lanes
    case 2:
      return add_dots<kKind, 2>(lane, codes, row_bytes, first_row, first_piece, operands, acc);
    case 4:
      return add_dots<kKind, 4>(lane, codes, row_bytes, first_row, first_piece, operands, acc);
    default:
      return add_dots<kKind, 8>(lane, codes, row_bytes, first_row, first_piece, operands, acc);
  }
}

// The least step in which `largest` and what is smaller has `levels` places, and its inverse.
struct Rounding {
  float step, inverse;
};
KVF_DEVICE Rounding rounding_to(float levels, float largest) {
  if (!(largest >= kTiny)) return {0.0f, 0.0f};
  const float clamped = largest < kHuge ? largest : kHuge;
  return {clamped / levels, levels / clamped};
}

// Four values times `inverse`, rounded to bytes: adding 1.5 * 2^23 leaves the integer in the low
// bits. Values are at most `levels` in magnitude unless they were clamped.
template <class Lane>
KVF_DEVICE std::uint32_t round_to_bytes(const float* values, float inverse, float levels) {
  constexpr float kMagic = 12582912.0f;
  std::uint32_t at[4];
  KVF_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float x = values[i] * inverse;
    at[i] = Lane::bits((x < -levels ? -levels : x > levels ? levels : x) + kMagic);
  }
  return Lane::select_bytes(Lane::select_bytes(at[0], at[1], 0x0040),
                            Lane::select_bytes(at[2], at[3], 0x0040), 0x5410);
}

// A sum that stays finite; NaN, of infinities that met, counts as the lower end.
KVF_DEVICE float clamp_huge(float v) { return v < kHuge ? (v > -kHuge ? v : -kHuge) : kHuge; }

// From row g, which all lanes of a g hold, to the rows 2 t and 2 t + 1.
template <class Lane>
KVF_DEVICE void to_result_rows(const Lane& lane, float row_g, float (&rows)[2]) {
  const int t = lane.lane() % 4;
  rows[0] = lane.shuffle(row_g, 8 * t);
  rows[1] = lane.shuffle(row_g, 8 * t + 4);
}

// A warp's softmax state of its 8 rows: m and l of rows 2 t and 2 t + 1, and of these
// o[group][i][2 h + r] = channel 64 group + 8 g + 2 i + h of row 2 t + r.
template <int kDim>
struct WarpState {
  float m[2], l[2];
  float o[kDim / 64][4][4];

  KVF_DEVICE void clear(const float minus_infinity) {
    KVF_UNROLL
    for (int r = 0; r < 2; ++r) {
      m[r] = minus_infinity;
      l[r] = 0.0f;
    }
    KVF_UNROLL
    for (auto& group : o) {
      KVF_UNROLL
      for (auto& quad : group) {
        KVF_UNROLL
        for (float& value : quad) value = 0.0f;
      }
    }
  }
};

// Bytes of shared memory in which a warp turns its weights from results into operands.
template <int kDim>
constexpr int kWeightBytes = kDim / 64 * kRows* kTileTokens;

// Row `row`'s weights of tokens 16 t .. 16 t + 15: pieces are exchanged so that rows of one r do
// not all meet in one bank when they are stored.
KVF_DEVICE int weight_at(int group, int row, int piece) {
  return (group * kRows + row) * kTileTokens + 16 * (piece ^ ((row >> 1) & 3));
}

// The scores of a tile: s[i][2 h + r] of token 8 g + 2 i + h and row 2 t + r. q[group][n]: value
// 64 group + 16 t + n of row g.
template <int kDim, class Lane>
KVF_DEVICE void score_tile(const Lane& lane, const TilePart<kDim>& part,
                           const float (&q)[kDim / 64][16], float (&s)[4][4]) {
  const int t = lane.lane() % 4;
  float offset = 0.0f;
  KVF_UNROLL
  for (auto& quad : s) {
    KVF_UNROLL
    for (float& value : quad) value = 0.0f;
  }
  KVF_UNROLL
  for (int group = 0; group < kDim / 64; ++group) {
    const int at = 2 * (kGroup * group + 16 * t);
    float scale[16], min[16];
    load_bf16(lane, part.k_scale() + at, scale);
    load_bf16(lane, part.k_min() + at, min);
    float largest = 0.0f;
    KVF_UNROLL
    for (int n = 0; n < 16; ++n) {
      scale[n] *= q[group][n];
      const float size = scale[n] < 0.0f ? -scale[n] : scale[n];
      largest = size > largest ? size : largest;
      offset = Lane::fma(q[group][n], min[n], offset);
    }
    const Rounding rounding = rounding_to(127.0f, over_t(lane, largest, LargerOf()));
    std::uint32_t operands[4];
    KVF_UNROLL
    for (int n = 0; n < 4; ++n) {
      operands[n] = round_to_bytes<Lane>(scale + 4 * n, rounding.inverse, 127.0f);
    }
    std::int32_t acc[4][4] = {};
    add_dots<DotKind::kUnsignedSigned>(lane, part.k_bits, part.k_codes(), 4 * kTileTokens, group, 0,
                                       operands, acc);
    float step[2];
    to_result_rows(lane, rounding.step, step);
    KVF_UNROLL
    for (int i = 0; i < 4; ++i) {
      KVF_UNROLL
      for (int n = 0; n < 4; ++n) {
        s[i][n] = Lane::fma(static_cast<float>(acc[i][n]), step[n % 2], s[i][n]);
      }
    }
  }
  float offsets[2];
  to_result_rows(lane, clamp_huge(over_t(lane, offset, SumOf())), offsets);
  KVF_UNROLL
  for (auto& quad : s) {
    KVF_UNROLL
    for (int n = 0; n < 4; ++n) quad[n] += offsets[n % 2];
  }
}

// Scores to weights against the tile's own maximum.
template <class Lane>
KVF_DEVICE void soften_tile(const Lane& lane, float (&s)[4][4], float (&m)[2], float (&l)[2]) {
  KVF_UNROLL
  for (int r = 0; r < 2; ++r) {
    float top = s[0][r];
    KVF_UNROLL
    for (int i = 0; i < 4; ++i) {
      top = LargerOf()(top, LargerOf()(s[i][r], s[i][2 + r]));
    }
    m[r] = over_g(lane, top, LargerOf());
    float sum = 0.0f;
    KVF_UNROLL
    for (int i = 0; i < 4; ++i) {
      KVF_UNROLL
      for (int h = 0; h < 2; ++h) {
        float& value = s[i][2 * h + r];
        value = Lane::exp2((value - m[r]) * kLog2E);
        sum += value;
      }
    }
    l[r] = over_g(lane, sum, SumOf());
  }
}

// How a tile's weights were rounded, of rows 2 t and 2 t + 1.
template <int kDim>
struct WeightSteps {
  float step[kDim / 64][2], offset[kDim / 64][2];
};

// Weights times V's scales, as bytes in shared memory, for each group of channels.
template <int kDim, class Lane>
KVF_DEVICE void fold_weights(const Lane& lane, const TilePart<kDim>& part, const float (&p)[4][4],
                             std::byte* weights, WeightSteps<kDim>& steps) {
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  KVF_UNROLL
  for (int group = 0; group < kDim / 64; ++group) {
    const int at = 2 * (kTileTokens * group + 8 * g);
    float scale[8], min[8];
    load_bf16(lane, part.v_scale() + at, scale);
    load_bf16(lane, part.v_min() + at, min);
    KVF_UNROLL
    for (int r = 0; r < 2; ++r) {
      float folded[8], largest = 0.0f, offset = 0.0f;
      KVF_UNROLL
      for (int n = 0; n < 8; ++n) {
        const float weight = p[n / 2][2 * (n % 2) + r];
        folded[n] = weight * scale[n];
        largest = folded[n] > largest ? folded[n] : largest;
        offset = Lane::fma(weight, min[n], offset);
      }
      const Rounding rounding = rounding_to(255.0f, over_g(lane, largest, LargerOf()));
      steps.step[group][r] = rounding.step;
      steps.offset[group][r] = clamp_huge(over_g(lane, offset, SumOf()));
      auto* to = reinterpret_cast<std::uint32_t*>(weights + weight_at(group, 2 * t + r, g / 2) +
                                                  8 * (g % 2));
      to[0] = round_to_bytes<Lane>(folded, rounding.inverse, 255.0f);
      to[1] = round_to_bytes<Lane>(folded + 4, rounding.inverse, 255.0f);
    }
  }
  lane.sync_warp();
}

// Attends to the tile and merges it into the state. weights: kWeightBytes of the warp's own.
template <int kDim, class Lane>
KVF_DEVICE void attend_tile(const Lane& lane, const TilePart<kDim>& part,
                            const float (&q)[kDim / 64][16], std::byte* weights,
                            WarpState<kDim>& state) {
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  float p[4][4], m[2], l[2], before[2], now[2];
  score_tile(lane, part, q, p);
  soften_tile(lane, p, m, l);
  WeightSteps<kDim> steps;
  fold_weights(lane, part, p, weights, steps);
  KVF_UNROLL
  for (int r = 0; r < 2; ++r) {
    const float top = LargerOf()(state.m[r], m[r]);
    before[r] = Lane::exp2((state.m[r] - top) * kLog2E);
    now[r] = Lane::exp2((m[r] - top) * kLog2E);
    state.m[r] = top;
    state.l[r] = Lane::fma(state.l[r], before[r], l[r] * now[r]);
  }
  KVF_UNROLL
  for (int group = 0; group < kDim / 64; ++group) {
    const Words operands = lane.load16(weights + weight_at(group, g, t));
    std::int32_t acc[4][4] = {};
    add_dots<DotKind::kUnsignedUnsigned>(lane, part.v_bits, part.v_codes(), 4 * kDim, 0, 16 * group,
                                         operands.w, acc);
    KVF_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float step = steps.step[group][r] * now[r];
      const float offset = steps.offset[group][r] * now[r];
      KVF_UNROLL
      for (int i = 0; i < 4; ++i) {
        KVF_UNROLL
        for (int h = 0; h < 2; ++h) {
          float& o = state.o[group][i][2 * h + r];
          o = Lane::fma(static_cast<float>(acc[i][2 * h + r]), step,
                        Lane::fma(o, before[r], offset));
        }
      }
    }
  }
  lane.sync_warp();  // before the next tile's weights
}

}  // namespace kvferry::cuda
