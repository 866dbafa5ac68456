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
constexpr std::uint32_t kAllBits[] = {2, 4, 8};

// bf16 values of many kinds: one kind a column, so that a block holds all.
std::vector<std::uint16_t> make_block(std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::uint16_t> block(kValues);
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
    for (std::size_t r = 0; r < 64; ++r) {
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
  std::vector<float> values = std::vector<float>(kValues);
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(kValues);
  std::vector<std::uint16_t> scale = std::vector<std::uint16_t>(64);
  std::vector<std::uint16_t> min = std::vector<std::uint16_t>(64);
  std::vector<std::byte> packed;
};

Encoded encode(Isa isa, const std::vector<std::uint16_t>& block, bool transposed,
               std::uint32_t bits, HackRange range, std::size_t lanes) {
  const HackEncodeKernels& table = hack_encode_kernels(isa);
  Encoded out;
  (transposed ? table.transpose_block : table.widen_block)(block.data(), 64, out.values.data());
  table.quantize_block(out.values.data(), bits, range, out.codes.data(), out.scale.data(),
                       out.min.data());
  out.packed.assign(4 * (lanes * 2 * bits), std::byte{0xee});
  table.pack_block(out.codes.data(), 0, bits, lanes, out.packed.data());
  return out;
}

TEST(HackEncode, EqualBytesOnEveryInstructionSet) {
  for (std::uint32_t seed = 0; seed < 40; ++seed) {
    const std::vector<std::uint16_t> block = make_block(seed);
    for (const std::uint32_t bits : kAllBits) {
      for (const HackRange range : {HackRange::kMinMax, HackRange::kSearch}) {
        const bool transposed = seed % 2 == 1;
        const std::size_t lanes = seed % 3 == 0 ? 64 : 256;
        const Encoded want = encode(Isa::kScalar, block, transposed, bits, range, lanes);
        for (const Isa isa : available_isas()) {
          SCOPED_TRACE(std::string(isa_name(isa)) + " seed " + std::to_string(seed) + " bits " +
                       std::to_string(bits) + (range == HackRange::kSearch ? " search" : ""));
          const Encoded got = encode(isa, block, transposed, bits, range, lanes);
          ASSERT_EQ(0, std::memcmp(got.values.data(), want.values.data(), 4 * kValues));
          ASSERT_EQ(got.codes, want.codes);
          ASSERT_EQ(got.scale, want.scale);
          ASSERT_EQ(got.min, want.min);
          ASSERT_EQ(got.packed, want.packed);
        }
      }
    }
  }
}

// No value is clipped: the error is at most half a step, and what the division by the scale and the
// rounding of the scale to f32 add.
TEST(HackEncode, MinMaxErrsByHalfAStepAtMost) {
  for (std::uint32_t seed = 100; seed < 110; ++seed) {
    const std::vector<std::uint16_t> block = make_block(seed);
    for (const std::uint32_t bits : kAllBits) {
      const Encoded e = encode(Isa::kScalar, block, false, bits, HackRange::kMinMax, 64);
      for (std::size_t i = 0; i < kValues; ++i) {
        const double scale = f32_from_bf16(e.scale[i % 64]);
        const double back = scale * e.codes[i] + f32_from_bf16(e.min[i % 64]);
        ASSERT_LE(std::fabs(back - e.values[i]), scale * (0.5 + 1e-4))
            << "bits " << bits << " value " << e.values[i] << " column " << i % 64;
      }
    }
  }
}

TEST(HackEncode, ScalesArePositiveNormalAndMinimaFinite) {
  for (std::uint32_t seed = 200; seed < 210; ++seed) {
    for (const std::uint32_t bits : kAllBits) {
      for (const HackRange range : {HackRange::kMinMax, HackRange::kSearch}) {
        const Encoded e = encode(Isa::kScalar, make_block(seed), false, bits, range, 64);
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
    for (const HackRange range : {HackRange::kMinMax, HackRange::kSearch}) {
      const Encoded e = encode(Isa::kScalar, block, false, 2, range, 64);
      EXPECT_EQ(e.min, std::vector<std::uint16_t>(64, value));
      EXPECT_EQ(e.codes, std::vector<std::uint8_t>(kValues, 0));
    }
  }
}

// Search never errs more than min-max does.
TEST(HackEncode, SearchIsNoWorseThanMinMax) {
  for (std::uint32_t seed = 300; seed < 305; ++seed) {
    const std::vector<std::uint16_t> block = make_block(seed);
    for (const std::uint32_t bits : kAllBits) {
      const Encoded whole = encode(Isa::kScalar, block, false, bits, HackRange::kMinMax, 64);
      const Encoded best = encode(Isa::kScalar, block, false, bits, HackRange::kSearch, 64);
      const auto error = [](const Encoded& e, std::size_t c) {
        double sum = 0.0;
        for (std::size_t r = 0; r < 64; ++r) {
          const double back =
              double{f32_from_bf16(e.scale[c])} * e.codes[r * 64 + c] + f32_from_bf16(e.min[c]);
          sum += (back - e.values[r * 64 + c]) * (back - e.values[r * 64 + c]);
        }
        return sum;
      };
      for (std::size_t c = 0; c < 64; ++c) {
        ASSERT_LE(error(best, c), error(whole, c) * (1.0 + 1e-4)) << "column " << c;
      }
    }
  }
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
    const Encoded e = encode(isa, block, false, 2, HackRange::kMinMax, 64);
    EXPECT_EQ(e.scale[0], bf16_from_f32(1.0f));
    EXPECT_EQ(e.codes[64], 0);
    EXPECT_EQ(e.codes[128], 2);
    EXPECT_EQ(e.codes[192], 2);
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
