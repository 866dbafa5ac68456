// Tiles of random codes, attention states, and what attention over a tile must give: exact
// attention in double precision over what the codes mean, and the bound of docs/codecs.md.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <random>
#include <vector>

#include "kernels/dense_kernels.h"
#include "kernels/hack_kernels.h"

namespace kvferry::kernels {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct TileShape {
  std::uint32_t dim, k_bits, v_bits;
  std::uint32_t k_group = 64, v_group = 64;
  bool has_row = false, has_column = false;
  int low = -6, high = 0;                // scales and minima between 2^low and 2^high
  int factor_low = -2, factor_high = 1;  // rows and columns

  friend std::ostream& operator<<(std::ostream& out, const TileShape& s) {
    return out << "head_dim " << s.dim << " bits " << s.k_bits << " " << s.v_bits << " groups "
               << s.k_group << " " << s.v_group << (s.has_row ? " row" : "")
               << (s.has_column ? " column" : "") << " 2^" << s.low << " to 2^" << s.high;
  }
};

// Every head_dim with: the bits 2, 4 and 8 as `hack` uses them; every pair of bits with some groups
// and factors; every group and factor with some bits.
inline std::vector<TileShape> all_shapes() {
  constexpr std::uint32_t kGroups[] = {32, 64, 128};
  std::vector<TileShape> shapes;
  for (const std::uint32_t dim : {64u, 128u, 256u}) {
    for (const std::uint32_t k : {2u, 4u, 8u}) {
      for (const std::uint32_t v : {2u, 4u, 8u}) shapes.push_back({dim, k, v});
    }
    for (std::uint32_t i = 0; i < 64; ++i) {
      const std::uint32_t k = 1 + i / 8, v = 1 + i % 8;
      shapes.push_back({dim, k, v, kGroups[(k + v) % 3], std::min(dim, kGroups[(k + 2 * v) % 3]),
                        i % 5 < 2, i % 7 < 3});
    }
    for (std::uint32_t i = 0; i < 36; ++i) {
      const std::uint32_t k_group = kGroups[i % 3], v_group = std::min(dim, kGroups[i / 3 % 3]);
      shapes.push_back({dim, 2, 2, k_group, v_group, i / 9 % 2 == 1, i / 18 == 1});
      shapes.push_back({dim, 7, 3, k_group, v_group, i / 9 % 2 == 1, i / 18 == 1});
    }
  }
  return shapes;
}

// Planes of one head with random codes and scales.
struct Tile {
  Tile(const TileShape& shape_in, std::uint32_t seed) : shape(shape_in), random(seed) {
    for (auto* codes : {&k_codes, &v_codes}) {
      codes->resize(8 * shape.dim * (codes == &k_codes ? shape.k_bits : shape.v_bits));
      for (std::byte& b : *codes) b = static_cast<std::byte>(random());
    }
    const std::size_t k_scales = 64 / std::min(shape.k_group, 64u) * shape.dim;
    const std::size_t v_scales = shape.dim / shape.v_group * 64;
    k_scale = numbers(k_scales, false, shape.low, shape.high);
    k_min = numbers(k_scales, true, shape.low, shape.high);
    v_scale = numbers(v_scales, false, shape.low, shape.high);
    v_min = numbers(v_scales, true, shape.low, shape.high);
    k_row = numbers(64, false, shape.factor_low, shape.factor_high);
    v_column = numbers(shape.dim, false, shape.factor_low, shape.factor_high);
    planes.head_dim = shape.dim;
    planes.k_bits = shape.k_bits;
    planes.v_bits = shape.v_bits;
    planes.k_group = shape.k_group;
    planes.v_group = shape.v_group;
    planes.k_codes = k_codes.data();
    planes.v_codes = v_codes.data();
    planes.k_scale = bytes(k_scale);
    planes.k_min = bytes(k_min);
    planes.v_scale = bytes(v_scale);
    planes.v_min = bytes(v_min);
    if (shape.has_row) planes.k_row = bytes(k_row);
    if (shape.has_column) planes.v_column = bytes(v_column);
  }
  Tile(const Tile&) = delete;
  Tile& operator=(const Tile&) = delete;

