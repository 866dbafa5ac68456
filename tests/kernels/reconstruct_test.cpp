// Reconstruction: one rounding of scale * code + minimum, and equal bits on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/byte_kernels.h"
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

// Finite bf16 by the scalar definition.
std::vector<std::uint16_t> rounded(const std::vector<float>& values) {
  std::vector<std::uint16_t> halves(values.size());
  byte_kernels(Isa::kScalar).to_finite_bf16(values.data(), values.size(), halves.data());
  return halves;
}

TEST(Reconstruct, HackInBf16IsItsF32Rounded) {
  for (const auto& [low, high] : {std::pair{-126, -118}, {-20, 20}, {118, 127}}) {
    for (TileShape shape : all_shapes()) {
      shape.low = low;
      shape.high = high;
      const Tile tile(shape, 4);
      std::vector<float> k(64 * shape.dim), v(k.size());
      std::vector<std::uint16_t> k_halves(k.size()), v_halves(k.size());
      for (const Isa isa : available_isas()) {
        reconstruct_kernels(isa).hack(tile.planes, k.data(), v.data());
        reconstruct_kernels(isa).hack_bf16(tile.planes, k_halves.data(), v_halves.data());
        ASSERT_EQ(k_halves, rounded(k)) << isa_name(isa) << " " << shape;
        ASSERT_EQ(v_halves, rounded(v)) << isa_name(isa) << " " << shape;
      }
    }
  }
}

TEST(Reconstruct, PaperInBf16IsItsF32Rounded) {
  for (const auto& [low, high] : {std::pair{-126, -118}, {-20, 20}, {118, 127}}) {
    for (const PaperShape& shape : paper_shapes()) {
      const PaperTile tile(shape, 4, low, high);
      const std::size_t n = std::size_t{tile.planes().tile_tokens()} * shape.head_dim;
      std::vector<float> k(n), v(n);
      std::vector<std::uint16_t> k_halves(n), v_halves(n);
      for (const Isa isa : available_isas()) {
        reconstruct_kernels(isa).paper(tile.planes(), k.data(), v.data());
        reconstruct_kernels(isa).paper_bf16(tile.planes(), k_halves.data(), v_halves.data());
        const std::size_t used = std::size_t{tile.planes().tokens} * shape.head_dim;
        for (auto* values : {&k, &v}) values->resize(used);
        for (auto* halves : {&k_halves, &v_halves}) halves->resize(used);
        ASSERT_EQ(k_halves, rounded(k)) << describe(shape, isa);
        ASSERT_EQ(v_halves, rounded(v)) << describe(shape, isa);
        for (auto* values : {&k, &v}) values->resize(n);
        for (auto* halves : {&k_halves, &v_halves}) halves->resize(n);
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::kernels
