// Attention on codes, as a kernel: a row's result depends on that row alone, states merge, and
// nothing finite ever makes NaN or infinity. The oracle in tests/codec checks the values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/dense_kernels.h"
#include "kernels/hack_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Planes of one head with random codes and scales between 2^low and 2^high.
struct Tile {
  Tile(std::uint32_t dim, std::uint32_t k_bits, std::uint32_t v_bits, std::uint32_t seed,
       int low = -6, int high = 0)
      : k_codes(8 * dim * k_bits), v_codes(8 * dim * v_bits) {
    std::mt19937 random(seed);
    for (auto* codes : {&k_codes, &v_codes}) {
      for (std::byte& b : *codes) b = static_cast<std::byte>(random());
    }
    for (auto* plane : {&k_scale, &k_min, &v_scale, &v_min}) {
      const bool is_scale = plane == &k_scale || plane == &v_scale;
      for (std::uint32_t i = 0; i < dim; ++i) {
        const auto exponent =
            low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
        const float value =
            std::ldexp(1.0f + static_cast<float>(random() % 128) / 128.0f, exponent);
        plane->push_back(bf16_from_f32(is_scale || random() % 2 == 0 ? value : -value));
      }
    }
    planes = {
        dim,          k_bits,         v_bits,      k_codes.data(), v_codes.data(), bytes(k_scale),
        bytes(k_min), bytes(v_scale), bytes(v_min)};
  }
  static const std::byte* bytes(const std::vector<std::uint16_t>& plane) {
    return reinterpret_cast<const std::byte*>(plane.data());
  }

  std::vector<std::byte> k_codes, v_codes;
  std::vector<std::uint16_t> k_scale, k_min, v_scale, v_min;
  HackPlanes planes;
};

struct States {
  States(std::uint32_t rows, std::uint32_t dim)
      : m(rows, -kInfinity), l(rows, 0.0f), o(std::size_t{rows} * dim, 0.0f), head_dim(dim) {}
  AttentionStates view(std::uint32_t first, std::uint32_t rows) {
    return {m.data() + first, l.data() + first, o.data() + std::size_t{first} * head_dim, rows,
            head_dim};
  }
  bool finite() const {
    const auto all = [](const std::vector<float>& x) {
      return std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
    };
    return all(m) && all(l) && all(o);
  }
  friend bool operator==(const States& a, const States& b) {
    const auto same = [](const std::vector<float>& x, const std::vector<float>& y) {
      return std::memcmp(x.data(), y.data(), 4 * x.size()) == 0;
    };
    return same(a.m, b.m) && same(a.l, b.l) && same(a.o, b.o);
  }
  std::vector<float> m, l, o;
  std::uint32_t head_dim;
};

std::vector<float> make_queries(std::uint32_t rows, std::uint32_t dim, std::uint32_t seed,
                                float scale = 1.0f) {
  std::mt19937 random(seed);
  std::vector<float> q(std::size_t{rows} * dim);
  for (float& x : q) x = (static_cast<float>(random() % 65536) / 32768.0f - 1.0f) * scale;
  return q;
}

// Any number of rows at any place gives each row the same bits, also a row that saturates beside
// others that do not.
TEST(HackAttend, RowsAreIndependentBitByBit) {
  constexpr std::uint32_t kRows = 37;
  for (const Isa isa : available_isas()) {
    for (const std::uint32_t dim : {64u, 128u, 256u}) {
      for (const std::uint32_t k_bits : {2u, 4u, 8u}) {
        for (const std::uint32_t v_bits : {2u, 4u, 8u}) {
          const Tile first(dim, k_bits, v_bits, 1), second(dim, k_bits, v_bits, 2);
          std::vector<float> q = make_queries(kRows, dim, 3);
          std::fill_n(q.begin() + 9 * dim, dim, 3e38f);
          States want(kRows, dim);
          for (std::uint32_t r = 0; r < kRows; ++r) {
            for (const Tile* tile : {&first, &second}) {
              hack_kernels(isa).attend(tile->planes, {q.data() + r * dim}, want.view(r, 1));
            }
          }
          for (const std::uint32_t step : {2u, 3u, 4u, 5u, 6u, 7u, 8u, 37u}) {
            States got(kRows, dim);
            for (const Tile* tile : {&first, &second}) {
              for (std::uint32_t r = 0; r < kRows; r += step) {
                hack_kernels(isa).attend(tile->planes, {q.data() + r * dim},
                                         got.view(r, std::min(step, kRows - r)));
              }
            }
            ASSERT_TRUE(got == want) << isa_name(isa) << " head_dim " << dim << " bits " << k_bits
                                     << " " << v_bits << " rows " << step;
          }
        }
      }
    }
  }
}

