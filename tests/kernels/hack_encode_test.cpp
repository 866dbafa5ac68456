// Quantizing and packing: equal bytes on every instruction set, nothing clipped by min-max, and the
// layout of hack_kernels.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/dense_kernels.h"
#include "kernels/hack_encode_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr std::size_t kValues = 64 * 64;
constexpr std::uint32_t kAllBits[] = {1, 2, 3, 4, 5, 6, 7, 8};
constexpr HackRange kAllRanges[] = {HackRange::kMinMax, HackRange::kSearch,
                                    HackRange::kLeastSquares};

// bf16 values of many kinds, [rows][64]: one kind a column, so that a block holds all.
std::vector<std::uint16_t> make_block(std::uint32_t seed, std::size_t rows = 64) {
  std::mt19937 random(seed);
  std::vector<std::uint16_t> block(rows * 64);
  const auto any_finite = [&random] {
    std::uint16_t bits = 0;
    do {
      bits = static_cast<std::uint16_t>(random());
    } while ((bits & 0x7f80) == 0x7f80);
    return bits;
  };
  const auto uniform = [&random] { return static_cast<float>(random() % 65536) / 32768.0f - 1.0f; };
  for (std::size_t c = 0; c < 64; ++c) {
    const std::uint16_t constant = any_finite();
    const float offset = uniform() * 100.0f;
    for (std::size_t r = 0; r < rows; ++r) {
      std::uint16_t& value = block[r * 64 + c];
      switch (c % 10) {
        case 0:  // every finite pattern
          value = any_finite();
          break;
        case 1:
          value = constant;
          break;
        case 2:  // zeros of both signs
          value = random() % 2 == 0 ? 0x0000 : 0x8000;
          break;
        case 3:  // subnormals
          value = static_cast<std::uint16_t>(random() % 128 + (random() % 2 << 15));
          break;
        case 4:  // the ends of f32
          value = random() % 2 == 0 ? 0x7f7f : 0xff7f;
          break;
        case 5:  // a bias much larger than the spread
          value = bf16_from_f32(offset + uniform());
          break;
        case 6:  // one outlier
          value = bf16_from_f32(r == 13 ? 1e6f : uniform());
          break;
        case 7:  // two values
          value = bf16_from_f32(random() % 2 == 0 ? 1.5f : -2.0f);
          break;
        default:
          value = bf16_from_f32(uniform() + uniform() + uniform());
      }
    }
  }
  return block;
}

struct Encoded {
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scale = std::vector<std::uint16_t>(64);
  std::vector<std::uint16_t> min = std::vector<std::uint16_t>(64);

  bool operator==(const Encoded&) const = default;
  double value(std::size_t row, std::size_t column) const {
    return double{f32_from_bf16(scale[column])} * codes[row * 64 + column] +
           f32_from_bf16(min[column]);
  }
};

// The block is [rows][64].
Encoded encode(Isa isa, const std::vector<std::uint16_t>& block, std::uint32_t bits,
               HackRange range) {
  const auto rows = static_cast<std::uint32_t>(block.size() / 64);
  Encoded out;
  out.codes.resize(block.size());
  hack_encode_kernels(isa).quantize_block({block.data(), 64, rows, false}, bits, range,
                                          out.codes.data(), out.scale.data(), out.min.data());
  return out;
}

// The same values, turned and with a stride: [64][rows + 3].
Encoded encode_turned(Isa isa, const std::vector<std::uint16_t>& block, std::uint32_t bits,
                      HackRange range) {
  const std::size_t rows = block.size() / 64, stride = rows + 3;
  std::vector<std::uint16_t> turned(63 * stride + rows, 0x7fc0);
  for (std::size_t i = 0; i < block.size(); ++i) turned[i % 64 * stride + i / 64] = block[i];
  Encoded out;
  out.codes.resize(block.size());
  hack_encode_kernels(isa).quantize_block(
      {turned.data(), stride, static_cast<std::uint32_t>(rows), true}, bits, range,
      out.codes.data(), out.scale.data(), out.min.data());
  return out;
}

