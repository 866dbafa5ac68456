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

const HackEncodeKernels kHackEncodeScalar = {first_not_finite, widen_block, transpose_block,
                                             quantize_block, pack_block};

}  // namespace kvferry::kernels
