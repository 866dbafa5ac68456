// Attention over one dense tile and the arithmetic of states: against exact attention in double,
// and bit for bit against itself with other rows around a row.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/kernels/dense_test_util.h"

namespace kvferry::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct States {
  States(std::size_t rows, std::size_t dim)
      : m(rows, -kInfinity), l(rows, 0.0f), o(rows * dim, 0.0f), head_dim(dim) {}

  AttentionStates view() {
    return {m.data(), l.data(), o.data(), static_cast<std::uint32_t>(m.size()),
            static_cast<std::uint32_t>(head_dim)};
  }

  std::vector<float> m, l, o;
  std::size_t head_dim;
};

struct TileData {
  TileData(std::size_t head_dim, std::uint32_t seed, float deviation = 1.0f)
      : k(bf16_of(normal_values(kTileTokens * head_dim, seed, deviation))),
        v(bf16_of(normal_values(kTileTokens * head_dim, seed + 1))),
        wide_k(f32_of(k)),
        wide_v(f32_of(v)) {}

  std::vector<std::uint16_t> k, v;
  std::vector<float> wide_k, wide_v;
};

std::vector<float> queries(std::size_t rows, std::size_t head_dim, std::uint32_t seed) {
  return normal_values(rows * head_dim, seed, 1.0f / std::sqrt(static_cast<float>(head_dim)));
}

// Normalised attention of one row over the first visible[i] tokens of tiles[i], in double.
std::vector<double> exact_attention(const float* q, std::span<const TileData> tiles,
                                    std::span<const std::uint32_t> visible, std::size_t head_dim) {
  double maximum = -std::numeric_limits<double>::infinity();
  std::vector<double> scores;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    for (std::size_t t = 0; t < visible[i]; ++t) {
      double score = 0;
      for (std::size_t d = 0; d < head_dim; ++d) {
        score += static_cast<double>(q[d]) * tiles[i].wide_k[t * head_dim + d];
      }
      scores.push_back(score);
      maximum = std::max(maximum, score);
    }
  }
  double sum = 0;
  std::vector<double> out(head_dim, 0.0);
  auto score = scores.begin();
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    for (std::size_t t = 0; t < visible[i]; ++t) {
      const double p = std::exp(*score++ - maximum);
      sum += p;
      for (std::size_t d = 0; d < head_dim; ++d) out[d] += p * tiles[i].wide_v[t * head_dim + d];
    }
  }
  for (double& value : out) value = sum == 0 ? 0 : value / sum;
  return out;
}

using DenseAttention = EachIsa;

void expect_exact(States& states, const std::vector<float>& q, std::span<const TileData> tiles,
                  const std::vector<std::vector<std::uint32_t>>& visible_of_tiles, double bound,
                  const DenseKernels& kernels) {
  std::vector<float> out(states.o.size());
  kernels.normalize(states.view(), out.data());
  const std::size_t head_dim = states.head_dim;
  for (std::size_t row = 0; row < states.m.size(); ++row) {
    std::vector<std::uint32_t> visible;
    for (const auto& of_tile : visible_of_tiles) visible.push_back(of_tile[row]);
    const std::vector<double> exact =
        exact_attention(q.data() + row * head_dim, tiles, visible, head_dim);
    for (std::size_t d = 0; d < head_dim; ++d) {
      ASSERT_NEAR(out[row * head_dim + d], exact[d], bound) << "row " << row << " d " << d;
    }
  }
}

TEST_P(DenseAttention, MatchesExactAttentionOverTwoTiles) {
  for (std::size_t head_dim : {16, 20, 40, 64, 80, 96, 128, 256}) {
    const std::vector<TileData> tiles = {TileData(head_dim, 20), TileData(head_dim, 30)};
    const std::size_t rows = 13;
    const std::vector<float> q = queries(rows, head_dim, 40);
    const std::vector<std::vector<std::uint32_t>> visible = {
        {64, 64, 63, 1, 0, 0, 17, 16, 15, 64, 33, 5, 48},
        {64, 0, 64, 0, 0, 1, 63, 2, 31, 32, 47, 64, 49}};
    for (bool wide : {false, true}) {
      States states(rows, head_dim);
      for (std::size_t i = 0; i < 2; ++i) {
        if (wide) {
          kernels().attend_dense_f32({q.data()}, tiles[i].wide_k.data(), tiles[i].wide_v.data(),
                                     visible[i].data(), states.view());
        } else {
          kernels().attend_dense_bf16({q.data()}, tiles[i].k.data(), tiles[i].v.data(),
                                      visible[i].data(), states.view());
        }
      }
      // Scores of about 1 have errors below head_dim * 2^-24; outputs are averages of values of 1.
      expect_exact(states, q, tiles, visible, 2e-6, kernels());
    }
  }
}