// What is reported is what runs.
TEST(HackAttend, ReportedKernelsAreTheOnesThatRun) {
  EXPECT_EQ(hack_kernels_isa(Isa::kAvx2), Isa::kScalar);
  for (const Isa isa : available_isas()) {
    const Isa reported = hack_kernels_isa(isa);
    EXPECT_EQ(&hack_kernels(isa), &hack_kernels(reported));
    EXPECT_EQ(hack_kernels_isa(reported), reported);
  }
  EXPECT_NE(hack_kernels(Isa::kAvx512).attend, hack_kernels(Isa::kScalar).attend);
}

// Nothing is read or written outside the shapes: no rows leave all as it was, and neighbours of a
// row's state stay. (The sanitizer build sees reads.)
TEST(HackAttend, TouchesOnlyItsRows) {
  for (const Isa isa : available_isas()) {
    const Tile tile(64, 2, 2, 1);
    const std::vector<float> q = make_queries(5, 64, 2);
    States states(5, 64);
    const States untouched = states;
    hack_kernels(isa).attend(tile.planes, {q.data()}, states.view(2, 0));
    EXPECT_TRUE(states == untouched);
    hack_kernels(isa).attend(tile.planes, {q.data() + 2 * 64}, states.view(2, 1));
    EXPECT_EQ(states.m[1], -kInfinity);
    EXPECT_EQ(states.m[3], -kInfinity);
    EXPECT_EQ(states.o[2 * 64 - 1], 0.0f);
    EXPECT_EQ(states.o[3 * 64], 0.0f);
    EXPECT_GT(states.l[2], 0.0f);
  }
}

// The order of tiles changes the result by rounding only, and an attended tile weighs as its l
// says.
TEST(HackAttend, StatesMerge) {
  for (const Isa isa : available_isas()) {
    const Tile a(128, 4, 2, 1), b(128, 2, 4, 2);
    const std::vector<float> q = make_queries(3, 128, 5);
    States ab(3, 128), ba(3, 128);
    for (const Tile* tile : {&a, &b})
      hack_kernels(isa).attend(tile->planes, {q.data()}, ab.view(0, 3));
    for (const Tile* tile : {&b, &a})
      hack_kernels(isa).attend(tile->planes, {q.data()}, ba.view(0, 3));
    for (std::uint32_t r = 0; r < 3; ++r) {
      EXPECT_EQ(ab.m[r], ba.m[r]);
      EXPECT_NEAR(ab.l[r], ba.l[r], 1e-5f * ab.l[r]);
      for (std::uint32_t d = 0; d < 128; ++d) {
        EXPECT_NEAR(ab.o[r * 128 + d], ba.o[r * 128 + d], 1e-4f * ab.l[r]);
      }
    }
  }
}

// Scales and minima at both ends of f32, queries too: all that comes out is finite, and the same on
// every instruction set within f32 where the exact row path computes it.
TEST(HackAttend, FiniteInFiniteOut) {
  for (const Isa isa : available_isas()) {
    for (const float query : {1e-38f, 1e-3f, 1.0f, 1e10f, 3e38f}) {
      for (const auto& [low, high] : {std::pair{-126, -120}, {-126, 120}, {100, 119}, {0, 127}}) {
        for (const std::uint32_t bits : {2u, 8u}) {
          States states(5, 64);
          const std::vector<float> q = make_queries(5, 64, 7, query);
          for (std::uint32_t seed = 0; seed < 6; ++seed) {
            const Tile tile(64, bits, bits, seed, low, high);
            hack_kernels(isa).attend(tile.planes, {q.data()}, states.view(0, 5));
          }
          ASSERT_TRUE(states.finite()) << isa_name(isa) << " query " << query << " scales 2^" << low
                                       << " to 2^" << high << " bits " << bits;
          ASSERT_GE(*std::min_element(states.l.begin(), states.l.end()), 0.5f);
        }
      }
    }
  }
}

