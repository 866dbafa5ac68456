// Bytes of bf16 rows against their definitions, value by value, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/byte_kernels.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

// All finite bf16 values.
std::vector<std::uint16_t> every_value() {
  std::vector<std::uint16_t> values;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7f80u) != 0x7f80u) values.push_back(static_cast<std::uint16_t>(bits));
  }
  return values;
}

// What an fp8 code means, by the definition of the format.
double meaning(Fp8 format, std::uint8_t code) {
  const Fp8Shape shape = fp8_shape(format);
  const int exponent = (code & 0x7f) >> shape.mantissa_bits;
  const int mantissa = code & ((1 << shape.mantissa_bits) - 1);
  const double fraction = std::ldexp(mantissa, -static_cast<int>(shape.mantissa_bits));
  const double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - shape.bias)
                                         : std::ldexp(1.0 + fraction, exponent - shape.bias);
  return code < 0x80 ? magnitude : -magnitude;
}

// The nearest code of a magnitude, the even one of two; by search upwards.
std::uint8_t nearest(const std::vector<double>& meanings, double magnitude) {
  std::uint8_t code = 0;
  while (code + 1u < meanings.size()) {
    const double below = magnitude - meanings[code];
    const double above = meanings[code + 1u] - magnitude;
    if (below < above || (below == above && code % 2 == 0)) break;
    ++code;
  }
  return code;
}

class Bytes : public ::testing::TestWithParam<Isa> {
 protected:
  const ByteKernels& table() const { return byte_kernels(GetParam()); }
};

TEST_P(Bytes, LargestFp8) {
  EXPECT_EQ(meaning(Fp8::kE4m3, fp8_shape(Fp8::kE4m3).largest), 448.0);
  EXPECT_EQ(meaning(Fp8::kE5m2, fp8_shape(Fp8::kE5m2).largest), 57344.0);
}

TEST_P(Bytes, EveryValueToItsNearestFp8) {
  const auto values = every_value();
  std::vector<std::uint8_t> codes(values.size());
  for (const Fp8 format : {Fp8::kE4m3, Fp8::kE5m2}) {
    std::vector<double> meanings;
    for (std::uint8_t code = 0; code <= fp8_shape(format).largest; ++code) {
      meanings.push_back(meaning(format, code));
    }
    for (const float scale : {1.0f, 0x1p7f}) {
      table().to_fp8(format, values.data(), values.size(), scale, codes.data());
      for (std::size_t i = 0; i < values.size(); ++i) {
        const double y = double{f32_from_bf16(values[i])} / double{scale};
        const std::uint8_t sign = std::signbit(y) ? 0x80 : 0;
        ASSERT_EQ(codes[i], nearest(meanings, std::fabs(y)) | sign) << y;
      }
    }
  }
}

TEST_P(Bytes, EveryFp8IsItsValue) {
  for (const Fp8 format : {Fp8::kE4m3, Fp8::kE5m2}) {
    std::vector<std::uint8_t> codes;
    for (int code = 0; code < 0x100; ++code) {
      if ((code & 0x7f) <= fp8_shape(format).largest) {
        codes.push_back(static_cast<std::uint8_t>(code));
      }
    }
    std::vector<std::uint16_t> values(codes.size());
    for (const float scale : {1.0f, 0x1p-110f, 0x1p104f}) {
      table().from_fp8(format, codes.data(), codes.size(), scale, values.data());
      for (std::size_t i = 0; i < codes.size(); ++i) {
        const float value = f32_from_bf16(values[i]);
        ASSERT_EQ(value, meaning(format, codes[i]) * double{scale});
        ASSERT_EQ(std::signbit(value), codes[i] >= 0x80);
      }
    }
    table().from_fp8(format, codes.data(), codes.size(), 0x1p126f, values.data());
    for (const std::uint16_t value : values) ASSERT_LE(value & 0x7fff, 0x7f7f);
  }
}

