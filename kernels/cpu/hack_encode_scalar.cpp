// The scalar encoding kernels of hack. Their order of operations is the definition of the encoded
// bytes (docs/codecs.md).
#include <bit>

#include "kernels/cpu/hack_encode_common.h"

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kBlock = kHackBlock;

// As MINPS and MAXPS: the second operand when both are equal, which decides the sign of a zero.
float min_of(float a, float b) { return a < b ? a : b; }
float max_of(float a, float b) { return a > b ? a : b; }

float widen(std::uint16_t v) { return std::bit_cast<float>(std::uint32_t{v} << 16); }

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

float within(float v, float least, float greatest) { return min_of(max_of(v, least), greatest); }

// The halved values of a column, and what is known of them.
struct Column {
  float xh[kHackMaxRows];
  std::uint32_t rows;
  float levels;  // the largest code
  float min;     // rounded down to bf16
  float half;    // of the range
};

// The range shrunk by the factor at `index`; index 0 leaves it whole, rounded outwards.
Range shrunk_range(const Column& column, int index) {
  const float f = kHackShrink[index];
  const float scale =
      within(((column.half * f) / column.levels) * 2.0f, kHackMinScale, kHackMaxScale);
  if (index == 0) return {widen(round_up_positive(scale)), column.min};
  return {widen(round_nearest(scale)), widen(round_nearest(column.min + column.half * (1.0f - f)))};
}

// Sums over a column of its codes c and what is left of its positions t: e = t - c.
struct Sums {
  float ee = 0.0f, e = 0.0f, c = 0.0f, ec = 0.0f, cc = 0.0f;
};

Sums sums_of(const Column& column, Range range) {
  const float mh = range.min * 0.5f;
  const float inv = 2.0f / range.scale;
  Sums sums;
  for (std::uint32_t r = 0; r < column.rows; ++r) {
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

Choice judge(const Column& column, Range range, float whole_scale) {
  const Sums sums = sums_of(column, range);
  const float ratio = range.scale / whole_scale;
  return {range, sums, sums.ee * (ratio * ratio)};
}

// The range that fits the codes of `range` best, by least squares of e on c: the scale grows by the
// slope; the minimum is taken against the scale as it was rounded.
Range fitted_range(Range range, const Sums& sums, float rows) {
  const float spread = rows * sums.cc - sums.c * sums.c;
  const float slope = spread > 0.0f ? (rows * sums.ec - sums.e * sums.c) / spread : 0.0f;
  const float scale =
      widen(round_nearest(within(range.scale + range.scale * slope, kHackMinScale, kHackMaxScale)));
  const float growth = (scale - range.scale) / range.scale;
  const float shift = (sums.e - growth * sums.c) / rows;
  const float min = within(range.min + range.scale * shift, -kHackMaxScale, kHackMaxScale);
  return {scale, widen(round_nearest(min))};
}

Range choose_range(const Column& column, HackRange kind) {
  const Range whole = shrunk_range(column, 0);
  if (kind == HackRange::kMinMax) return whole;
  Choice best = judge(column, whole, whole.scale);
  for (int i = 1; i < kHackShrinks; ++i) {
    const Choice choice = judge(column, shrunk_range(column, i), whole.scale);
    if (choice.error < best.error) best = choice;
  }
  for (int i = 0; kind == HackRange::kLeastSquares && i < kHackFits; ++i) {
    const Range fitted = fitted_range(best.range, best.sums, static_cast<float>(column.rows));
    const Choice choice = judge(column, fitted, whole.scale);
    if (choice.error < best.error) best = choice;
  }
  return best.range;
}

Column read_column(const HackBlock& block, std::uint32_t c, std::uint32_t bits) {
  Column column;
  column.rows = block.rows;
  column.levels = static_cast<float>((1u << bits) - 1u);
  float lo = 0.0f, hi = 0.0f;
  for (std::uint32_t r = 0; r < block.rows; ++r) {
    float v =
        widen(block.transposed ? block.x[c * block.stride + r] : block.x[r * block.stride + c]);
    if (block.row_factor != nullptr) {
      v = within(v * (1.0f / widen(block.row_factor[r])), -kHackMaxScale, kHackMaxScale);
    }
    lo = r == 0 ? v : min_of(lo, v);
    hi = r == 0 ? v : max_of(hi, v);
    column.xh[r] = v * 0.5f;
  }
  column.min = widen(round_down(lo));
  column.half = hi * 0.5f - column.min * 0.5f;
  return column;
}

void quantize_block(const HackBlock& block, std::uint32_t bits, HackRange range,
                    std::uint8_t* codes, std::uint16_t* scale, std::uint16_t* min) {
  for (std::uint32_t c = 0; c < kBlock; ++c) {
    const Column column = read_column(block, c, bits);
    const Range best = choose_range(column, range);
    const float mh = best.min * 0.5f;
    const float inv = 2.0f / best.scale;
    for (std::uint32_t r = 0; r < block.rows; ++r) {
      const float t = position(column.xh[r], mh, inv);
      codes[r * kBlock + c] = static_cast<std::uint8_t>(nearest_code(t, column.levels));
    }
    scale[c] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(best.scale) >> 16);
    min[c] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(best.min) >> 16);
  }
}

void pack_block(const std::uint8_t* codes, std::uint32_t shift, std::uint32_t bits,
                std::size_t lanes, std::byte* out) {
  const std::uint32_t fields = 8 / bits;
  const std::uint32_t mask = (1u << bits) - 1u;
  for (std::uint32_t j = 0; j < 16 / fields; ++j) {
    for (std::uint32_t r = 0; r < kBlock; ++r) {
      std::byte* word = out + 4 * (j * lanes + r);
      for (std::uint32_t b = 0; b < 4; ++b) {
        std::uint32_t packed = 0;
        for (std::uint32_t f = 0; f < fields; ++f) {
          const std::uint32_t code = codes[r * kBlock + 4 * (fields * j + f) + b];
          packed |= (code >> shift & mask) << (f * bits);
        }
        word[b] = static_cast<std::byte>(packed);
      }
    }
  }
}

}  // namespace

const HackEncodeKernels kHackEncodeScalar = {first_not_finite, quantize_block, hack_balance_scalar,
                                             pack_block};

}  // namespace kvferry::kernels