TEST(HackEncode, EqualBytesOnEveryInstructionSet) {
  for (std::uint32_t seed = 0; seed < 12; ++seed) {
    for (const std::size_t rows : {32u, 64u, 128u}) {
      const std::vector<std::uint16_t> block = make_block(seed, rows);
      for (const std::uint32_t bits : kAllBits) {
        for (const HackRange range : kAllRanges) {
          const Encoded want = encode(Isa::kScalar, block, bits, range);
          for (const Isa isa : available_isas()) {
            SCOPED_TRACE(std::string(isa_name(isa)) + " seed " + std::to_string(seed) + " rows " +
                         std::to_string(rows) + " bits " + std::to_string(bits) + " range " +
                         std::to_string(static_cast<int>(range)));
            ASSERT_TRUE(encode(isa, block, bits, range) == want);
            ASSERT_TRUE(encode_turned(isa, block, bits, range) == want);
          }
        }
      }
    }
  }
}

// No value is clipped: the error is at most half a step, and what the division by the scale and the
// rounding of the scale to f32 add. But for columns of 1 bit that span more than a scale can be.
TEST(HackEncode, MinMaxErrsByHalfAStepAtMost) {
  for (std::uint32_t seed = 100; seed < 110; ++seed) {
    const std::vector<std::uint16_t> block = make_block(seed);
    for (const std::uint32_t bits : kAllBits) {
      const Encoded e = encode(Isa::kScalar, block, bits, HackRange::kMinMax);
      for (std::size_t i = 0; i < kValues; ++i) {
        const double scale = f32_from_bf16(e.scale[i % 64]);
        if (bits == 1 && scale == kHackMaxScale) continue;
        const double value = f32_from_bf16(block[i]);
        ASSERT_LE(std::fabs(e.value(i / 64, i % 64) - value), scale * (0.5 + 1e-4))
            << "bits " << bits << " value " << value << " column " << i % 64;
      }
    }
  }
}

TEST(HackEncode, ScalesArePositiveNormalAndMinimaFinite) {
  for (std::uint32_t seed = 200; seed < 210; ++seed) {
    for (const std::uint32_t bits : kAllBits) {
      for (const HackRange range : kAllRanges) {
        const Encoded e = encode(Isa::kScalar, make_block(seed), bits, range);
        for (std::size_t c = 0; c < 64; ++c) {
          ASSERT_GE(f32_from_bf16(e.scale[c]), kHackMinScale);
          ASSERT_TRUE(std::isfinite(f32_from_bf16(e.scale[c])));
          ASSERT_TRUE(std::isfinite(f32_from_bf16(e.min[c])));
        }
      }
    }
  }
}

// Columns of one value come back exactly.
TEST(HackEncode, ConstantColumnsAreExact) {
  for (const std::uint16_t value : {0x0000, 0x8000, 0x3f80, 0xc2c8, 0x0001, 0x7f7f, 0xff7f}) {
    const std::vector<std::uint16_t> block(kValues, value);
    for (const HackRange range : kAllRanges) {
      const Encoded e = encode(Isa::kScalar, block, 2, range);
      EXPECT_EQ(e.min, std::vector<std::uint16_t>(64, value));
      EXPECT_EQ(e.codes, std::vector<std::uint8_t>(kValues, 0));
    }
  }
}

double squared_error(const Encoded& e, const std::vector<std::uint16_t>& block, std::size_t c) {
  double sum = 0.0;
  for (std::size_t r = 0; r < block.size() / 64; ++r) {
    sum += std::pow(e.value(r, c) - double{f32_from_bf16(block[r * 64 + c])}, 2.0);
  }
  return sum;
}