TEST_P(Bytes, Int8) {
  const auto values = every_value();
  for (const float largest : {1.0f, 3.25f, 0x1.fep127f, 0x1p-120f}) {
    const float scale = largest / 127.0f * 1.01f;
    std::vector<std::uint16_t> inside;
    for (const std::uint16_t value : values) {
      if (std::fabs(f32_from_bf16(value)) <= largest) inside.push_back(value);
    }
    std::vector<std::int8_t> codes(inside.size());
    std::vector<std::uint16_t> back(inside.size());
    table().to_int8(inside.data(), inside.size(), scale, codes.data());
    table().from_int8(codes.data(), codes.size(), scale, back.data());
    for (std::size_t i = 0; i < inside.size(); ++i) {
      ASSERT_EQ(codes[i], std::nearbyint(f32_from_bf16(inside[i]) / scale));
      const std::uint16_t want = bf16_from_f32(static_cast<float>(codes[i]) * scale);
      ASSERT_EQ(back[i], (want & 0x7fff) == 0x7f80 ? want - 1 : want);
    }
    EXPECT_EQ(codes[0], 0);
  }
  const std::int8_t most = 127;
  std::uint16_t value = 0;
  table().from_int8(&most, 1, 0x1.04p121f, &value);
  EXPECT_EQ(value, 0x7f7f);  // not infinity
}

TEST_P(Bytes, FiniteBf16) {
  for (const float x : {0.0f, -0.0f, 1.00390625f, -1.01171875f, 0x1p-140f, 0x1.fep127f,
                        -0x1.ffp127f, std::numeric_limits<float>::max()}) {
    std::uint16_t value = 0;
    table().to_finite_bf16(&x, 1, &value);
    const std::uint16_t want = bf16_from_f32(x);
    EXPECT_EQ(value, (want & 0x7fff) == 0x7f80 ? want - 1 : want) << x;
  }
}

TEST_P(Bytes, MaxMagnitude) {
  std::vector<std::uint16_t> x(100, 0x8000);
  EXPECT_EQ(table().max_magnitude(x.data(), x.size()), 0);
  EXPECT_EQ(table().max_magnitude(x.data(), 0), 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x.assign(x.size(), 0x3f80);
    x[i] = 0xc001;
    ASSERT_EQ(table().max_magnitude(x.data(), x.size()), 0x4001);
  }
}

TEST_P(Bytes, PackedCodes) {
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    std::vector<std::uint8_t> codes(136);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<std::uint8_t>((i * 2654435761u >> 7) & ((1u << bits) - 1));
    }
    std::vector<std::byte> packed(codes.size() / 8 * bits);
    table().pack_codes(codes.data(), codes.size(), bits, packed.data());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      for (std::uint32_t b = 0; b < bits; ++b) {
        const std::size_t at = i / 8 * 8 * bits + i % 8 * bits + b;
        ASSERT_EQ(std::to_integer<int>(packed[at / 8]) >> (at % 8) & 1, codes[i] >> b & 1);
      }
    }
    std::vector<std::uint8_t> back(codes.size());
    table().unpack_codes(packed.data(), codes.size(), bits, back.data());
    EXPECT_EQ(back, codes);
  }
}

TEST_P(Bytes, ValuesOfCodes) {
  std::vector<std::uint8_t> codes(256);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i);
  std::vector<std::uint16_t> values(codes.size());
  for (const float scale : {0x1.04p-3f, 0x1p-126f, 0x1.fep120f}) {
    for (const float min : {0.0f, -3.0f, 0x1.fep127f, -0x1.fep127f}) {
      table().from_codes(codes.data(), codes.size(), scale, min, values.data());
      for (std::size_t i = 0; i < codes.size(); ++i) {
        const float value = std::fma(scale, static_cast<float>(codes[i]), min);
        const std::uint16_t want = bf16_from_f32(value);
        ASSERT_EQ(values[i], want == 0x7f80 ? 0x7f7f : want) << value;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, Bytes, ::testing::ValuesIn(available_isas()),
                         [](const auto& of) { return std::string(isa_name(of.param)); });

}  // namespace
}  // namespace kvferry::kernels
