// Norm, rope, activation, conversions and Hadamard against double precision, on every instruction
// set the CPU has.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "tests/kernels/dense_test_util.h"

namespace kvferry::kernels {
namespace {

constexpr double kUlp = 0x1p-23;  // relative distance of neighbouring f32 at most
constexpr std::array<std::size_t, 14> kSizes = {1,  2,  3,  5,  15,  16,  17,
                                                31, 33, 64, 79, 100, 511, 2048};

using DenseRows = EachIsa;

TEST_P(DenseRows, RmsNorm) {
  for (std::size_t n : kSizes) {
    for (float deviation : {1e-3f, 1.0f, 300.0f}) {
      const std::vector<float> x = normal_values(n, 1, deviation);
      const std::vector<float> weight = normal_values(n, 2);
      std::vector<float> out(n + 1, 7.0f);
      kernels().rms_norm(x.data(), weight.data(), 1e-5f, n, out.data());
      double squares = 0;
      for (float value : x) squares += static_cast<double>(value) * value;
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5f);
      // The sum of squares is off by n / 16 + 5 roundings at most, halved by the root; then five.
      const double bound = (static_cast<double>(n) / 32 + 8) * kUlp;
      for (std::size_t i = 0; i < n; ++i) {
        const double exact = x[i] * inverse * weight[i];
        ASSERT_NEAR(out[i], exact, bound * std::abs(exact)) << n << " " << i;
      }
      EXPECT_EQ(out[n], 7.0f);
    }
  }
}

TEST_P(DenseRows, Rope) {
  for (std::size_t head_dim : {2, 6, 16, 64, 80, 128, 256}) {
    for (std::size_t heads : {1, 3}) {
      const std::vector<float> before = normal_values(heads * head_dim, 3);
      std::vector<float> cos(head_dim / 2);
      std::vector<float> sin(head_dim / 2);
      for (std::size_t i = 0; i < cos.size(); ++i) {
        cos[i] = std::cos(static_cast<float>(i) * 0.7f);
        sin[i] = std::sin(static_cast<float>(i) * 0.7f);
      }
      std::vector<float> x = before;
      kernels().rope(x.data(), cos.data(), sin.data(), heads, head_dim);
      for (std::size_t head = 0; head < heads; ++head) {
        for (std::size_t i = 0; i < head_dim / 2; ++i) {
          const double a = before[head * head_dim + i];
          const double b = before[head * head_dim + head_dim / 2 + i];
          const double bound = 2 * kUlp * (std::abs(a) + std::abs(b));
          ASSERT_NEAR(x[head * head_dim + i], a * cos[i] - b * sin[i], bound);
          ASSERT_NEAR(x[head * head_dim + head_dim / 2 + i], b * cos[i] + a * sin[i], bound);
        }
      }
    }
  }
}

TEST_P(DenseRows, SiluMul) {
  for (std::size_t n : kSizes) {
    const std::vector<float> gate = normal_values(n, 4, 8.0f);
    const std::vector<float> up = normal_values(n, 5);
    std::vector<float> out(n + 1, 7.0f);
    kernels().silu_mul(gate.data(), up.data(), n, out.data());
    for (std::size_t i = 0; i < n; ++i) {
      const double g = gate[i];
      const double exact = g / (1 + std::exp(-g)) * up[i];
      ASSERT_NEAR(out[i], exact, 5 * kUlp * std::abs(exact)) << g;
    }
    EXPECT_EQ(out[n], 7.0f);
  }
}

// The exponential behind silu and attention, seen through silu at -x: out = -x e / (1 + e).
TEST_P(DenseRows, SiluOverTheWholeRange) {
  std::vector<float> gate;
  for (float g = -87.0f; g < 87.0f; g += 0.00731f) gate.push_back(g);
  const std::vector<float> one(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  kernels().silu_mul(gate.data(), one.data(), gate.size(), out.data());
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double exact = gate[i] / (1 + std::exp(-static_cast<double>(gate[i])));
    ASSERT_NEAR(out[i], exact, 5 * kUlp * std::abs(exact)) << gate[i];
  }
}

TEST_P(DenseRows, SiluAtTheEnds) {
  const std::vector<float> gate = {0.0f, -0.0f, 200.0f, 1e30f, -88.0f, -200.0f, -1e30f};
  const std::vector<float> one(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  kernels().silu_mul(gate.data(), one.data(), gate.size(), out.data());
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], 200.0f);
  EXPECT_EQ(out[3], 1e30f);
  EXPECT_NEAR(out[4], 0.0f, 1e-35f);
  EXPECT_EQ(out[5], 0.0f);
  EXPECT_EQ(out[6], 0.0f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  kernels().silu_mul(&nan, one.data(), 1, out.data());
  EXPECT_TRUE(std::isnan(out[0]));
}

TEST_P(DenseRows, Add) {
  for (std::size_t n : kSizes) {
    const std::vector<float> x = normal_values(n, 6);
    const std::vector<float> before = normal_values(n, 7);
    std::vector<float> out = before;
    kernels().add(x.data(), n, out.data());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(out[i], before[i] + x[i]);
  }
}

TEST_P(DenseRows, Bf16OfSpecialValues) {
  const auto f32 = [](std::uint32_t bits) { return std::bit_cast<float>(bits); };
  const std::vector<std::pair<std::uint32_t, std::uint16_t>> cases = {
      {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x3f800000, 0x3f80},
      {0x3f808000, 0x3f80},                                              // tie to even, down
      {0x3f818000, 0x3f82},                                              // tie to even, up
      {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0x7f7fffff, 0x7f80},  // rounds to infinity
      {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x00000001, 0x0000},
      {0x00018000, 0x0002}, {0x00400000, 0x0040},                        // subnormals are kept
      {0x7fc00000, 0x7fc0}, {0x7f800001, 0x7fc0}, {0xffffffff, 0xffff},  // NaN stays NaN, quiet
  };
  std::vector<float> x;
  for (const auto& [bits, expected] : cases) x.push_back(f32(bits));
  std::vector<std::uint16_t> out(x.size());
  kernels().to_bf16(x.data(), x.size(), out.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(out[i], cases[i].second) << std::hex << cases[i].first;
    EXPECT_EQ(bf16_from_f32(x[i]), cases[i].second) << std::hex << cases[i].first;
  }
}

TEST_P(DenseRows, Bf16AgreesWithTheSingleValueFunctions) {
  for (std::size_t n : kSizes) {
    std::vector<float> x = normal_values(n, 8, 1e3f);
    std::vector<std::uint16_t> out(n + 1, 0x1234);
    kernels().to_bf16(x.data(), n, out.data());
    for (std::size_t i = 0; i < n; ++i) {
      ASSERT_EQ(out[i], bf16_from_f32(x[i]));
      ASSERT_NEAR(f32_from_bf16(out[i]), x[i], 0x1p-8 * std::abs(x[i]));
    }
    EXPECT_EQ(out[n], 0x1234);
    std::vector<float> back(n + 1, 7.0f);
    kernels().from_bf16(out.data(), n, back.data());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(back[i], f32_from_bf16(out[i]));
    EXPECT_EQ(back[n], 7.0f);
  }
}

TEST_P(DenseRows, EveryBf16RoundTrips) {
  std::vector<std::uint16_t> all(0x10000);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  std::vector<float> wide(all.size());
  std::vector<std::uint16_t> back(all.size());
  kernels().from_bf16(all.data(), all.size(), wide.data());
  kernels().to_bf16(wide.data(), wide.size(), back.data());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool signalling_nan = std::isnan(wide[i]) && (i & 0x40) == 0;
    ASSERT_EQ(back[i], signalling_nan ? (i | 0x40) : i);
  }
}