// Search never errs more than min-max does, nor least squares more than search.
TEST(HackEncode, EachRangeIsNoWorseThanTheOneBefore) {
  for (std::uint32_t seed = 300; seed < 305; ++seed) {
    for (const std::size_t rows : {32u, 64u, 128u}) {
      const std::vector<std::uint16_t> block = make_block(seed, rows);
      for (const std::uint32_t bits : kAllBits) {
        const Encoded whole = encode(Isa::kScalar, block, bits, HackRange::kMinMax);
        const Encoded search = encode(Isa::kScalar, block, bits, HackRange::kSearch);
        const Encoded fitted = encode(Isa::kScalar, block, bits, HackRange::kLeastSquares);
        for (std::size_t c = 0; c < 64; ++c) {
          const double error = squared_error(search, block, c);
          ASSERT_LE(error, squared_error(whole, block, c) * (1.0 + 1e-4)) << "column " << c;
          ASSERT_LE(squared_error(fitted, block, c), error * (1.0 + 1e-4)) << "column " << c;
        }
      }
    }
  }
}

// Two clusters that min-max and search place between codes: the fit finds them.
TEST(HackEncode, LeastSquaresFindsTheLevels) {
  std::vector<std::uint16_t> block(kValues);
  const float levels[] = {-1.0f, -0.75f, 2.0f};  // at 1.5 bits, so to say
  for (std::size_t i = 0; i < kValues; ++i) block[i] = bf16_from_f32(levels[i / 64 % 3]);
  const Encoded search = encode(Isa::kScalar, block, 1, HackRange::kSearch);
  const Encoded fitted = encode(Isa::kScalar, block, 1, HackRange::kLeastSquares);
  // Codes 0 for the two low levels, whose mean is -0.875, and 1 for 2.
  EXPECT_NEAR(f32_from_bf16(fitted.min[0]), -0.875f, 0.004f);
  EXPECT_NEAR(f32_from_bf16(fitted.scale[0]), 2.875f, 0.008f);
  EXPECT_LT(squared_error(fitted, block, 0), 0.9 * squared_error(search, block, 0));
}

// Ties of the position between two codes go to the even one.
TEST(HackEncode, TiesGoToTheEvenCode) {
  std::vector<std::uint16_t> block(kValues, bf16_from_f32(0.0f));
  for (std::size_t c = 0; c < 64; ++c) {
    block[c] = bf16_from_f32(3.0f);  // scale 1 at 2 bits
    block[64 + c] = bf16_from_f32(0.5f);
    block[128 + c] = bf16_from_f32(1.5f);
    block[192 + c] = bf16_from_f32(2.5f);
  }
  for (const Isa isa : available_isas()) {
    const Encoded e = encode(isa, block, 2, HackRange::kMinMax);
    EXPECT_EQ(e.scale[0], bf16_from_f32(1.0f));
    EXPECT_EQ(e.codes[64], 0);
    EXPECT_EQ(e.codes[128], 2);
    EXPECT_EQ(e.codes[192], 2);
  }
}

// A tile of every kind of value, [tokens][dim].
std::vector<std::uint16_t> make_tile(std::uint32_t seed, std::size_t tokens, std::size_t dim) {
  std::vector<std::uint16_t> tile(tokens * dim);
  for (std::size_t first = 0; first < dim; first += 64) {
    const auto block = make_block(seed + static_cast<std::uint32_t>(first), tokens);
    for (std::size_t i = 0; i < block.size(); ++i) {
      tile[i / 64 * dim + first + i % 64] = block[i];
    }
  }
  return tile;
}

struct Factors {
  std::vector<std::uint16_t> token, channel;
  bool operator==(const Factors&) const = default;
};

Factors balance(Isa isa, const std::vector<std::uint16_t>& tile, std::size_t dim) {
  const std::size_t tokens = tile.size() / dim;
  Factors out{std::vector<std::uint16_t>(tokens), std::vector<std::uint16_t>(dim)};
  hack_encode_kernels(isa).balance(tile.data(), static_cast<std::uint32_t>(tokens),
                                   static_cast<std::uint32_t>(dim), out.token.data(),
                                   out.channel.data());
  return out;
}

