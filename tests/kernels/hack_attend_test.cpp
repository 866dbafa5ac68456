// Attention on codes, as a kernel: a row's result depends on that row alone, states merge, and
// nothing finite ever makes NaN or infinity. The oracle in tests/codec checks whole sequences.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <vector>

#include "kernels/dense_kernels.h"
#include "kernels/hack_kernels.h"
#include "kernels/reconstruct_kernels.h"
#include "tests/kernels/hack_tile.h"

namespace kvferry::kernels {
namespace {

void attend(Isa isa, const Tile& tile, const std::vector<float>& q, States& states,
            std::uint32_t first, std::uint32_t rows) {
  attend_tile(isa, tile.planes, {q.data() + std::size_t{first} * states.head_dim},
              states.view(first, rows));
}

// Any number of rows at any place gives each row the same bits, also a row that saturates beside
// others that do not.
TEST(HackAttend, RowsAreIndependentBitByBit) {
  constexpr std::uint32_t kRows = 9;
  for (const Isa isa : available_isas()) {
    for (const TileShape& shape : all_shapes()) {
      const Tile first(shape, 1), second(shape, 2);
      std::vector<float> q = make_queries(kRows, shape.dim, 3);
      std::fill_n(q.begin() + 6 * shape.dim, shape.dim, 3e38f);
      States want(kRows, shape.dim);
      for (const Tile* tile : {&first, &second}) {
        for (std::uint32_t r = 0; r < kRows; ++r) attend(isa, *tile, q, want, r, 1);
      }
      for (const std::uint32_t step : {2u, 3u, 4u, kRows}) {
        States got(kRows, shape.dim);
        for (const Tile* tile : {&first, &second}) {
          for (std::uint32_t r = 0; r < kRows; r += step) {
            attend(isa, *tile, q, got, r, std::min(step, kRows - r));
          }
        }
        ASSERT_TRUE(got == want) << isa_name(isa) << " " << shape << " rows " << step;
      }
    }
  }
}

// Works of all shapes of one head_dim in one call, on states of 1 to 9 rows, some of which
// saturate: the bits are those of one work after the other.
TEST(HackAttend, ManyWorksGiveTheBitsOfOneByOne) {
  constexpr std::uint32_t kMostRows = 9;
  for (const std::uint32_t dim : {64u, 128u, 256u}) {
    std::deque<Tile> tiles;
    for (const TileShape& shape : all_shapes()) {
      if (shape.dim == dim) tiles.emplace_back(shape, static_cast<std::uint32_t>(tiles.size()));
    }
    std::vector<float> q = make_queries(kMostRows, dim, 3);
    std::fill_n(q.begin() + 2 * dim, dim, 3e38f);
    const std::vector<float> add = make_queries(kMostRows, 64, 4);
    for (const Isa isa : available_isas()) {
      std::deque<States> one_by_one, together;
      for (std::uint32_t rows = 1; rows <= kMostRows; ++rows) {
        one_by_one.emplace_back(rows, dim);
        together.emplace_back(rows, dim);
      }
      std::vector<HackWork> works;
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        const std::size_t n = i % 4 == 0 ? 3 : i % kMostRows;
        const auto rows = static_cast<std::uint32_t>(n + 1);
        const Queries queries{q.data(), i % 3 == 0 ? add.data() : nullptr};
        attend_tile(isa, tiles[i].planes, queries, one_by_one[n].view(0, rows));
        works.push_back({tiles[i].planes, queries, together[n].view(0, rows)});
      }
      hack_kernels(isa).attend(works.data(), works.size());
      for (std::size_t n = 0; n < kMostRows; ++n) {
        ASSERT_TRUE(together[n] == one_by_one[n]) << isa_name(isa) << " " << dim << " " << n + 1;
      }
    }
  }
}

// Every value against exact attention in double precision; sharp and flat softmax.
TEST(HackAttend, EveryShapeIsWithinItsBound) {
  constexpr std::uint32_t kRows = 5;
  for (const TileShape& shape : all_shapes()) {
    const Tile tile(shape, 4);
    const std::vector<float> q = make_queries(kRows, shape.dim, 5, shape.dim == 64 ? 2.0f : 0.3f);
    std::vector<TileAnswer> want;
    for (std::uint32_t r = 0; r < kRows; ++r) {
      want.push_back(tile_answer(tile, q.data() + std::size_t{r} * shape.dim));
    }
    for (const Isa isa : available_isas()) {
      States states(kRows, shape.dim);
      attend(isa, tile, q, states, 0, kRows);
      for (std::uint32_t i = 0; i < kRows * shape.dim; ++i) {
        const std::uint32_t r = i / shape.dim, d = i % shape.dim;
        ASSERT_NEAR(states.o[i] / states.l[r], want[r].output[d], want[r].bound[d])
            << isa_name(isa) << " " << shape << " row " << r << " channel " << d;
      }
    }
  }
}

// What is reported as running is what runs: no table stands in for another.
TEST(HackAttend, EveryInstructionSetHasKernelsOfItsOwn) {
  EXPECT_NE(hack_kernels(Isa::kAvx2).attend, hack_kernels(Isa::kScalar).attend);
  EXPECT_NE(hack_kernels(Isa::kAvx512).attend, hack_kernels(Isa::kScalar).attend);
  EXPECT_NE(hack_kernels(Isa::kAvx512).attend, hack_kernels(Isa::kAvx2).attend);
  for (const Isa isa : available_isas()) {
    ASSERT_TRUE(force_isa(isa));
    EXPECT_EQ(&hack_kernels(), &hack_kernels(isa));
  }
}

// Nothing is read or written outside the shapes: no rows leave all as it was, and neighbours of a
// row's state stay. (The sanitizer build sees reads.)
TEST(HackAttend, TouchesOnlyItsRows) {
  for (const Isa isa : available_isas()) {
    const Tile tile({64, 2, 2}, 1);
    const std::vector<float> q = make_queries(5, 64, 2);
    States states(5, 64);
    const States untouched = states;
    attend_tile(isa, tile.planes, {q.data()}, states.view(2, 0));
    EXPECT_TRUE(states == untouched);
    attend_tile(isa, tile.planes, {q.data() + 2 * 64}, states.view(2, 1));
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
    const Tile a({128, 4, 2}, 1), b({128, 2, 4}, 2);
    const std::vector<float> q = make_queries(3, 128, 5);
    States ab(3, 128), ba(3, 128);
    for (const Tile* tile : {&a, &b}) attend_tile(isa, tile->planes, {q.data()}, ab.view(0, 3));
    for (const Tile* tile : {&b, &a}) attend_tile(isa, tile->planes, {q.data()}, ba.view(0, 3));
    for (std::uint32_t r = 0; r < 3; ++r) {
      EXPECT_EQ(ab.m[r], ba.m[r]);
      EXPECT_NEAR(ab.l[r], ba.l[r], 1e-5f * ab.l[r]);
      for (std::uint32_t d = 0; d < 128; ++d) {
        EXPECT_NEAR(ab.o[r * 128 + d], ba.o[r * 128 + d], 1e-4f * ab.l[r]);
      }
    }
  }
}

// Scales, minima, rows and columns at both ends of f32, queries too: all that comes out is finite.
TEST(HackAttend, FiniteInFiniteOut) {
  const std::pair<int, int> ranges[] = {{-126, -120}, {-126, 120}, {100, 119}, {0, 127}};
  for (const float query : {1e-38f, 1e-3f, 1.0f, 1e10f, 3e38f}) {
    for (const auto& [low, high] : ranges) {
      for (const auto& [factor_low, factor_high] : ranges) {
        for (const std::uint32_t bits : {2u, 7u, 8u}) {
          const bool factors = bits == 7;
          const TileShape shape{
              64,      bits, bits, factors ? 32u : 64u, factors ? 32u : 64u, factors,
              factors, low,  high, factor_low,          factor_high};
          const std::vector<float> q = make_queries(5, 64, 7, query);
          for (const Isa isa : available_isas()) {
            States states(5, 64);
            for (std::uint32_t seed = 0; seed < 4; ++seed) {
              attend(isa, Tile(shape, seed), q, states, 0, 5);
            }
            ASSERT_TRUE(states.finite()) << isa_name(isa) << " query " << query << " " << shape;
            ASSERT_GE(*std::min_element(states.l.begin(), states.l.end()), 0.5f);
          }
        }
      }
    }
  }
}

// A score far beyond f32: the softmax is that of the exact scores.
TEST(HackAttend, HugeScoresChooseTheRightToken) {
  for (const Isa isa : available_isas()) {
    Tile tile({64, 8, 8}, 4);
    std::fill(tile.k_scale.begin(), tile.k_scale.end(), bf16_from_f32(1e30f));
    std::fill(tile.k_min.begin(), tile.k_min.end(), bf16_from_f32(-1e32f));
    const std::vector<float> q = make_queries(4, 64, 9, 1e20f);
    std::vector<float> k(64 * 64), v(64 * 64);
    reconstruct_kernels(isa).hack(tile.planes, k.data(), v.data());
    States states(4, 64);
    attend_tile(isa, tile.planes, {q.data()}, states.view(0, 4));
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

// What is added to the scores decides here which token is attended to; where V is huge, in double.
TEST(HackAttend, ScoresAreAddedTo) {
  constexpr std::uint32_t kDim = 128, kRows = 7;
  const auto token_of = [](std::uint32_t row) { return (row * 11 + 3) % 64; };
  std::vector<float> add(kRows * 64, -1e5f);
  for (std::uint32_t r = 0; r < kRows; ++r) add[r * 64 + token_of(r)] = 1e5f;
  for (const Isa isa : available_isas()) {
    for (const auto& [exponent, factors] :
         {std::pair{0, false}, {0, true}, {119, false}, {119, true}}) {
      const Tile tile({kDim, 4, 4, 64, 64, factors, factors, exponent, exponent}, 5);
      std::vector<float> k(64 * kDim), v(64 * kDim), q(kRows * kDim, 0.0f);
      reconstruct_kernels(isa).hack(tile.planes, k.data(), v.data());
      if (exponent == 0) q = make_queries(kRows, kDim, 3);
      States states(kRows, kDim);
      attend_tile(isa, tile.planes, {q.data(), add.data()}, states.view(0, kRows));
      const float largest = std::ldexp(256.0f, exponent);
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