TEST_P(DenseAttention, Bf16AndF32AgreeBitForBit) {
  const TileData tile(64, 50);
  const std::vector<float> q = queries(9, 64, 52);
  States narrow(9, 64);
  States wide(9, 64);
  kernels().attend_dense_bf16({q.data()}, tile.k.data(), tile.v.data(), nullptr, narrow.view());
  kernels().attend_dense_f32({q.data()}, tile.wide_k.data(), tile.wide_v.data(), nullptr,
                             wide.view());
  EXPECT_EQ(bits_of(narrow.m), bits_of(wide.m));
  EXPECT_EQ(bits_of(narrow.l), bits_of(wide.l));
  EXPECT_EQ(bits_of(narrow.o), bits_of(wide.o));
}

TEST_P(DenseAttention, StateIsTakenAgainstTheTilesMaximum) {
  const std::size_t head_dim = 64;
  const TileData tile(head_dim, 60);
  const std::vector<float> q = queries(1, head_dim, 61);
  States states(1, head_dim);
  kernels().attend_dense_bf16({q.data()}, tile.k.data(), tile.v.data(), nullptr, states.view());
  double maximum = -1e30;
  std::vector<double> scores(kTileTokens);
  for (std::size_t t = 0; t < kTileTokens; ++t) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      scores[t] += static_cast<double>(q[d]) * tile.wide_k[t * head_dim + d];
    }
    maximum = std::max(maximum, scores[t]);
  }
  double sum = 0;
  for (double score : scores) sum += std::exp(score - maximum);
  EXPECT_NEAR(states.m[0], maximum, 1e-6 * std::abs(maximum));
  EXPECT_NEAR(states.l[0], sum, 1e-5 * sum);
}

// Scores of +-1e4: exp underflows for all but the greatest, and nothing becomes NaN.
TEST_P(DenseAttention, HugeScores) {
  for (std::size_t head_dim : {64, 128}) {
    const std::vector<TileData> tiles = {TileData(head_dim, 70, 1e4f),
                                         TileData(head_dim, 72, 1e4f)};
    const std::vector<float> q = queries(7, head_dim, 74);
    const std::vector<std::vector<std::uint32_t>> visible(2, std::vector<std::uint32_t>(7, 64));
    States states(7, head_dim);
    for (const TileData& tile : tiles) {
      kernels().attend_dense_bf16({q.data()}, tile.k.data(), tile.v.data(), nullptr, states.view());
    }
    // A score of 1e4 is known to about 1e4 * 2^-21, so p is to 0.5 %.
    expect_exact(states, q, tiles, visible, 3e-2, kernels());
  }
}

// Scores and sums beyond f32, in either direction and against each other, saturate.
TEST_P(DenseAttention, StaysFiniteWhereSumsLeaveF32) {
  const std::size_t head_dim = 48;
  const float largest = std::numeric_limits<float>::max();
  for (const float q : {largest, -largest}) {
    for (const int alternating : {1, 2}) {  // every product of one sign, or every second
      std::vector<float> k(kTileTokens * head_dim), v(k.size(), largest);
      for (std::size_t i = 0; i < k.size(); ++i) k[i] = i % alternating == 0 ? largest : -largest;
      for (std::size_t i = 0; i < v.size(); i += 7) v[i] = -largest;
      const std::vector<float> queries(2 * head_dim, q);
      States states(2, head_dim);
      for (int twice = 0; twice < 2; ++twice) {
        kernels().attend_dense_f32({queries.data()}, k.data(), v.data(), nullptr, states.view());
      }
      kernels().merge_states(states.view(), States(states).view());
      for (const auto* values : {&states.m, &states.l, &states.o}) {
        for (const float x : *values) ASSERT_TRUE(std::isfinite(x)) << x;
      }
      EXPECT_GT(states.l[0], 0.0f);
    }
  }
}

