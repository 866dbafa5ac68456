// Kernels of the published layout: the four terms of the homomorphic product against double
// precision, equal bytes on every instruction set, row determinism, and nothing finite that makes
// NaN or infinity. tests/golden/paper has what an independent program says.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/dense_kernels.h"
#include "kernels/paper_kernels.h"
#include "kernels/reconstruct_kernels.h"
#include "tests/kernels/hack_tile.h"
#include "tests/kernels/paper_tile.h"

namespace kvferry::kernels {
namespace {

// n values as step * code + min, by the rule of docs/codecs.md.
std::vector<double> rounded(const float* x, std::size_t n, double* half_step) {
  const float lowest = *std::min_element(x, x + n);
  const float range = *std::max_element(x, x + n) - lowest;
  std::vector<double> values(n, lowest);
  *half_step = range / 510.0;
  if (range == 0.0f) return values;
  const float inv = 255.0f / range;
  const float step = range / 255.0f;
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = double{step} * std::nearbyint((x[i] - lowest) * inv) + double{lowest};
  }
  return values;
}

// The scores are the products of the rounded queries with what the codes mean, and the outputs
// those of weights that are each at most half a step away.
TEST(PaperAttend, EqualsExactArithmeticOnRoundedOperands) {
  for (const Isa isa : available_isas()) {
    for (const PaperShape& shape : paper_shapes()) {
      SCOPED_TRACE(describe(shape, isa));
      const PaperTile tile(shape, 7);
      const PaperPlanes& p = tile.planes();
      constexpr std::uint32_t kRows = 3;
      const std::vector<float> q = make_queries(kRows, p.head_dim, 5, 0.3f);
      std::vector<float> k(std::size_t{p.tile_tokens()} * p.head_dim), v(k.size());
      reconstruct_kernels(isa).paper(p, k.data(), v.data());
      std::vector<float> scores(kRows * p.tile_tokens());
      paper_kernels(isa).scores(p, q.data(), kRows, scores.data());
      States states(kRows, p.head_dim);
      paper_kernels(isa).attend(p, {q.data()}, states.view(0, kRows));
      for (std::uint32_t r = 0; r < kRows; ++r) {
        std::vector<double> exact(p.tokens, 0.0), magnitude(p.tokens, 0.0);
        for (std::uint32_t d = 0; d < p.head_dim; d += p.k_partition) {
          double half_step = 0.0;
          const auto q_rounded = rounded(&q[r * p.head_dim + d], p.k_partition, &half_step);
          for (std::uint32_t t = 0; t < p.tokens; ++t) {
            for (std::uint32_t i = 0; i < p.k_partition; ++i) {
              exact[t] += q_rounded[i] * k[t * p.head_dim + d + i];
              magnitude[t] += std::fabs(k[t * p.head_dim + d + i]);
            }
          }
        }
        const float* got = &scores[r * p.tile_tokens()];
        for (std::uint32_t t = 0; t < p.tokens; ++t) {
          ASSERT_NEAR(got[t], exact[t], 2e-6 * magnitude[t]) << "row " << r << " token " << t;
        }
        const float m = *std::max_element(got, got + p.tokens);
        EXPECT_EQ(states.m[r], m);
        std::vector<float> weights(p.tokens);
        double sum = 0.0;
        for (std::uint32_t t = 0; t < p.tokens; ++t) {
          weights[t] = std::exp(got[t] - m);
          sum += weights[t];
        }
        EXPECT_NEAR(states.l[r], sum, 1e-5 * sum);
        for (std::uint32_t d = 0; d < p.head_dim; ++d) {
          double want = 0.0, bound = 0.0;
          for (std::uint32_t first = 0; first < p.tokens; first += p.v_partition) {
            const std::uint32_t n = std::min(p.v_partition, p.tokens - first);
            double half_step = 0.0;
            static_cast<void>(rounded(&weights[first], n, &half_step));
            for (std::uint32_t t = first; t < first + n; ++t) {
              const double value = v[t * p.head_dim + d];
              want += weights[t] * value;
              bound += (half_step + 4e-6) * (std::fabs(value) + 1e-3);
            }
          }
          ASSERT_NEAR(states.o[r * p.head_dim + d], want, bound) << "row " << r << " " << d;
        }
      }
    }
  }
}

// Any number of rows at any place gives each row the same bits, also beside rows that saturate.
TEST(PaperAttend, RowsAreIndependentBitByBit) {
  constexpr std::uint32_t kRows = 13;
  for (const Isa isa : available_isas()) {
    for (const PaperShape& shape : paper_shapes()) {
      const PaperTile first(shape, 1), second(shape, 2);
      const std::uint32_t dim = shape.head_dim;
      std::vector<float> q = make_queries(kRows, dim, 3);
      for (std::uint32_t d = 0; d < dim; ++d) q[9 * dim + d] = d % 2 == 0 ? 3e38f : -3e38f;
      States want(kRows, dim);
      for (std::uint32_t r = 0; r < kRows; ++r) {
        for (const PaperTile* tile : {&first, &second}) {
          paper_kernels(isa).attend(tile->planes(), {q.data() + r * dim}, want.view(r, 1));
        }
      }
      for (const std::uint32_t step : {2u, 3u, 4u, 5u, 7u, 13u}) {
        States got(kRows, dim);
        for (const PaperTile* tile : {&first, &second}) {
          for (std::uint32_t r = 0; r < kRows; r += step) {
            paper_kernels(isa).attend(tile->planes(), {q.data() + r * dim},
                                      got.view(r, std::min(step, kRows - r)));
          }
        }
        ASSERT_TRUE(got == want) << describe(shape, isa) << " rows " << step;
      }
    }
  }
}

// Stored sums and counted ones give the same bits.
TEST(PaperAttend, SumsMayBeCounted) {
  for (const Isa isa : available_isas()) {
    for (PaperShape shape : paper_shapes()) {
      shape.sums = true;
      const PaperTile tile(shape, 4);
      PaperPlanes counted = tile.planes();
      counted.k_sums = counted.v_sums = nullptr;
      const std::vector<float> q = make_queries(2, shape.head_dim, 8);
      States a(2, shape.head_dim), b(2, shape.head_dim);
      paper_kernels(isa).attend(tile.planes(), {q.data()}, a.view(0, 2));
      paper_kernels(isa).attend(counted, {q.data()}, b.view(0, 2));
      ASSERT_TRUE(a == b) << describe(shape, isa);
    }
  }
}

// Tokens behind the visible ones do not matter, whatever their scales and codes of K.
TEST(PaperAttend, SeesOnlyItsTokens) {
  for (const Isa isa : available_isas()) {
    for (const std::uint32_t tokens : {1u, 20u, 32u, 50u}) {
      const PaperTile tile({64, 32, 32, 2, 2, tokens}, 4);
      std::vector<std::byte> huge(4 * 64 * 2);
      std::memcpy(huge.data(), tile.planes().k_scale, 2 * 64 * 2);
      PaperPlanes changed = tile.planes();
      auto* scales = reinterpret_cast<std::uint16_t*>(huge.data());
      for (std::uint32_t t = tokens; t < 64; ++t) scales[t] = scales[64 + t] = 0x7f7f;
      changed.k_scale = huge.data();
      const std::vector<float> q = make_queries(2, 64, 8);
      States a(2, 64), b(2, 64);
      paper_kernels(isa).attend(tile.planes(), {q.data()}, a.view(0, 2));
      paper_kernels(isa).attend(changed, {q.data()}, b.view(0, 2));
      ASSERT_TRUE(a == b) << isa_name(isa) << " tokens " << tokens;
    }
  }
}

// Scales, minima and queries at both ends of f32: all that comes out is finite.
TEST(PaperAttend, FiniteInFiniteOut) {
  for (const Isa isa : available_isas()) {
    for (const float query : {1e-38f, 1e-3f, 1.0f, 1e10f, 3e38f}) {
      for (const auto& [low, high] : {std::pair{-126, -120}, {-126, 120}, {100, 119}, {0, 127}}) {
        for (const PaperShape& shape :
             {PaperShape{64, 64, 64, 2, 2}, PaperShape{128, 128, 128, 8, 8, 99}}) {
          States states(5, shape.head_dim);
          const std::vector<float> q = make_queries(5, shape.head_dim, 7, query);
          for (std::uint32_t seed = 0; seed < 4; ++seed) {
            const PaperTile tile(shape, seed, low, high);
            paper_kernels(isa).attend(tile.planes(), {q.data()}, states.view(0, 5));
          }
          ASSERT_TRUE(states.finite()) << describe(shape, isa) << " query " << query << " scales 2^"
                                       << low << " to 2^" << high;
          ASSERT_GE(*std::min_element(states.l.begin(), states.l.end()), 0.5f);
        }
      }
    }
  }
}

// What is added to the scores decides here which token is attended to; where V is huge, in double.
TEST(PaperAttend, ScoresAreAddedTo) {
  constexpr std::uint32_t kDim = 128, kRows = 7;
  for (const Isa isa : available_isas()) {
    for (const std::uint32_t partition : {64u, 128u}) {
      const auto token_of = [&](std::uint32_t row) { return (row * 31 + 3) % partition; };
      std::vector<float> add(kRows * partition, -1e5f);
      for (std::uint32_t r = 0; r < kRows; ++r) {
        add[(token_of(r) / 64 * kRows + r) * 64 + token_of(r) % 64] = 1e5f;
      }
      for (const int exponent : {0, 119}) {
        const PaperTile tile({kDim, partition, partition, 4, 4}, 5, exponent, exponent);
        std::vector<float> k(partition * kDim), v(k.size()), q(kRows * kDim, 0.0f);
        reconstruct_kernels(isa).paper(tile.planes(), k.data(), v.data());
        if (exponent == 0) q = make_queries(kRows, kDim, 3);
        States states(kRows, kDim);
        paper_kernels(isa).attend(tile.planes(), {q.data(), add.data()}, states.view(0, kRows));
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
}

TEST(PaperEncode, SumsAreThoseOfTheColumns) {
  for (const Isa isa : available_isas()) {
    std::mt19937 random(3);
    std::vector<std::uint8_t> codes(128 * 64);
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() % 256);
    std::fill_n(codes.begin(), 64, std::uint8_t{255});
    for (const std::uint32_t rows : {32u, 64u, 128u}) {
      std::vector<std::uint16_t> sums(64);
      paper_kernels(isa).sum_codes(codes.data(), rows, sums.data());
      for (std::uint32_t c = 0; c < 64; ++c) {
        std::uint32_t want = 0;
        for (std::uint32_t r = 0; r < rows; ++r) want += codes[r * 64 + c];
        ASSERT_EQ(sums[c], want);
      }
    }
  }
}

// Along the rows, one sub-plane at a time, into words of 64 or more lanes.
TEST(PaperEncode, PacksAlongTheRows) {
  std::mt19937 random(5);
  std::vector<std::uint8_t> codes(128 * 64);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() % 256);
  for (const Isa isa : available_isas()) {
    for (const auto& [bits, shift] : {std::pair{8u, 0u}, {4u, 0u}, {4u, 3u}, {2u, 4u}, {1u, 6u}}) {
      for (const std::size_t lanes : {64u, 128u}) {
        for (const std::uint32_t rows : {32u, 64u, 128u}) {
          std::vector<std::byte> got(rows * lanes * bits / 8, std::byte{0xee});
          paper_kernels(isa).pack_rows(codes.data(), rows, shift, bits, lanes, got.data());
          const std::uint32_t fields = 8 / bits;
          for (std::size_t r = 0; r < rows; ++r) {
            for (std::size_t c = 0; c < lanes; ++c) {
              const std::byte at = got[4 * (r / (4 * fields) * lanes + c) + r % 4];
              const auto field = static_cast<unsigned>(r / 4 % fields) * bits;
              if (c < 64) {
                ASSERT_EQ(std::to_integer<unsigned>(at) >> field & ((1u << bits) - 1),
                          codes[r * 64 + c] >> shift & ((1u << bits) - 1));
              } else {
                ASSERT_EQ(at, std::byte{0xee});
              }
            }
          }
        }
      }
    }
  }
}

// A sum that is not that of its codes is found, the first and the last.
TEST(PaperEncode, WrongSumsAreFound) {
  for (const Isa isa : available_isas()) {
    for (PaperShape shape : paper_shapes()) {
      if (!shape.sums) continue;
      shape.tokens = 0;
      const PaperTile tile(shape, 4);
      const PaperPlanes& p = tile.planes();
      ASSERT_TRUE(paper_kernels(isa).sums_match(p)) << describe(shape, isa);
      for (const bool of_k : {true, false}) {
        const std::uint32_t partition = of_k ? p.k_partition : p.v_partition;
        const std::size_t bytes = paper_sum_bytes(partition, of_k ? p.k_bits : p.v_bits);
        const std::size_t n = std::size_t{p.tile_tokens()} * p.head_dim / partition * bytes;
        for (const std::size_t at : {std::size_t{0}, n - 1}) {
          PaperPlanes changed = p;
          const std::byte* sums = of_k ? p.k_sums : p.v_sums;
          std::vector<std::byte> wrong(sums, sums + n);
          wrong[at] ^= std::byte{1};
          (of_k ? changed.k_sums : changed.v_sums) = wrong.data();
          ASSERT_FALSE(paper_kernels(isa).sums_match(changed)) << describe(shape, isa);
        }
      }
    }
  }
}

// Equal codes everywhere; each value becomes one of the two codes beside it, on average itself, and
// a value that is a code stays one.
TEST(PaperEncode, StochasticRoundingIsUnbiasedAndTheSameEverywhere) {
  constexpr std::uint32_t kRows = 64, kStride = 80;
  // Value of row r and column c, exact in bf16.
  const auto value = [](std::size_t r, std::size_t c) {
    return c == 5 ? static_cast<float>(r % 4) : static_cast<float>(c) * 3.0f / 64;
  };
  std::vector<std::uint16_t> upright(kRows * kStride), lying(kRows * kStride);
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t c = 0; c < 64; ++c) {
      upright[r * kStride + c] = lying[c * kStride + r] = bf16_from_f32(value(r, c));
    }
  }
  const std::vector<std::uint16_t> scale(64, bf16_from_f32(1.0f)), min(64, bf16_from_f32(0.0f));
  std::vector<double> mean(64, 0.0);
  constexpr int kDraws = 64;
  for (int draw = 0; draw < kDraws; ++draw) {
    const PaperRandom random{0x123456789abcdefull * static_cast<unsigned>(draw), 7u << 8, 1, 256};
    std::vector<std::uint8_t> want(kRows * 64), got(kRows * 64);
    const auto round = [&](Isa isa, bool transposed, std::vector<std::uint8_t>& codes) {
      const HackBlock block{transposed ? lying.data() : upright.data(), kStride, kRows, transposed};
      paper_kernels(isa).round_stochastic(block, 2, scale.data(), min.data(), random, codes.data());
    };
    round(Isa::kScalar, false, want);
    for (const Isa isa : available_isas()) {
      for (const bool transposed : {false, true}) {
        round(isa, transposed, got);
        ASSERT_EQ(got, want) << isa_name(isa) << " " << transposed;
      }
    }
    for (std::size_t i = 0; i < want.size(); ++i) {
      const float x = value(i / 64, i % 64);
      ASSERT_LT(std::fabs(want[i] - x), i % 64 == 5 ? 1e-30f : 1.0f);
      mean[i % 64] += want[i] / static_cast<double>(kDraws * kRows);
    }
  }
  for (std::size_t c = 0; c < 64; ++c) {
    if (c == 5) continue;
    // Five deviations of the mean of 4,096 draws of deviation at most 1/2.
    EXPECT_NEAR(mean[c], static_cast<double>(c) * 3.0 / 64, 5.0 * 0.5 / 64) << "column " << c;
  }
}

TEST(PaperKernelTable, EveryInstructionSetHasItsOwn) {
  EXPECT_NE(paper_kernels(Isa::kAvx512).attend, paper_kernels(Isa::kAvx2).attend);
  EXPECT_NE(paper_kernels(Isa::kAvx2).attend, paper_kernels(Isa::kScalar).attend);
}

}  // namespace
}  // namespace kvferry::kernels
