// Rows of bf16 to bytes and back. Included only by byte_<isa>.cpp: plain loops without a sum or a
// fused operation, which the compiler turns into vectors of each instruction set.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/byte_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kSign = 0x80000000u;
constexpr std::uint32_t kF32Mantissa = 23, kF32Bias = 127;
// Added to a value of magnitude below 2^22 and taken off again, it leaves the nearest integer.
constexpr float kRound = 0x1.8p23f;

inline float float_of_bf16(std::uint16_t x) { return std::bit_cast<float>(std::uint32_t{x} << 16); }

// To nearest even; what is beyond the largest bf16, infinity too, becomes that.
inline std::uint16_t finite_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & ~kSign;
  const std::uint32_t rounded = (magnitude + 0x7fffu + ((magnitude >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>(std::min(rounded, 0x7f7fu) | (bits & kSign) >> 16);
}

std::uint16_t max_magnitude(const std::uint16_t* x, std::size_t n) {
  std::uint16_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    largest = std::max(largest, static_cast<std::uint16_t>(x[i] & 0x7fffu));
  }
  return largest;
}

// Both ranges of an fp8 number are reckoned in f32 and one is chosen, so that nothing branches.
template <Fp8 kFormat>
struct Fp8Numbers {
  static constexpr Fp8Shape kShape = fp8_shape(kFormat);
  static constexpr std::uint32_t kShift = kF32Mantissa - kShape.mantissa_bits;
  static constexpr std::uint32_t kRebias = (kF32Bias - kShape.bias) << kF32Mantissa;
  static constexpr std::uint32_t kOneExponent = 1u << kF32Mantissa;
  // The least normal number, and what has steps of the subnormal ones.
  static constexpr float kLeastNormal =
      std::bit_cast<float>((kF32Bias - kShape.bias + 1) << kF32Mantissa);
  static constexpr float kSteps =
      std::bit_cast<float>((kF32Bias - kShape.bias + 1 + kShift) << kF32Mantissa);
  static constexpr float kLargest =
      std::bit_cast<float>((std::uint32_t{kShape.largest} << kShift) + kRebias);

  static std::uint8_t encode(float y) {
    const auto bits = std::bit_cast<std::uint32_t>(y);
    const float magnitude = std::min(std::bit_cast<float>(bits & ~kSign), kLargest);
    const auto whole = std::bit_cast<std::uint32_t>(magnitude);
    const std::uint32_t half = (1u << (kShift - 1)) - 1;
    const std::uint32_t normal = (whole - kRebias + half + ((whole >> kShift) & 1u)) >> kShift;
    const std::uint32_t subnormal =
        std::bit_cast<std::uint32_t>(magnitude + kSteps) - std::bit_cast<std::uint32_t>(kSteps);
    const std::uint32_t code = magnitude < kLeastNormal ? subnormal : normal;
    return static_cast<std::uint8_t>(code | (bits & kSign) >> 24);
  }
  static float decode(std::uint8_t code) {
    const std::uint32_t mantissa = (code & 0x7fu) << kShift;
    const auto normal = std::bit_cast<float>(mantissa + kRebias);
    const float subnormal = std::bit_cast<float>(mantissa + kRebias + kOneExponent) - kLeastNormal;
    const float magnitude = mantissa < kOneExponent ? subnormal : normal;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | (code & 0x80u) << 24);
  }
};

template <Fp8 kFormat>
void encode_fp8(const std::uint16_t* x, std::size_t n, float inverse, std::uint8_t* out) {
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = Fp8Numbers<kFormat>::encode(float_of_bf16(x[i]) * inverse);
  }
}
template <Fp8 kFormat>
void decode_fp8(const std::uint8_t* codes, std::size_t n, float scale, std::uint16_t* out) {
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = finite_bf16(Fp8Numbers<kFormat>::decode(codes[i]) * scale);
  }
}

void to_fp8(Fp8 format, const std::uint16_t* x, std::size_t n, float scale, std::uint8_t* out) {
  if (format == Fp8::kE4m3) {
    encode_fp8<Fp8::kE4m3>(x, n, 1.0f / scale, out);
  } else {
    encode_fp8<Fp8::kE5m2>(x, n, 1.0f / scale, out);
  }
}
void from_fp8(Fp8 format, const std::uint8_t* codes, std::size_t n, float scale,
              std::uint16_t* out) {
  if (format == Fp8::kE4m3) {
    decode_fp8<Fp8::kE4m3>(codes, n, scale, out);
  } else {
    decode_fp8<Fp8::kE5m2>(codes, n, scale, out);
  }
}

