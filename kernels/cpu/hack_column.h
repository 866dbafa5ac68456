// How one column is quantized: the sequence of IEEE f32 operations that defines the encoded bytes
// (docs/codecs.md, "Quantizing"). The scalar kernels run it, and so do those of kernels/cuda, whose
// compiler must not fuse operations either (-fmad=false).
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/hack_encode_common.h"

#if defined(__CUDACC__)
#define KVF_ANYWHERE __host__ __device__ __forceinline__
#define KVF_ALL_OF _Pragma("unroll")  // columns lie in registers
#else
#define KVF_ANYWHERE inline
#define KVF_ALL_OF
#endif

namespace kvferry::kernels::hack_column {

KVF_ANYWHERE std::uint32_t f32_bits(float v) {
  std::uint32_t bits;
  memcpy(&bits, &v, sizeof(bits));
  return bits;
}
KVF_ANYWHERE float f32_of_bits(std::uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof(v));
  return v;
}

// As MINPS and MAXPS: the second operand when both are equal, which decides the sign of a zero.
KVF_ANYWHERE float min_of(float a, float b) { return a < b ? a : b; }
KVF_ANYWHERE float max_of(float a, float b) { return a > b ? a : b; }

KVF_ANYWHERE float widen(std::uint16_t v) { return f32_of_bits(std::uint32_t{v} << 16); }