TEST_P(DenseAttention, RowsThatSeeNothingKeepTheirState) {
  const std::size_t head_dim = 64;
  const TileData tile(head_dim, 80);
  const std::vector<float> q = queries(8, head_dim, 82);
  States states(8, head_dim);
  for (std::size_t i = 0; i < states.o.size(); ++i) states.o[i] = i % 2 == 0 ? -0.0f : 1.5f;
  states.m.assign(8, 0.25f);
  states.l.assign(8, 3.0f);
  const States before = states;
  const std::vector<std::uint32_t> visible = {0, 3, 0, 64, 0, 0, 0, 0};
  kernels().attend_dense_bf16({q.data()}, tile.k.data(), tile.v.data(), visible.data(),
                              states.view());
  for (std::size_t row = 0; row < 8; ++row) {
    const bool changed = states.l[row] != before.l[row];
    EXPECT_EQ(changed, visible[row] != 0) << row;
    if (visible[row] != 0) continue;
    const std::span<const float> got(states.o.data() + row * head_dim, head_dim);
    const std::span<const float> was(before.o.data() + row * head_dim, head_dim);
    EXPECT_EQ(bits_of(got), bits_of(was)) << row;
  }
}

// A state whose sums so far are -0: only there can the sign of a tile's zero sum be seen.
States negative_zeros(std::size_t rows, std::size_t head_dim) {
  States states(rows, head_dim);
  states.m.assign(rows, 0.0f);
  states.l.assign(rows, 1.0f);
  states.o.assign(rows * head_dim, -0.0f);
  return states;
}

// Values of which every fifth channel sums to -0 for rows that see few tokens (tiny negative
// products underflow, then come products with -0), while tokens further on are positive.
TileData tile_with_vanishing_sums(std::size_t head_dim) {
  TileData tile(head_dim, 90, 12.0f);
  for (std::size_t d = 0; d < head_dim; d += 5) {
    for (std::size_t t = 0; t < kTileTokens; ++t) {
      tile.v[t * head_dim + d] = t < 4 ? 0x8001 : t < 40 ? 0x8000 : 0x3f80;
    }
  }
  return tile;
}

// A row alone, and the same row among 1..70 others that see other numbers of tokens, has one
// answer.
TEST_P(DenseAttention, RowsDoNotDependOnTheirNeighbours) {
  for (std::size_t head_dim : {40, 64, 128}) {
    const TileData tile = tile_with_vanishing_sums(head_dim);
    std::mt19937 engine(91);
    const std::vector<float> q = queries(70, head_dim, 92);
    std::vector<std::uint32_t> visible(70);
    for (std::uint32_t& tokens : visible) tokens = engine() % 65;
    States alone(70, head_dim);
    for (std::size_t row = 0; row < 70; ++row) {
      States one = negative_zeros(1, head_dim);
      kernels().attend_dense_bf16({q.data() + row * head_dim}, tile.k.data(), tile.v.data(),
                                  visible.data() + row, one.view());
      alone.m[row] = one.m[0];
      alone.l[row] = one.l[0];
      std::copy(one.o.begin(), one.o.end(), alone.o.begin() + static_cast<long>(row * head_dim));
    }
    for (std::size_t rows = 1; rows <= 70; ++rows) {
      const std::size_t first = engine() % (71 - rows);
      States together = negative_zeros(rows, head_dim);
      kernels().attend_dense_bf16({q.data() + first * head_dim}, tile.k.data(), tile.v.data(),
                                  visible.data() + first, together.view());
      const std::span<const float> m(alone.m.data() + first, rows);
      const std::span<const float> l(alone.l.data() + first, rows);
      const std::span<const float> o(alone.o.data() + first * head_dim, rows * head_dim);
      ASSERT_EQ(bits_of(together.m), bits_of(m)) << rows;
      ASSERT_EQ(bits_of(together.l), bits_of(l)) << rows;
      ASSERT_EQ(bits_of(together.o), bits_of(o)) << rows;
    }
  }
}

TEST_P(DenseAttention, TokensBeyondTheVisibleOnesAreNotUsed) {
  const std::size_t head_dim = 64;
  const TileData tile(head_dim, 100);
  const std::vector<float> q = queries(5, head_dim, 102);
  for (std::uint32_t tokens : {1u, 16u, 17u, 63u}) {
    TileData other = tile;
    for (std::size_t i = tokens * head_dim; i < other.k.size(); ++i) {
      other.k[i] = 0x7f00;  // 1.7e38
      other.v[i] = 0xff00;
    }
    const std::vector<std::uint32_t> visible(5, tokens);
    States expected(5, head_dim);
    States got(5, head_dim);
    kernels().attend_dense_bf16({q.data()}, tile.k.data(), tile.v.data(), visible.data(),
                                expected.view());
    kernels().attend_dense_bf16({q.data()}, other.k.data(), other.v.data(), visible.data(),
                                got.view());
    EXPECT_EQ(bits_of(got.m), bits_of(expected.m));
    EXPECT_EQ(bits_of(got.l), bits_of(expected.l));
    EXPECT_EQ(bits_of(got.o), bits_of(expected.o));
  }
}