TEST(HackBalance, EqualBytesOnEveryInstructionSet) {
  for (std::uint32_t seed = 0; seed < 5; ++seed) {
    for (const std::size_t tokens : {64u, 128u}) {
      for (const std::size_t dim : {64u, 128u, 256u}) {
        auto tile = make_tile(seed, tokens, dim);
        if (seed == 0) std::fill(tile.begin(), tile.end(), 0);
        if (seed == 1) tile = make_tile(7, tokens, dim);
        if (seed == 2) {  // without the extremes, so that the rest has a say
          for (std::uint16_t& v : tile) v = (v & 0x7fff) > 0x4680 || (v & 0x7fff) < 0x3880 ? 0 : v;
        }
        const Factors want = balance(Isa::kScalar, tile, dim);
        for (const auto* factors : {&want.token, &want.channel}) {
          for (const std::uint16_t factor : *factors) {
            ASSERT_GE(f32_from_bf16(factor), kHackMinFactor);
            ASSERT_LE(f32_from_bf16(factor), kHackMaxFactor);
          }
        }
        for (const Isa isa : available_isas()) {
          SCOPED_TRACE(std::string(isa_name(isa)) + " seed " + std::to_string(seed));
          ASSERT_TRUE(balance(isa, tile, dim) == want);
        }
      }
    }
  }
}

// Rows and columns whose deviations are known, apart from one common factor, are found.
TEST(HackBalance, FindsTheDeviations) {
  constexpr std::size_t kTokens = 128, kDim = 256;
  std::mt19937 random(3);
  const auto noise = [&random] { return static_cast<float>(random() % 65536) / 32768.0f - 1.0f; };
  std::vector<std::uint16_t> tile(kTokens * kDim);
  const auto token_of = [](std::size_t t) { return static_cast<float>(1 + t % 7); };
  const auto channel_of = [](std::size_t d) { return 0x1p-10f * static_cast<float>(1 + d % 11); };
  for (std::size_t i = 0; i < tile.size(); ++i) {
    tile[i] = bf16_from_f32(noise() * token_of(i / kDim) * channel_of(i % kDim));
  }
  const Factors found = balance(Isa::kScalar, tile, kDim);
  const float token = f32_from_bf16(found.token[0]) / token_of(0);
  const float channel = f32_from_bf16(found.channel[0]) / channel_of(0);
  for (std::size_t t = 0; t < kTokens; ++t) {
    EXPECT_NEAR(f32_from_bf16(found.token[t]) / (token * token_of(t)), 1.0f, 0.15f) << t;
  }
  for (std::size_t d = 0; d < kDim; ++d) {
    EXPECT_NEAR(f32_from_bf16(found.channel[d]) / (channel * channel_of(d)), 1.0f, 0.25f) << d;
  }
}

// Dividing by a row's factor is quantizing x / r: a power of two changes nothing but scales.
TEST(HackBalance, BlocksAreDividedByTheirRowFactors) {
  const std::vector<std::uint16_t> block = make_block(5);
  std::vector<std::uint16_t> factors(64), divided = block;
  for (std::size_t r = 0; r < 64; ++r) factors[r] = bf16_from_f32(r % 3 == 0 ? 4.0f : 0.5f);
  for (std::size_t i = 0; i < kValues; ++i) {
    const float value = f32_from_bf16(block[i]) / f32_from_bf16(factors[i / 64]);
    divided[i] = bf16_from_f32(std::clamp(value, -kHackMaxScale, kHackMaxScale));
  }
  std::vector<std::uint16_t> turned(kValues);
  for (std::size_t i = 0; i < kValues; ++i) turned[i % 64 * 64 + i / 64] = block[i];
  for (const Isa isa : available_isas()) {
    const Encoded want = encode(isa, divided, 3, HackRange::kLeastSquares);
    for (const bool transposed : {false, true}) {
      Encoded got;
      got.codes.resize(kValues);
      hack_encode_kernels(isa).quantize_block(
          {transposed ? turned.data() : block.data(), 64, 64, transposed, factors.data()}, 3,
          HackRange::kLeastSquares, got.codes.data(), got.scale.data(), got.min.data());
      for (std::size_t c = 0; c < 64; ++c) {
        if (c % 10 == 3) continue;  // subnormals lose bits in bf16, not in f32
        ASSERT_EQ(got.scale[c], want.scale[c]) << isa_name(isa) << c;
        ASSERT_EQ(got.min[c], want.min[c]) << isa_name(isa) << c;
        for (std::size_t r = 0; r < 64; ++r) {
          ASSERT_EQ(got.codes[r * 64 + c], want.codes[r * 64 + c]) << isa_name(isa) << c;
        }
      }
    }
  }
}