// f32 to the upper half of its bits. The values given never round to infinity.
KVF_ANYWHERE std::uint16_t round_down(float v) {
  const auto u = f32_bits(v);
  const std::uint32_t away = (u >> 31) != 0 ? 0xffffu : 0u;  // a negative value grows in magnitude
  return static_cast<std::uint16_t>((u + away) >> 16);
}
KVF_ANYWHERE std::uint16_t round_up_positive(float v) {
  return static_cast<std::uint16_t>((f32_bits(v) + 0xffffu) >> 16);
}
KVF_ANYWHERE std::uint16_t round_nearest(float v) {
  const auto u = f32_bits(v);
  return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

struct Range {
  float scale, min;
};

// The code of a halved value, before rounding: halves, because max - min may overflow. xh and mh
// are half of the value and of the minimum, inv is 2 / scale.
KVF_ANYWHERE float position(float xh, float mh, float inv) { return (xh - mh) * inv; }

// To the nearest integer, ties to even, for |v| < 2^22: beyond 2^23 f32 has no fraction bits.
KVF_ANYWHERE float nearest_integer(float v) { return (v + 0x1.8p23f) - 0x1.8p23f; }

KVF_ANYWHERE float nearest_code(float position, float levels) {
  return nearest_integer(min_of(max_of(position, 0.0f), levels));
}

KVF_ANYWHERE float within(float v, float least, float greatest) {
  return min_of(max_of(v, least), greatest);
}

// The halved values of a column, and what is known of them.
template <int kRows>
struct Column {
  float xh[kRows];
  float levels;  // the largest code
  float min;     // rounded down to bf16
  float half;    // of the range
};

// kHackShrink, which device code cannot index.
constexpr KVF_ANYWHERE float shrink(int index) {
  return 1.0f - 0.0625f * static_cast<float>(index);
}
static_assert(shrink(0) == kHackShrink[0] && shrink(1) == kHackShrink[1] &&
              shrink(kHackShrinks - 1) == kHackShrink[kHackShrinks - 1]);

// The range shrunk by the factor at `index`; index 0 leaves it whole, rounded outwards.
template <int kRows>
KVF_ANYWHERE Range shrunk_range(const Column<kRows>& column, int index) {
  const float f = shrink(index);
  const float scale =
      within(((column.half * f) / column.levels) * 2.0f, kHackMinScale, kHackMaxScale);
  if (index == 0) return {widen(round_up_positive(scale)), column.min};
  return {widen(round_nearest(scale)), widen(round_nearest(column.min + column.half * (1.0f - f)))};
}

// Sums over a column of its codes c and what is left of its positions t: e = t - c.
struct Sums {
  float ee = 0.0f, e = 0.0f, c = 0.0f, ec = 0.0f, cc = 0.0f;
};

template <int kRows>
KVF_ANYWHERE Sums sums_of(const Column<kRows>& column, Range range) {
  const float mh = range.min * 0.5f;
  const float inv = 2.0f / range.scale;
  Sums sums;
  KVF_ALL_OF
  for (int r = 0; r < kRows; ++r) {
    const float t = position(column.xh[r], mh, inv);
    const float c = nearest_code(t, column.levels);
    const float e = t - c;
    sums.ee = sums.ee + e * e;
    sums.e = sums.e + e;
    sums.c = sums.c + c;
    sums.ec = sums.ec + e * c;
    sums.cc = sums.cc + c * c;
  }
  return sums;
}

// What a range with its error in units of whole_scale.
struct Choice {
  Range range;
  Sums sums;
  float error;
};

template <int kRows>
KVF_ANYWHERE Choice judge(const Column<kRows>& column, Range range, float whole_scale) {
  const Sums sums = sums_of(column, range);
  const float ratio = range.scale / whole_scale;
  return {range, sums, sums.ee * (ratio * ratio)};
}

// The range that fits the codes of `range` best, by least squares of e on c: the scale grows by the
// slope; the minimum is taken against the scale as it was rounded.
KVF_ANYWHERE Range fitted_range(Range range, const Sums& sums, float rows) {
  const float spread = rows * sums.cc - sums.c * sums.c;
  const float slope = spread > 0.0f ? (rows * sums.ec - sums.e * sums.c) / spread : 0.0f;
  const float scale =
      widen(round_nearest(within(range.scale + range.scale * slope, kHackMinScale, kHackMaxScale)));
  const float growth = (scale - range.scale) / range.scale;
  const float shift = (sums.e - growth * sums.c) / rows;
  const float min = within(range.min + range.scale * shift, -kHackMaxScale, kHackMaxScale);
  return {scale, widen(round_nearest(min))};
}

template <int kRows>
KVF_ANYWHERE Range choose_range(const Column<kRows>& column, HackRange kind) {
  const Range whole = shrunk_range(column, 0);
  if (kind == HackRange::kMinMax) return whole;
  Choice best = judge(column, whole, whole.scale);
  for (int i = 1; i < kHackShrinks; ++i) {
    const Choice choice = judge(column, shrunk_range(column, i), whole.scale);
    if (choice.error < best.error) best = choice;
  }
  for (int i = 0; kind == HackRange::kLeastSquares && i < kHackFits; ++i) {
    const Range fitted = fitted_range(best.range, best.sums, static_cast<float>(kRows));
    const Choice choice = judge(column, fitted, whole.scale);
    if (choice.error < best.error) best = choice;
  }
  return best.range;
}

// The code of the column's value at `row` in the range chosen for it.
template <int kRows>
KVF_ANYWHERE std::uint8_t code_of(const Column<kRows>& column, Range range, int row) {
  const float t = position(column.xh[row], range.min * 0.5f, 2.0f / range.scale);
  return static_cast<std::uint8_t>(nearest_code(t, column.levels));
}

// The column of the values that value_of(row) gives, f32, finite.
template <int kRows, class ValueOf>
KVF_ANYWHERE Column<kRows> make_column(std::uint32_t bits, ValueOf value_of) {
  Column<kRows> column;
  column.levels = static_cast<float>((1u << bits) - 1u);
  float lo = 0.0f, hi = 0.0f;
  KVF_ALL_OF
  for (int r = 0; r < kRows; ++r) {
    const float v = value_of(r);
    lo = r == 0 ? v : min_of(lo, v);
    hi = r == 0 ? v : max_of(hi, v);
    column.xh[r] = v * 0.5f;
  }
  column.min = widen(round_down(lo));
  column.half = hi * 0.5f - column.min * 0.5f;
  return column;
}

// A scale or minimum that was chosen, as it is stored.
KVF_ANYWHERE std::uint16_t stored(float v) { return static_cast<std::uint16_t>(f32_bits(v) >> 16); }

}  // namespace kvferry::kernels::hack_column