TEST_P(DenseAttention, MergingPartsEqualsTheWhole) {
  for (std::size_t head_dim : {20, 64, 128}) {
    const std::vector<TileData> tiles = {TileData(head_dim, 110), TileData(head_dim, 112),
                                         TileData(head_dim, 114)};
    const std::vector<float> q = queries(6, head_dim, 116);
    std::vector<std::vector<std::uint32_t>> visible(3, std::vector<std::uint32_t>(6, 64));
    visible[1] = {0, 64, 3, 64, 0, 64};
    States left(6, head_dim);
    States right(6, head_dim);
    for (std::size_t i = 0; i < 3; ++i) {
      kernels().attend_dense_bf16({q.data()}, tiles[i].k.data(), tiles[i].v.data(),
                                  visible[i].data(), (i == 0 ? left : right).view());
    }
    kernels().merge_states(left.view(), right.view());
    expect_exact(left, q, tiles, visible, 2e-6, kernels());
  }
}

TEST_P(DenseAttention, MergingEmptyStates) {
  const std::size_t head_dim = 20;
  const TileData tile(head_dim, 120);
  const std::vector<float> q = queries(2, head_dim, 122);
  States full(2, head_dim);
  kernels().attend_dense_bf16({q.data()}, tile.k.data(), tile.v.data(), nullptr, full.view());
  const States before = full;
  States empty(2, head_dim);
  kernels().merge_states(full.view(), empty.view());
  EXPECT_EQ(bits_of(full.o), bits_of(before.o));
  EXPECT_EQ(bits_of(full.l), bits_of(before.l));
  EXPECT_EQ(bits_of(full.m), bits_of(before.m));

  States target(2, head_dim);
  kernels().merge_states(target.view(), full.view());
  EXPECT_EQ(target.o, before.o);
  EXPECT_EQ(target.l, before.l);
  EXPECT_EQ(target.m, before.m);

  States both(2, head_dim);
  kernels().merge_states(both.view(), empty.view());
  EXPECT_EQ(both.m, std::vector<float>(2, -kInfinity));
  EXPECT_EQ(both.l, std::vector<float>(2, 0.0f));
  std::vector<float> out(2 * head_dim, 7.0f);
  kernels().normalize(both.view(), out.data());
  EXPECT_EQ(out, std::vector<float>(2 * head_dim, 0.0f));
}

TEST_P(DenseAttention, MergingDistantMaximaKeepsTheGreater) {
  States low(1, 4);
  low.m = {-1e4f};
  low.l = {5.0f};
  low.o = {1, 2, 3, 4};
  States high(1, 4);
  high.m = {1e4f};
  high.l = {2.0f};
  high.o = {-4, 3, -2, 1};
  States merged = low;
  kernels().merge_states(merged.view(), high.view());
  EXPECT_EQ(merged.m, high.m);
  EXPECT_EQ(merged.l, high.l);
  EXPECT_EQ(merged.o, high.o);
  merged = high;
  kernels().merge_states(merged.view(), low.view());
  EXPECT_EQ(merged.m, high.m);
  EXPECT_EQ(merged.l, high.l);
  EXPECT_EQ(merged.o, high.o);
}

// What kernels/README.md promises of kernels that use fma.
TEST(DenseAttentionBits, FusedInstructionSetsAgree) {
  if (!cpu_has(Isa::kAvx512)) GTEST_SKIP() << "needs both AVX2 and AVX-512";
  for (std::size_t head_dim : {40, 64, 128}) {
    const TileData tile(head_dim, 130);
    const std::vector<float> q = queries(11, head_dim, 132);
    std::vector<std::vector<std::uint32_t>> results;
    for (Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
      const DenseKernels& kernels = dense_kernels(isa);
      States states(11, head_dim);
      States other = negative_zeros(11, head_dim);
      kernels.attend_dense_bf16({q.data()}, tile.k.data(), tile.v.data(), nullptr, states.view());
      kernels.merge_states(other.view(), states.view());
      std::vector<float> all = other.m;
      all.insert(all.end(), other.l.begin(), other.l.end());
      all.insert(all.end(), other.o.begin(), other.o.end());
      std::vector<float> out(other.o.size());
      kernels.normalize(other.view(), out.data());
      all.insert(all.end(), out.begin(), out.end());
      kernels.silu_mul(q.data(), q.data(), q.size(), out.data());
      all.insert(all.end(), out.begin(), out.end());
      results.push_back(bits_of(all));
    }
    EXPECT_EQ(results[0], results[1]) << head_dim;
  }
}