  std::vector<std::uint16_t> numbers(std::size_t n, bool any_sign, int low, int high) {
    std::vector<std::uint16_t> plane;
    for (std::size_t i = 0; i < n; ++i) {
      const int exponent = low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
      const float value = std::ldexp(1.0f + static_cast<float>(random() % 128) / 128.0f, exponent);
      plane.push_back(bf16_from_f32(!any_sign || random() % 2 == 0 ? value : -value));
    }
    return plane;
  }
  static const std::byte* bytes(const std::vector<std::uint16_t>& plane) {
    return reinterpret_cast<const std::byte*>(plane.data());
  }

  // By the offsets of hack_kernels.h, apart from the code that is tested.
  unsigned k_code(std::size_t t, std::size_t d) const {
    return code(k_codes, shape.k_bits, 64, d, t);
  }
  unsigned v_code(std::size_t t, std::size_t d) const {
    return code(v_codes, shape.v_bits, shape.dim, t, d);
  }
  double k_scale_of(std::size_t t, std::size_t d) const {
    return factor(k_row, shape.has_row, t) * f32_from_bf16(k_scale[k_at(t, d)]);
  }
  double k_min_of(std::size_t t, std::size_t d) const {
    return factor(k_row, shape.has_row, t) * f32_from_bf16(k_min[k_at(t, d)]);
  }
  double v_scale_of(std::size_t t, std::size_t d) const {
    return factor(v_column, shape.has_column, d) * f32_from_bf16(v_scale[v_at(t, d)]);
  }
  double v_min_of(std::size_t t, std::size_t d) const {
    return factor(v_column, shape.has_column, d) * f32_from_bf16(v_min[v_at(t, d)]);
  }

  TileShape shape;
  std::mt19937 random;
  std::vector<std::byte> k_codes, v_codes;
  std::vector<std::uint16_t> k_scale, k_min, v_scale, v_min, k_row, v_column;
  HackPlanes planes;