// The definition: out[i] = SUM_j (-1)^popcount(i & j) x[j] / sqrt(n).
TEST_P(DenseRows, HadamardByItsDefinition) {
  for (std::size_t n = 2; n <= 256; n *= 2) {
    const std::vector<float> before = normal_values(3 * n, 9);
    std::vector<float> x = before;
    kernels().hadamard(x.data(), 3, n);
    for (std::size_t i = 0; i < 3 * n; ++i) {
      const float* row = before.data() + i / n * n;
      double exact = 0;
      double size = 0;
      for (std::size_t j = 0; j < n; ++j) {
        exact += std::popcount(i % n & j) % 2 == 0 ? row[j] : -row[j];
        size += std::abs(row[j]);
      }
      const double root = std::sqrt(static_cast<double>(n));
      ASSERT_NEAR(x[i], exact / root, 10 * kUlp * size / root) << n << " " << i;
    }
  }
}

// Encoded bytes rest on the order: butterflies of stride 1, 2, 4, ..., then the multiplication.
TEST_P(DenseRows, HadamardHasTheBitsOfItsPlainLoops) {
  for (std::size_t n = 2; n <= 256; n *= 2) {
    std::vector<float> want = normal_values(n, 12);
    want[n / 2] = -0.0f;
    std::vector<float> x = want;
    for (std::size_t stride = 1; stride < n; stride *= 2) {
      for (std::size_t i = 0; i < n; ++i) {
        if ((i & stride) != 0) continue;
        const float a = want[i], b = want[i + stride];
        want[i] = a + b;
        want[i + stride] = a - b;
      }
    }
    for (float& value : want) value *= static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
    kernels().hadamard(x.data(), 1, n);
    ASSERT_EQ(x, want) << n;
  }
}