// An addition of c_r * e_t is what one more channel of q and k would make.
TEST_P(DenseAttention, ScoresAreAddedTo) {
  const std::size_t head_dim = 40, rows = 13;
  const TileData tile(head_dim, 70);
  const std::vector<float> q = queries(rows, head_dim, 71);
  std::vector<float> wider_q, wider_k, wider_v, add;
  for (std::size_t r = 0; r < rows; ++r) {
    const float c = 0.25f * static_cast<float>(r) - 1.0f;
    wider_q.insert(wider_q.end(), q.begin() + static_cast<std::ptrdiff_t>(r * head_dim),
                   q.begin() + static_cast<std::ptrdiff_t>((r + 1) * head_dim));
    wider_q.push_back(c);
    for (std::size_t t = 0; t < kTileTokens; ++t) add.push_back(c * static_cast<float>(t % 7));
  }
  for (std::size_t t = 0; t < kTileTokens; ++t) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      wider_k.push_back(tile.wide_k[t * head_dim + d]);
      wider_v.push_back(tile.wide_v[t * head_dim + d]);
    }
    wider_k.push_back(static_cast<float>(t % 7));
    wider_v.push_back(0.0f);
  }
  std::vector<std::uint32_t> visible(rows, 64);
  visible[2] = 0;
  visible[5] = 17;
  States got(rows, head_dim), want(rows, head_dim + 1);
  kernels().attend_dense_bf16({q.data(), add.data()}, tile.k.data(), tile.v.data(), visible.data(),
                              got.view());
  kernels().attend_dense_f32({wider_q.data()}, wider_k.data(), wider_v.data(), visible.data(),
                             want.view());
  for (std::size_t r = 0; r < rows; ++r) {
    ASSERT_NEAR(got.l[r], want.l[r], 1e-4);
    for (std::size_t d = 0; d < head_dim; ++d) {
      ASSERT_NEAR(got.o[r * head_dim + d], want.o[r * (head_dim + 1) + d], 1e-4) << r << " " << d;
    }
  }
}

TEST_P(DenseAttention, ScoresOfWavesAreARowsOwn) {
  const std::size_t count = 21, rows = 13;
  std::vector<float> terms = queries(rows, 2 * count, 80), turn(2 * count);
  std::vector<float> basis(count * kTileTokens);
  const auto frequency = [](std::size_t p) { return std::pow(0.8, p); };
  for (std::size_t p = 0; p < count; ++p) {
    turn[p] = static_cast<float>(std::cos(1000.0 * frequency(p)));
    turn[count + p] = static_cast<float>(std::sin(1000.0 * frequency(p)));
    for (std::size_t j = 0; j < 32; ++j) {
      basis[p * 64 + j] = static_cast<float>(std::cos((j + 0.5) * frequency(p)));
      basis[p * 64 + 32 + j] = static_cast<float>(std::sin((j + 0.5) * frequency(p)));
    }
  }
  std::fill_n(terms.begin() + 5 * 2 * count, 2 * count, 3e38f);  // out of bounds
  std::vector<float> all(rows * kTileTokens), one(kTileTokens);
  kernels().score_waves({count, terms.data(), turn.data(), basis.data()}, rows, all.data());
  for (std::size_t r = 0; r < rows; ++r) {
    const float* row = terms.data() + r * 2 * count;
    kernels().score_waves({count, row, turn.data(), basis.data()}, 1, one.data());
    for (std::size_t t = 0; t < kTileTokens; ++t) {
      ASSERT_EQ(all[r * kTileTokens + t], one[t]) << r << " " << t;
      ASSERT_LE(std::abs(one[t]), kMaxScoreAdd);
      double sum = 0;
      for (std::size_t p = 0; p < count; ++p) {
        const double angle = (1000.0 - 31.5 + static_cast<double>(t)) * frequency(p);
        sum += row[p] * std::cos(angle) + row[count + p] * std::sin(angle);
      }
      ASSERT_NEAR(one[t], r == 5 ? one[t] : sum, 1e-4) << r << " " << t;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllIsas, DenseAttention, testing::ValuesIn(available_isas()),
                         isa_test_name);

}  // namespace
}  // namespace kvferry::kernels