void to_int8(const std::uint16_t* x, std::size_t n, float scale, std::int8_t* out) {
  for (std::size_t i = 0; i < n; ++i) {
    const float rounded = float_of_bf16(x[i]) / scale + kRound;
    out[i] = static_cast<std::int8_t>(std::bit_cast<std::int32_t>(rounded) -
                                      std::bit_cast<std::int32_t>(kRound));
  }
}
void from_int8(const std::int8_t* codes, std::size_t n, float scale, std::uint16_t* out) {
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = finite_bf16(static_cast<float>(codes[i]) * scale);
  }
}

// The `bits` bytes of 8 codes as one little-endian number, and the codes one a byte: what the
// instructions pdep and pext do where a set has them.
inline std::uint64_t spread(std::uint64_t packed, std::uint32_t bits) {
#ifdef __BMI2__
  return __builtin_ia32_pdep_di(packed, 0x0101010101010101u * ((1u << bits) - 1u));
#else
  std::uint64_t codes = 0;
  for (std::uint32_t j = 0; j < 8; ++j) {
    codes |= (packed >> (j * bits) & ((1u << bits) - 1u)) << (8 * j);
  }
  return codes;
#endif
}
inline std::uint64_t squeezed(std::uint64_t codes, std::uint32_t bits) {
#ifdef __BMI2__
  return __builtin_ia32_pext_di(codes, 0x0101010101010101u * ((1u << bits) - 1u));
#else
  std::uint64_t packed = 0;
  for (std::uint32_t j = 0; j < 8; ++j) packed |= (codes >> (8 * j) & 0xffu) << (j * bits);
  return packed;
#endif
}

template <std::uint32_t kBits>
void pack_rows(const std::uint8_t* codes, std::size_t n, std::byte* out) {
  for (std::size_t i = 0; i < n; i += 8, out += kBits) {
    std::uint64_t eight;
    std::memcpy(&eight, codes + i, sizeof(eight));
    const std::uint64_t packed = squeezed(eight, kBits);
    std::memcpy(out, &packed, kBits);
  }
}
template <std::uint32_t kBits>
void unpack_rows(const std::byte* packed, std::size_t n, std::uint8_t* codes) {
  for (std::size_t i = 0; i < n; i += 8, packed += kBits) {
    std::uint64_t word = 0;
    std::memcpy(&word, packed, kBits);
    const std::uint64_t eight = spread(word, kBits);
    std::memcpy(codes + i, &eight, sizeof(eight));
  }
}

void pack_codes(const std::uint8_t* codes, std::size_t n, std::uint32_t bits, std::byte* out) {
  constexpr decltype(&pack_rows<1>) kOfBits[] = {pack_rows<1>, pack_rows<2>, pack_rows<3>,
                                                 pack_rows<4>, pack_rows<5>, pack_rows<6>,
                                                 pack_rows<7>, pack_rows<8>};
  kOfBits[bits - 1](codes, n, out);
}
void unpack_codes(const std::byte* packed, std::size_t n, std::uint32_t bits, std::uint8_t* codes) {
  constexpr decltype(&unpack_rows<1>) kOfBits[] = {unpack_rows<1>, unpack_rows<2>, unpack_rows<3>,
                                                   unpack_rows<4>, unpack_rows<5>, unpack_rows<6>,
                                                   unpack_rows<7>, unpack_rows<8>};
  kOfBits[bits - 1](packed, n, codes);
}

void to_finite_bf16(const float* x, std::size_t n, std::uint16_t* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = finite_bf16(x[i]);
}

// In halves, since scale * code alone may leave f32. The product has 16 bits, so it is exact, and
// the sum is the one rounding.
void from_codes(const std::uint8_t* codes, std::size_t n, float scale, float min,
                std::uint16_t* out) {
  const float half_scale = 0.5f * scale, half_min = 0.5f * min;
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = finite_bf16((half_scale * static_cast<float>(codes[i]) + half_min) * 2.0f);
  }
}

constexpr ByteKernels kTable = {
    .to_finite_bf16 = to_finite_bf16,
    .max_magnitude = max_magnitude,
    .to_fp8 = to_fp8,
    .from_fp8 = from_fp8,
    .to_int8 = to_int8,
    .from_int8 = from_int8,
    .pack_codes = pack_codes,
    .unpack_codes = unpack_codes,
    .from_codes = from_codes,
};

}  // namespace
}  // namespace kvferry::kernels