// A score far beyond f32: the softmax is that of the exact scores.
TEST(HackAttend, HugeScoresChooseTheRightToken) {
  for (const Isa isa : available_isas()) {
    Tile tile(64, 8, 8, 4);
    std::fill(tile.k_scale.begin(), tile.k_scale.end(), bf16_from_f32(1e30f));
    std::fill(tile.k_min.begin(), tile.k_min.end(), bf16_from_f32(-1e32f));
    const std::vector<float> q = make_queries(4, 64, 9, 1e20f);
    std::vector<float> k(64 * 64), v(64 * 64);
    hack_reconstruct(tile.planes, k.data(), v.data());
    States states(4, 64);
    hack_kernels(isa).attend(tile.planes, {q.data()}, states.view(0, 4));
    for (std::size_t r = 0; r < 4; ++r) {
      std::size_t best = 0;
      double best_score = -std::numeric_limits<double>::infinity();
      for (std::size_t t = 0; t < 64; ++t) {
        double score = 0.0;
        for (std::size_t d = 0; d < 64; ++d) score += double{q[r * 64 + d]} * k[t * 64 + d];
        if (score > best_score) {
          best_score = score;
          best = t;
        }
      }
      EXPECT_EQ(states.l[r], 1.0f);
      for (std::size_t d = 0; d < 64; ++d) {
        EXPECT_FLOAT_EQ(states.o[r * 64 + d], v[best * 64 + d]);
      }
    }
  }
}

// One rounding: the same as fma in double, cut to f32.
TEST(HackAttend, ReconstructRoundsOnce) {
  const Tile tile(128, 4, 2, 6, -20, 20);
  std::vector<float> k(64 * 128), v(64 * 128);
  hack_reconstruct(tile.planes, k.data(), v.data());
  for (std::size_t t = 0; t < 64; ++t) {
    for (std::size_t d = 0; d < 128; ++d) {
      const std::size_t word = d / 8, field = d / 4 % 2, b = d % 4;
      const unsigned code =
          std::to_integer<unsigned>(tile.k_codes[4 * (word * 64 + t) + b]) >> (4 * field) & 15u;
      const float want = static_cast<float>(double{f32_from_bf16(tile.k_scale[d])} * code +
                                            f32_from_bf16(tile.k_min[d]));
      ASSERT_EQ(k[t * 128 + d], want);
    }
  }
}

// What is added to the scores decides here which token is attended to; where V is huge, in double.
TEST(HackAttend, ScoresAreAddedTo) {
  constexpr std::uint32_t kDim = 128, kRows = 7;
  const auto token_of = [](std::uint32_t row) { return (row * 11 + 3) % 64; };
  std::vector<float> add(kRows * 64, -1e5f);
  for (std::uint32_t r = 0; r < kRows; ++r) add[r * 64 + token_of(r)] = 1e5f;
  for (const Isa isa : available_isas()) {
    for (const int exponent : {0, 119}) {
      const Tile tile(kDim, 4, 4, 5, exponent, exponent);
      std::vector<float> k(64 * kDim), v(64 * kDim), q(kRows * kDim, 0.0f);
      hack_reconstruct(tile.planes, k.data(), v.data());
      if (exponent == 0) q = make_queries(kRows, kDim, 3);
      States states(kRows, kDim);
      hack_kernels(isa).attend(tile.planes, {q.data(), add.data()}, states.view(0, kRows));
      const float largest = std::ldexp(64.0f, exponent);
      for (std::uint32_t r = 0; r < kRows; ++r) {
        for (std::uint32_t d = 0; d < kDim; ++d) {
          ASSERT_NEAR(states.o[r * kDim + d] / largest, v[token_of(r) * kDim + d] / largest, 1e-3)
              << r << " " << d << " 2^" << exponent;
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::kernels
