// Kernels that turn rows of bf16 values into bytes and back: 8-bit floats, 8-bit integers, and
// integer codes of 1 to 8 bits one behind the other. docs/codecs.md has the codecs made of them.
//
// Thread contract: pure functions. Outputs are equal on every instruction set: each element is a
// fixed sequence of IEEE f32 operations to nearest even. Values read are finite; values written are
// finite too: what is beyond the largest bf16 becomes that. Pointers need the alignment of their
// element type only, and no kernel allocates, throws, or reads outside the shapes it is given.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"

namespace kvferry::kernels {

// 8-bit floats of the Open Compute Project: a sign, exponent and mantissa bits.
enum class Fp8 : std::uint8_t {
  kE4m3,  // bias 7, up to 448; 0x7f is NaN, no infinity; steps of 2^-9 below 2^-6
  kE5m2,  // bias 15, up to 57344; 0x7c is infinity, above it NaN; steps of 2^-16 below 2^-14
};
struct Fp8Shape {
  std::uint32_t mantissa_bits;
  std::int32_t bias;
  std::uint8_t largest;  // code of the largest finite magnitude
};
inline constexpr Fp8Shape fp8_shape(Fp8 format) {
  return format == Fp8::kE4m3 ? Fp8Shape{3, 7, 0x7e} : Fp8Shape{2, 15, 0x7b};
}

struct ByteKernels {
  // Finite f32 to bf16, to nearest even.
  void (*to_finite_bf16)(const float* x, std::size_t n, std::uint16_t* out);

  // The greatest magnitude of n bf16 values, as bf16 without its sign; 0 of none.
  std::uint16_t (*max_magnitude)(const std::uint16_t* x, std::size_t n);

  // out[i] = x[i] / scale, rounded to nearest even; saturates. scale: a power of two, 2^-126 to
  // 2^126, by which all x may be divided in f32.
  void (*to_fp8)(Fp8 format, const std::uint16_t* x, std::size_t n, float scale, std::uint8_t* out);
  // out[i] = codes[i] * scale as bf16, which is exact where it is a normal number. codes: none
  // above fp8_shape().largest but for the sign.
  void (*from_fp8)(Fp8 format, const std::uint8_t* codes, std::size_t n, float scale,
                   std::uint16_t* out);

  // out[i] = x[i] / scale rounded to nearest even. scale: at least the largest magnitude / 127.
  void (*to_int8)(const std::uint16_t* x, std::size_t n, float scale, std::int8_t* out);
  // out[i] = codes[i] * scale, rounded to bf16.
  void (*from_int8)(const std::int8_t* codes, std::size_t n, float scale, std::uint16_t* out);

  // n codes below 2^bits (1 to 8), n a multiple of 8, in n / 8 * bits bytes: bits i * bits and up
  // of each `bits` bytes, little-endian, are code i of 8.
  void (*pack_codes)(const std::uint8_t* codes, std::size_t n, std::uint32_t bits, std::byte* out);
  void (*unpack_codes)(const std::byte* packed, std::size_t n, std::uint32_t bits,
                       std::uint8_t* codes);
  // out[i] = scale * codes[i] + min in one rounding to f32, then rounded to bf16. scale: positive.
  void (*from_codes)(const std::uint8_t* codes, std::size_t n, float scale, float min,
                     std::uint16_t* out);
};

// The table of one instruction set (which the CPU must have), and the active one.
const ByteKernels& byte_kernels(Isa isa);
const ByteKernels& byte_kernels();

}  // namespace kvferry::kernels