 private:
  std::size_t k_at(std::size_t t, std::size_t d) const { return t / shape.k_group * shape.dim + d; }
  std::size_t v_at(std::size_t t, std::size_t d) const { return d / shape.v_group * 64 + t; }
  static double factor(const std::vector<std::uint16_t>& plane, bool has, std::size_t i) {
    return has ? f32_from_bf16(plane[i]) : 1.0;
  }
  unsigned code(const std::vector<std::byte>& plane, std::uint32_t bits, std::size_t lanes,
                std::size_t along, std::size_t lane) const {
    unsigned whole = 0;
    std::size_t first = 0;
    for (std::uint32_t shift = 0; shift < bits;) {
      const std::uint32_t left = bits - shift;
      const std::uint32_t sub = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const std::size_t fields = 8 / sub;
      const std::size_t word = along / (4 * fields), field = along / 4 % fields;
      const auto byte =
          std::to_integer<unsigned>(plane[first + 4 * (word * lanes + lane) + along % 4]);
      whole += (byte >> (field * sub) & ((1u << sub) - 1u)) << shift;
      first += std::size_t{8} * shape.dim * sub;
      shift += sub;
    }
    return whole;
  }
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

inline std::vector<float> make_queries(std::uint32_t rows, std::uint32_t dim, std::uint32_t seed,
                                       float scale = 1.0f) {
  std::mt19937 random(seed);
  std::vector<float> q(std::size_t{rows} * dim);
  for (float& x : q) x = (static_cast<float>(random() % 65536) / 32768.0f - 1.0f) * scale;
  return q;
}

inline void attend_tile(Isa isa, const HackPlanes& planes, const Queries& queries,
                        AttentionStates states) {
  const HackWork work{planes, queries, states};
  hack_kernels(isa).attend(&work, 1);
}

// Tokens as they are, after those of tiles: [tokens][head_dim].
struct DenseTokens {
  std::size_t tokens = 0;
  std::vector<std::uint16_t> k, v;
};

// What attending one row to tiles, and then to dense tokens, must give, and how far from it any
// element may be (docs/codecs.md, "Error bounds").
struct TileAnswer {
  std::vector<double> output, bound;  // [head_dim], normalised
};
inline TileAnswer attention_answer(const std::vector<const Tile*>& tiles, const DenseTokens& dense,
                                   std::size_t dim, const float* q) {
  constexpr double kFloatSlop = 4e-5;  // of the magnitudes summed
  const std::size_t coded_tokens = 64 * tiles.size(), tokens = coded_tokens + dense.tokens;
  std::vector<double> score(tokens), moved(tokens), weight(tokens), high(tokens), low(tokens);
  for (std::size_t n = 0; n < coded_tokens; ++n) {
    const Tile& tile = *tiles[n / 64];
    const std::size_t t = n % 64;
    for (std::size_t g = 0; g < dim; g += 64) {
      double largest = 0.0, codes = 0.0;
      for (std::size_t d = g; d < g + 64; ++d) {
        const double coded = tile.k_scale_of(t, d) * tile.k_code(t, d);
        score[n] += q[d] * (coded + tile.k_min_of(t, d));
        moved[n] += kFloatSlop * std::fabs(q[d]) * (coded + std::fabs(tile.k_min_of(t, d)));
        largest = std::max(largest, std::fabs(q[d]) * tile.k_scale_of(t, d));
        codes += tile.k_code(t, d);
      }
      moved[n] += largest / 127.0 / 2.0 * codes;
    }
  }
  for (std::size_t t = 0; t < dense.tokens; ++t) {
    for (std::size_t d = 0; d < dim; ++d) {
      const double product = double{q[d]} * f32_from_bf16(dense.k[t * dim + d]);
      score[coded_tokens + t] += product;
      moved[coded_tokens + t] += kFloatSlop * std::fabs(product);
    }
  }
  const double top = *std::max_element(score.begin(), score.end());
  double sum = 0.0, shift = 0.0;
  for (std::size_t n = 0; n < tokens; ++n) sum += weight[n] = std::exp(score[n] - top);
  for (std::size_t n = 0; n < tokens; ++n) {
    weight[n] /= sum;
    shift += weight[n] * std::exp(moved[n]);
  }
  for (std::size_t n = 0; n < tokens; ++n) {
    high[n] = std::min(1.0, weight[n] * std::exp(moved[n]) * shift);
    low[n] = weight[n] * std::exp(-moved[n]) / shift;
  }
  TileAnswer answer{std::vector<double>(dim, 0.0), std::vector<double>(dim, 1e-29)};
  for (std::size_t d = 0; d < dim; ++d) {
    const auto coded = [&](std::size_t n) {
      return n < coded_tokens
                 ? tiles[n / 64]->v_scale_of(n % 64, d) * tiles[n / 64]->v_code(n % 64, d)
                 : 0.0;
    };
    const auto min = [&](std::size_t n) {
      return n < coded_tokens ? tiles[n / 64]->v_min_of(n % 64, d)
                              : f32_from_bf16(dense.v[(n - coded_tokens) * dim + d]);
    };
    for (std::size_t n = 0; n < tokens; ++n) answer.output[d] += weight[n] * (coded(n) + min(n));
    for (std::size_t n = 0; n < tokens; ++n) {
      answer.bound[d] += std::max(high[n] - weight[n], weight[n] - low[n]) *
                             std::fabs(coded(n) + min(n) - answer.output[d]) +
                         kFloatSlop * high[n] * (coded(n) + std::fabs(min(n)));
    }
    for (std::size_t i = 0; i < tiles.size(); ++i) {
      double codes = 0.0, largest = 0.0;
      for (std::size_t t = 0; t < 64; ++t) {
        codes += tiles[i]->v_code(t, d);
        largest = std::max(largest, high[64 * i + t] * tiles[i]->v_scale_of(t, d));
      }
      answer.bound[d] += largest / 255.0 / 2.0 * codes;
    }
  }
  return answer;
}
inline TileAnswer tile_answer(const Tile& tile, const float* q) {
  return attention_answer({&tile}, {}, tile.shape.dim, q);
}

}  // namespace kvferry::kernels
