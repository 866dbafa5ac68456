// Reconstruction: one rounding of scale * code + minimum, and equal bits on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/reconstruct_kernels.h"
#include "tests/kernels/hack_tile.h"
#include "tests/kernels/paper_tile.h"

namespace kvferry::kernels {
namespace {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), 4 * a.size()) == 0;
}

// Without rows and columns one rounding: the same as fma in double, cut to f32.
TEST(Reconstruct, HackRoundsOnce) {
  for (const Isa isa : available_isas()) {
    for (TileShape shape : all_shapes()) {
      shape.low = -20;
      shape.high = 20;
      const Tile tile(shape, 6);
      std::vector<float> k(64 * shape.dim), v(64 * shape.dim);
      reconstruct_kernels(isa).hack(tile.planes, k.data(), v.data());
      for (std::size_t i = 0; i < k.size(); ++i) {
        const std::size_t t = i / shape.dim, d = i % shape.dim;
        const double want_k = tile.k_scale_of(t, d) * tile.k_code(t, d) + tile.k_min_of(t, d);
        const double want_v = tile.v_scale_of(t, d) * tile.v_code(t, d) + tile.v_min_of(t, d);
        if (shape.has_row) {
          ASSERT_FLOAT_EQ(k[i], static_cast<float>(want_k)) << shape;
        } else {
          ASSERT_EQ(k[i], static_cast<float>(want_k)) << shape;
        }
        if (shape.has_column) {
          ASSERT_FLOAT_EQ(v[i], static_cast<float>(want_v)) << shape;
        } else {
          ASSERT_EQ(v[i], static_cast<float>(want_v)) << shape;
        }
      }
    }
  }
}

// Also where scales reach both ends of f32 and values saturate.
TEST(Reconstruct, HackIsTheSameEverywhere) {
  for (const auto& [low, high] : {std::pair{-126, -118}, {-20, 20}, {118, 127}}) {
    for (TileShape shape : all_shapes()) {
      shape.low = low;
      shape.high = high;
      const Tile tile(shape, 3);
      std::vector<float> k(64 * shape.dim), v(k.size()), k_want(k.size()), v_want(k.size());
      reconstruct_kernels(Isa::kScalar).hack(tile.planes, k_want.data(), v_want.data());
      for (const Isa isa : available_isas()) {
        reconstruct_kernels(isa).hack(tile.planes, k.data(), v.data());
        ASSERT_TRUE(same_bits(k, k_want)) << isa_name(isa) << " " << shape;
        ASSERT_TRUE(same_bits(v, v_want)) << isa_name(isa) << " " << shape;
      }
      for (const float x : k_want) ASSERT_TRUE(std::isfinite(x)) << shape;
      for (const float x : v_want) ASSERT_TRUE(std::isfinite(x)) << shape;
    }
  }
}

TEST(Reconstruct, PaperIsTheSameEverywhere) {
  for (const auto& [low, high] : {std::pair{-126, -118}, {-20, 20}, {118, 127}}) {
    for (const PaperShape& shape : paper_shapes()) {
      const PaperTile tile(shape, 3, low, high);
      const std::size_t n = std::size_t{tile.planes().tile_tokens()} * shape.head_dim;
      const std::size_t used = std::size_t{tile.planes().tokens} * shape.head_dim;
      std::vector<float> k(n), v(n), k_want(n), v_want(n);
      reconstruct_kernels(Isa::kScalar).paper(tile.planes(), k_want.data(), v_want.data());
      for (const Isa isa : available_isas()) {
        reconstruct_kernels(isa).paper(tile.planes(), k.data(), v.data());
        for (std::size_t i = 0; i < used; ++i) {
          ASSERT_EQ(k[i], k_want[i]) << describe(shape, isa) << " K " << i;
          ASSERT_EQ(v[i], v_want[i]) << describe(shape, isa) << " V " << i;
          ASSERT_TRUE(std::isfinite(k[i]) && std::isfinite(v[i]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::kernels
