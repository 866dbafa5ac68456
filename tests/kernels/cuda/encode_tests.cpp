// Encoding on a GPU gives the bytes that the CPU's scalar kernels give.
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "kernels/cpu/hack_encode_common.h"
#include "kernels/dense_kernels.h"
#include "tests/kernels/cuda/check.h"
#include "tests/kernels/cuda/encode_batch.h"

namespace kvferry::cuda {

std::size_t EncodeBatch::tile_bytes() const {
  return std::size_t{2} * 2 * 64 * static_cast<std::size_t>(shape.kv_heads * shape.head_dim);
}
int EncodeBatch::head_bytes() const {
  return 8 * shape.head_dim * (shape.k_bits + shape.v_bits + 1);
}
EncodeTiles EncodeBatch::arguments() const {
  EncodeTiles arguments;
  arguments.head_dim = shape.head_dim;
  arguments.kv_heads = shape.kv_heads;
  arguments.k_bits = shape.k_bits;
  arguments.v_bits = shape.v_bits;
  arguments.k_range = shape.k_range;
  arguments.v_range = shape.v_range;
  arguments.head_bytes = head_bytes();
  arguments.tiles = tiles;
  return arguments;
}

// Laid out as codec/hack_part.h says.
std::vector<std::byte> scalar_part(const EncodeBatch& batch, int tile, int head) {
  const EncodeShape& shape = batch.shape;
  const auto dim = static_cast<std::size_t>(shape.head_dim);
  const auto heads = static_cast<std::size_t>(shape.kv_heads);
  const auto* const values = reinterpret_cast<const std::uint16_t*>(batch.values.data()) +
                             static_cast<std::size_t>(tile) * batch.tile_bytes() / 2;
  std::vector<std::byte> part(static_cast<std::size_t>(batch.head_bytes()));
  std::byte* at = part.data();
  for (const bool of_v : {false, true}) {
    const auto bits = static_cast<std::size_t>(of_v ? shape.v_bits : shape.k_bits);
    const kernels::HackRange range = of_v ? shape.v_range : shape.k_range;
    const std::uint16_t* x =
        values + (static_cast<std::size_t>(head) + (of_v ? heads : 0)) * 64 * dim;
    std::byte* const scales = at + 8 * dim * bits;
    for (std::size_t group = 0; group < dim / 64; ++group) {
      kernels::HackBlock block;
      block.x = x + 64 * group;
      block.stride = dim;
      block.transposed = of_v;
      std::uint8_t codes[64 * 64];
      std::uint16_t scale[64], min[64];
      kernels::kHackEncodeScalar.quantize_block(block, static_cast<std::uint32_t>(bits), range,
                                                codes, scale, min);
      std::memcpy(scales + 128 * group, scale, sizeof(scale));
      std::memcpy(scales + 2 * dim + 128 * group, min, sizeof(min));
      // K: [channel words][64 tokens]; V: [token words][channels].
      const std::size_t lanes = of_v ? dim : 64;
      std::byte* const out = at + (of_v ? 4 * 64 * group : 4 * 64 * 2 * bits * group);
      kernels::kHackEncodeScalar.pack_block(codes, 0, static_cast<std::uint32_t>(bits), lanes, out);
    }
    at = scales + 4 * dim;
  }
  return part;
}

namespace {

using kernels::HackRange;

std::string text_of(const EncodeShape& s) {
  std::ostringstream out;
  out << "head_dim " << s.head_dim << ", " << s.kv_heads << " heads, bits " << s.k_bits << " "
      << s.v_bits << ", ranges " << static_cast<int>(s.k_range) << " "
      << static_cast<int>(s.v_range);
  return out.str();
}

// Gaussian values; in every other tile some columns of one value, some of huge and of subnormal
// values, and zeros of both signs.
EncodeBatch make_batch(const EncodeShape& shape, int tiles, std::uint32_t seed) {
  EncodeBatch batch{shape, tiles, {}};
  batch.values.resize(static_cast<std::size_t>(tiles) * batch.tile_bytes() / sizeof(Words));
  auto* const values = reinterpret_cast<std::uint16_t*>(batch.values.data());
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const std::size_t count = batch.values.size() * sizeof(Words) / 2;
  const std::size_t tile_values = batch.tile_bytes() / 2;
  for (std::size_t i = 0; i < count; ++i) {
    float v = normal(random);
    if (i / tile_values % 2 == 1) {
      const std::size_t channel = i % static_cast<std::size_t>(shape.head_dim);
      if (channel % 7 == 0) v = 1.5f;
      if (channel % 11 == 0) v *= 0x1p124f;
      if (channel % 13 == 0) v *= 0x1p-130f;
      if (channel % 17 == 0) v = i % 2 == 0 ? 0.0f : -0.0f;
    }
    values[i] = kernels::bf16_from_f32(v);
  }
  return batch;
}

void expect_scalar_bytes(const RunEncode& run, const EncodeShape& shape) {
  const EncodeBatch batch = make_batch(shape, 2, 11);
  const EncodeResult got = run(batch);
  const auto bytes = static_cast<std::size_t>(batch.head_bytes());
  for (int tile = 0; tile < batch.tiles; ++tile) {
    CHECK(got.not_finite[static_cast<std::size_t>(tile)] == 0) << "tile " << tile;
    for (int head = 0; head < shape.kv_heads; ++head) {
      const std::vector<std::byte> want = scalar_part(batch, tile, head);
      const auto index = static_cast<std::size_t>(tile * shape.kv_heads + head);
      const auto* const part = got.parts.data() + index * bytes;
      std::size_t same = 0;
      while (same < bytes && part[same] == want[same]) ++same;
      CHECK(same == bytes) << "byte " << same << " of " << bytes << ", tile " << tile << " head "
                           << head << ", " << text_of(shape);
    }
  }
}

void scalar_bytes(const RunEncode& run) {
  for (const int dim : {64, 128, 256}) {
    for (const int bits : {2, 4, 8}) {
      for (const HackRange range :
           {HackRange::kMinMax, HackRange::kSearch, HackRange::kLeastSquares}) {
        expect_scalar_bytes(run, {dim, 2, bits, bits == 2 ? 4 : 2, range, HackRange::kSearch});
        expect_scalar_bytes(run, {dim, 1, 4, bits, HackRange::kMinMax, range});
      }
    }
  }
}
void not_finite(const RunEncode& run) {
  EncodeBatch batch = make_batch({128, 2, 2, 2, HackRange::kSearch, HackRange::kSearch}, 4, 3);
  auto* const values = reinterpret_cast<std::uint16_t*>(batch.values.data());
  const std::size_t tile_values = batch.tile_bytes() / 2;
  values[tile_values + 77] = 0x7f80;     // infinity in K of tile 1
  values[4 * tile_values - 1] = 0xffc1;  // NaN in V of tile 3, its last value
  const EncodeResult got = run(batch);
  CHECK((got.not_finite == std::vector<int>{0, 1, 0, 1})) << "the wrong tiles";
}

}  // namespace

void register_encode_tests(const RunEncode& run) {
  test_cases().push_back(
      {"encode_gives_the_bytes_of_the_scalar_kernels", [run] { scalar_bytes(run); }});
  test_cases().push_back({"encode_names_tiles_that_are_not_finite", [run] { not_finite(run); }});
}

}  // namespace kvferry::cuda