// With factors that are no powers of two, and clamped ends, on every instruction set.
TEST(HackBalance, FactorsGiveEqualBytes) {
  for (std::uint32_t seed = 0; seed < 6; ++seed) {
    const std::vector<std::uint16_t> block = make_block(seed, 128);
    std::vector<std::uint16_t> factors(128);
    std::mt19937 random(seed);
    for (std::uint16_t& factor : factors) {
      factor = static_cast<std::uint16_t>(seed % 2 == 0 ? 0x3f00 + random() % 256
                                                        : 0x0080 + random() % 0x7e00);
    }
    std::vector<std::uint16_t> turned(block.size());
    for (std::size_t i = 0; i < block.size(); ++i) turned[i % 64 * 128 + i / 64] = block[i];
    for (const HackRange range : kAllRanges) {
      Encoded want;
      for (const Isa isa : available_isas()) {
        for (const bool transposed : {false, true}) {
          Encoded got;
          got.codes.resize(block.size());
          hack_encode_kernels(isa).quantize_block(
              {transposed ? turned.data() : block.data(), transposed ? 128u : 64u, 128, transposed,
               factors.data()},
              2, range, got.codes.data(), got.scale.data(), got.min.data());
          if (want.codes.empty()) want = got;
          ASSERT_TRUE(got == want) << isa_name(isa) << " seed " << seed;
        }
      }
      for (std::size_t c = 0; c < 64; ++c) {
        ASSERT_TRUE(std::isfinite(f32_from_bf16(want.scale[c])));
        ASSERT_TRUE(std::isfinite(f32_from_bf16(want.min[c])));
      }
    }
  }
}

TEST(HackEncode, PackingIsAsDocumented) {
  std::mt19937 random(1);
  std::vector<std::uint8_t> codes(kValues);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random());
  const std::size_t lanes = 128;
  for (const Isa isa : available_isas()) {
    for (const std::uint32_t bits : {1u, 2u, 4u, 8u}) {
      for (std::uint32_t shift = 0; shift + bits <= 8; ++shift) {
        std::vector<std::byte> packed(4 * lanes * 2 * bits, std::byte{0xee});
        hack_encode_kernels(isa).pack_block(codes.data(), shift, bits, lanes, packed.data());
        const std::uint32_t fields = 8 / bits;
        const unsigned mask = (1u << bits) - 1u;
        for (std::size_t i = 0; i < packed.size(); ++i) {
          const std::size_t lane = i / 4 % lanes, word = i / 4 / lanes, b = i % 4;
          unsigned want = 0xee;  // lanes of other blocks are left alone
          if (lane < 64) {
            want = 0;
            for (std::uint32_t f = 0; f < fields; ++f) {
              const unsigned code = codes[lane * 64 + 4 * (fields * word + f) + b];
              want |= (code >> shift & mask) << (f * bits);
            }
          }
          ASSERT_EQ(std::to_integer<unsigned>(packed[i]), want)
              << isa_name(isa) << " bits " << bits << " shift " << shift << " byte " << i;
        }
      }
    }
  }
}

TEST(HackEncode, FindsTheFirstValueThatIsNotFinite) {
  for (const Isa isa : available_isas()) {
    for (const std::size_t n : {0u, 1u, 31u, 32u, 33u, 64u, 100u}) {
      std::vector<std::uint16_t> x(n, 0x7f7f);
      EXPECT_EQ(hack_encode_kernels(isa).first_not_finite(x.data(), n), n);
      for (std::size_t i = n; i-- > 0;) {
        x[i] = i % 2 == 0 ? 0xff80 : 0x7fc1;
        EXPECT_EQ(hack_encode_kernels(isa).first_not_finite(x.data(), n), i);
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::kernels
