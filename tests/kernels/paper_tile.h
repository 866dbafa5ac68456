// Tiles of random codes in the published layout.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/dense_kernels.h"
#include "kernels/isa.h"
#include "kernels/paper_kernels.h"

namespace kvferry::kernels {

struct PaperShape {
  std::uint32_t head_dim, k_partition, v_partition, k_bits, v_bits;
  std::uint32_t tokens = 0;  // 0: the whole tile
  bool sums = true;
};

inline std::string describe(const PaperShape& s, Isa isa) {
  return std::string(isa_name(isa)) + " head_dim " + std::to_string(s.head_dim) + " partitions " +
         std::to_string(s.k_partition) + " " + std::to_string(s.v_partition) + " bits " +
         std::to_string(s.k_bits) + " " + std::to_string(s.v_bits) + " tokens " +
         std::to_string(s.tokens);
}

// Random codes, packed as the header says, with scales between 2^low and 2^high.
class PaperTile {
 public:
  explicit PaperTile(const PaperShape& shape, std::uint32_t seed, int low = -6, int high = 0)
      : shape_(shape), random_(seed) {
    planes_.head_dim = shape.head_dim;
    planes_.k_partition = shape.k_partition;
    planes_.v_partition = shape.v_partition;
    planes_.k_bits = shape.k_bits;
    planes_.v_bits = shape.v_bits;
    tile_ = planes_.tile_tokens();
    planes_.tokens = shape.tokens == 0 ? tile_ : shape.tokens;
    make_codes();
    k_scale_ = metadata(tile_ * shape.head_dim / shape.k_partition, true, low, high);
    k_min_ = metadata(k_scale_.size(), false, low, high);
    v_scale_ = metadata(tile_ * shape.head_dim / shape.v_partition, true, low, high);
    v_min_ = metadata(v_scale_.size(), false, low, high);
    point();
  }

  const PaperPlanes& planes() const { return planes_; }

 private:
  std::vector<std::uint16_t> metadata(std::size_t n, bool positive, int low, int high) {
    std::vector<std::uint16_t> plane;
    for (std::size_t i = 0; i < n; ++i) {
      const auto exponent =
          low + static_cast<int>(random_() % static_cast<unsigned>(high - low + 1));
      const float value = std::ldexp(1.0f + static_cast<float>(random_() % 128) / 128.0f, exponent);
      plane.push_back(bf16_from_f32(positive || random_() % 2 == 0 ? value : -value));
    }
    return plane;
  }

  void make_codes() {
    const std::uint32_t dim = shape_.head_dim;
    k_codes_.assign(std::size_t{tile_} * dim * shape_.k_bits / 8, std::byte{0});
    v_codes_.assign(std::size_t{tile_} * dim * shape_.v_bits / 8, std::byte{0});
    std::vector<std::uint32_t> k_sums(std::size_t{tile_} * dim / shape_.k_partition, 0);
    std::vector<std::uint32_t> v_sums(std::size_t{tile_} * dim / shape_.v_partition, 0);
    for (std::uint32_t t = 0; t < tile_; ++t) {
      for (std::uint32_t d = 0; d < dim; ++d) {
        const std::uint32_t k = random_() % (1u << shape_.k_bits);
        const std::uint32_t v = t < planes_.tokens ? random_() % (1u << shape_.v_bits) : 0;
        const std::size_t block = std::size_t{t} / 64 * 8 * dim;
        put(k_codes_.data() + block * shape_.k_bits, shape_.k_bits, d, t % 64, dim, 64, k);
        put(v_codes_.data() + block * shape_.v_bits, shape_.v_bits, t % 64, d, 64, dim, v);
        k_sums[d / shape_.k_partition * tile_ + t] += k;
        v_sums[t / shape_.v_partition * dim + d] += v;
      }
    }
    k_sums_ = stored(k_sums, shape_.k_partition, shape_.k_bits);
    v_sums_ = stored(v_sums, shape_.v_partition, shape_.v_bits);
  }

  // Sub-planes of 8, 4, 2 and 1 bits, the larger with the lower bits.
  static void put(std::byte* packed, std::uint32_t bits, std::uint32_t along, std::uint32_t lane,
                  std::uint32_t count, std::uint32_t lanes, std::uint32_t code) {
    for (const std::uint32_t width : {8u, 4u, 2u, 1u}) {
      if ((bits & width) == 0) continue;
      const std::uint32_t fields = 8 / width;
      const std::uint32_t row = along / (4 * fields);
      std::byte& at = packed[4 * (std::size_t{row} * lanes + lane) + along % 4];
      at |= static_cast<std::byte>((code & ((1u << width) - 1)) << (along / 4 % fields * width));
      code >>= width;
      packed += std::size_t{count} * lanes * width / 8;
    }
  }

  static std::vector<std::byte> stored(const std::vector<std::uint32_t>& sums,
                                       std::uint32_t partition, std::uint32_t bits) {
    const std::size_t bytes = paper_sum_bytes(partition, bits);
    std::vector<std::byte> out(sums.size() * bytes);
    for (std::size_t i = 0; i < sums.size(); ++i) std::memcpy(&out[i * bytes], &sums[i], bytes);
    return out;
  }

  void point() {
    const auto bytes = [](const std::vector<std::uint16_t>& plane) {
      return reinterpret_cast<const std::byte*>(plane.data());
    };
    planes_.k_codes = k_codes_.data();
    planes_.v_codes = v_codes_.data();
    planes_.k_scale = bytes(k_scale_);
    planes_.k_min = bytes(k_min_);
    planes_.v_scale = bytes(v_scale_);
    planes_.v_min = bytes(v_min_);
    if (!shape_.sums) return;
    planes_.k_sums = k_sums_.data();
    planes_.v_sums = v_sums_.data();
  }

  PaperShape shape_;
  std::mt19937 random_;
  std::uint32_t tile_ = 0;
  std::vector<std::byte> k_codes_, v_codes_, k_sums_, v_sums_;
  std::vector<std::uint16_t> k_scale_, k_min_, v_scale_, v_min_;
  PaperPlanes planes_;
};

// Every width, partition and head_dim, every length of the tile that matters, with and without
// sums.
inline std::vector<PaperShape> paper_shapes() {
  std::vector<PaperShape> all;
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    all.push_back({64, 64, 64, bits, 9 - bits});
    all.push_back({128, 32, 32, bits, bits, 0, bits % 2 == 0});
    all.push_back({128, 128, 128, bits, 9 - bits, 0, bits % 2 == 1});
    all.push_back({256, 64, 64, bits, bits, 37 + bits});
    all.push_back({64, 64, 128, 9 - bits, bits, 0, bits % 2 == 0});
  }
  for (const std::uint32_t tokens : {1u, 31u, 32u, 33u, 63u, 64u}) {
    all.push_back({64, 32, 32, 2, 2, tokens});
    all.push_back({128, 64, 64, 4, 8, tokens, false});
  }
  for (const std::uint32_t tokens : {1u, 64u, 65u, 100u, 127u}) {
    all.push_back({128, 128, 128, 2, 8, tokens});
    all.push_back({64, 32, 128, 4, 3, tokens});
  }
  return all;
}

}  // namespace kvferry::kernels