TEST_P(DenseRows, HadamardIsItsOwnInverse) {
  for (std::size_t n = 2; n <= 256; n *= 2) {
    const std::vector<float> before = normal_values(5 * n, 10);
    std::vector<float> x = before;
    kernels().hadamard(x.data(), 5, n);
    EXPECT_NE(x, before);
    kernels().hadamard(x.data(), 5, n);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], before[i], 2e-6) << n;
  }
}

// What kernels/README.md promises to have equal bits everywhere, with zeros of both signs,
// subnormals and infinities among the values.
TEST_P(DenseRows, BitsOfPlainKernelsAreThoseOfScalar) {
  const DenseKernels& scalar = dense_kernels(Isa::kScalar);
  for (std::size_t n : {2, 4, 8, 16, 32, 64, 128, 256}) {
    std::vector<float> x = normal_values(4 * n, 11);
    for (std::size_t i = 0; i < x.size(); i += 7) x[i] = std::array{0.0f, -0.0f, 1e-41f}[i % 3];
    std::vector<float> expected = x;
    std::vector<float> got = x;
    scalar.hadamard(expected.data(), 4, n);
    kernels().hadamard(got.data(), 4, n);
    ASSERT_EQ(bits_of(got), bits_of(expected)) << n;
    scalar.rope(expected.data(), x.data(), x.data() + n, 4, n);
    kernels().rope(got.data(), x.data(), x.data() + n, 4, n);
    ASSERT_EQ(bits_of(got), bits_of(expected)) << n;
  }
  for (std::size_t n : kSizes) {
    const std::vector<float> x = normal_values(n, 12);
    const std::vector<float> weight = normal_values(n, 13);
    std::vector<float> expected(n);
    std::vector<float> got(n);
    scalar.rms_norm(x.data(), weight.data(), 1e-5f, n, expected.data());
    kernels().rms_norm(x.data(), weight.data(), 1e-5f, n, got.data());
    ASSERT_EQ(bits_of(got), bits_of(expected)) << n;
  }
}

// Also with values that are not finite, of which every one of a row becomes something such.
TEST_P(DenseRows, HadamardInBf16IsHadamardRounded) {
  const float nan = std::bit_cast<float>(0x7fffffffu);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const std::size_t n : {2, 8, 16, 32, 64, 128, 256}) {
    std::vector<float> x = normal_values(6 * n, 17);
    x[n] = nan;
    x[2 * n + 1] = infinity;
    x[3 * n] = 1e-41f;
    for (std::size_t i = 4 * n; i < 5 * n; ++i) x[i] *= 1e-38f;
    std::vector<float> rotated = x;
    kernels().hadamard(rotated.data(), 6, n);
    const std::size_t stride = n + 3;
    std::vector<std::uint16_t> want(6 * stride, 0xabcd), got = want;
    for (std::size_t head = 0; head < 6; ++head) {
      kernels().to_bf16(rotated.data() + head * n, n, want.data() + head * stride);
    }
    kernels().hadamard_bf16(x.data(), 6, n, got.data(), stride);
    ASSERT_EQ(got, want) << n;
    ASSERT_TRUE(std::isnan(f32_from_bf16(got[stride]))) << n;
  }
}

TEST_P(DenseRows, HadamardOfARowDependsOnThatRowAlone) {
  for (std::size_t n : {8, 64, 128}) {
    const std::vector<float> before = normal_values(6 * n, 14);
    std::vector<float> together = before;
    kernels().hadamard(together.data(), 6, n);
    std::vector<float> alone = before;
    for (std::size_t head = 0; head < 6; ++head) kernels().hadamard(alone.data() + head * n, 1, n);
    EXPECT_EQ(bits_of(together), bits_of(alone));
  }
}

TEST_P(DenseRows, SiluOfAnElementDoesNotDependOnItsPlace) {
  const std::vector<float> gate = normal_values(70, 15, 4.0f);
  const std::vector<float> up = normal_values(70, 16);
  std::vector<float> together(70);
  kernels().silu_mul(gate.data(), up.data(), 70, together.data());
  for (std::size_t i = 0; i < 70; ++i) {
    float alone = 0;
    kernels().silu_mul(&gate[i], &up[i], 1, &alone);
    ASSERT_EQ(alone, together[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(AllIsas, DenseRows, testing::ValuesIn(available_isas()), isa_test_name);

}  // namespace
}  // namespace kvferry::kernels
