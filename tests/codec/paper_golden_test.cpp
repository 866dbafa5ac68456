// layout=paper against an independent program of the published formulas, which made
// tests/golden/paper (make_paper.py has the format): codes, scales, minima and sums to the last
// bit, scores and outputs within 1e-5.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/hash.h"
#include "codec/codec.h"
#include "codec/segment.h"
#include "kernels/dense_kernels.h"
#include "kernels/isa.h"
#include "kernels/paper_kernels.h"

namespace kvferry::codec {
namespace {

// Reads a golden file from its front.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  template <class T>
  std::vector<T> take(std::size_t n) {
    std::vector<T> values(n);
    EXPECT_LE(at_ + n * sizeof(T), bytes_.size());
    std::memcpy(values.data(), bytes_.data() + at_, n * sizeof(T));
    at_ += n * sizeof(T);
    return values;
  }
  bool at_end() const { return at_ == bytes_.size(); }

 private:
  std::vector<char> bytes_;
  std::size_t at_ = 0;
};

struct Side {
  std::vector<std::uint16_t> scale, min, sums;
};
struct Golden {
  explicit Golden(Reader in) {
    const auto header = in.take<std::uint32_t>(12);
    head_dim = header[0], group = header[1], k_bits = header[2], v_bits = header[3];
    stochastic = header[4] == 1;
    seed = header[5], layer = header[6], kv_head = header[7], tile = header[8];
    tokens = header[9], rows = header[10], query_key = header[11];
    tile_tokens = std::max(group, 64u);
    const std::size_t values = std::size_t{tile_tokens} * head_dim;
    k_codes = in.take<std::uint8_t>(values);
    v_codes = in.take<std::uint8_t>(values);
    for (Side* side : {&k, &v}) {
      for (auto* plane : {&side->scale, &side->min, &side->sums}) {
        *plane = in.take<std::uint16_t>(values / (side == &k ? std::min(group, head_dim) : group));
      }
    }
    scores = in.take<float>(std::size_t{rows} * tile_tokens);
    output = in.take<float>(std::size_t{rows} * head_dim);
    whole_file = in.at_end();
  }
  std::string spec() const {
    return "hack(k=" + std::to_string(k_bits) + ",v=" + std::to_string(v_bits) +
           ",layout=paper,group=" + std::to_string(group) +
           (stochastic ? ",rounding=stochastic,seed=" + std::to_string(seed) : "") +
           (tokens < tile_tokens ? ",rqe=off)" : ")");
  }
  std::uint32_t head_dim, group, k_bits, v_bits, seed, layer, kv_head, tile, tokens, rows;
  std::uint32_t query_key, tile_tokens;
  bool stochastic, whole_file;
  std::vector<std::uint8_t> k_codes, v_codes;
  Side k, v;
  std::vector<float> scores, output;
};

// The values of make_paper.py, made_values: exact in bf16.
std::vector<float> made_values(std::uint64_t key, std::size_t tokens, std::size_t dim) {
  std::vector<float> values(tokens * dim);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t d = 0; d < dim; ++d) {
      const std::uint64_t word = counter_random(key, t * 256 + d);
      int n = -510;
      for (int byte = 0; byte < 4; ++byte) n += static_cast<int>(word >> (8 * byte) & 255);
      n >>= 1;
      if (d % 16 == 3) n = (n >> 3) + 200;
      if (d % 16 == 7) n = 100;
      values[t * dim + d] = static_cast<float>(n) / (d % 16 == 11 ? 16.0f : 64.0f);
    }
  }
  return values;
}

std::vector<Golden> goldens() {
  std::vector<Golden> all;
  const char* root = std::getenv("KVFERRY_SOURCE_DIR");
  const auto folder = std::filesystem::path(root == nullptr ? "." : root) / "tests/golden/paper";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    all.emplace_back(Reader(entry.path()));
  }
  return all;
}

// A codec and the open tile of the golden's values, two KV heads of which the golden's is filled.
struct World {
  explicit World(const Golden& golden) : geometry{4, 2, 4, golden.head_dim} {
    auto made = make_codec(golden.spec());
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    codec = *made;
    const std::size_t head = std::size_t{golden.tile_tokens} * golden.head_dim;
    k.resize(2 * head);
    v.resize(2 * head);
    const std::uint64_t key = golden.head_dim + golden.group;
    for (auto* values : {&k, &v}) {
      const auto made_x =
          made_values((values == &k ? 1000 : 2000) + key, golden.tile_tokens, golden.head_dim);
      std::transform(made_x.begin(), made_x.end(),
                     values->begin() + static_cast<std::ptrdiff_t>(golden.kv_head * head),
                     kernels::bf16_from_f32);
    }
    open = {reinterpret_cast<std::byte*>(k.data()), reinterpret_cast<std::byte*>(v.data())};
    queries = made_values(golden.query_key, golden.rows, golden.head_dim);
    for (float& q : queries) q /= 128.0f;
  }
  std::vector<std::byte> encode(const Golden& golden) const {
    std::vector<std::byte> segment(
        codec->segment_bytes(geometry, golden.layer, golden.tile, golden.tile_tokens));
    const Status status =
        codec->encode(geometry, golden.layer, golden.tile, golden.tile_tokens, open, segment);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return segment;
  }
  KvGeometry geometry;
  std::shared_ptr<const Codec> codec;
  std::vector<std::uint16_t> k, v;
  OpenTile open;
  std::vector<float> queries;
};

// Planes of a head's part by the offsets of docs/codecs.md.
kernels::PaperPlanes planes_of(const Golden& g, const std::byte* part) {
  const std::size_t values = std::size_t{g.tile_tokens} * g.head_dim;
  kernels::PaperPlanes p;
  p.head_dim = g.head_dim;
  p.k_partition = std::min(g.group, g.head_dim);
  p.v_partition = g.group;
  p.tokens = g.tile_tokens;
  p.k_bits = g.k_bits;
  p.v_bits = g.v_bits;
  const auto sum_bytes = [](std::uint32_t partition, std::uint32_t bits) {
    return partition * ((1u << bits) - 1) <= 255 ? std::size_t{1} : std::size_t{2};
  };
  const std::size_t k_scales = values / p.k_partition, v_scales = values / p.v_partition;
  p.k_codes = part;
  p.k_scale = p.k_codes + values * g.k_bits / 8;
  p.k_min = p.k_scale + 2 * k_scales;
  p.k_sums = p.k_min + 2 * k_scales;
  p.v_codes = p.k_sums + k_scales * sum_bytes(p.k_partition, g.k_bits);
  p.v_scale = p.v_codes + values * g.v_bits / 8;
  p.v_min = p.v_scale + 2 * v_scales;
  p.v_sums = p.v_min + 2 * v_scales;
  return p;
}

// The code at place `along` of the packed axis of `count` places, in a lane: sub-planes of 8, 4, 2
// and 1 bits, the larger with the lower bits.
unsigned code_at(const std::byte* codes, unsigned bits, std::size_t count, std::size_t lanes,
                 std::size_t along, std::size_t lane) {
  unsigned code = 0, shift = 0;
  for (const unsigned width : {8u, 4u, 2u, 1u}) {
    if ((bits & width) == 0) continue;
    const std::size_t word = along / (32 / width) * lanes + lane;
    const auto byte = std::to_integer<unsigned>(codes[4 * word + along % 4]);
    code |= (byte >> (along / 4 % (8 / width) * width) & ((1u << width) - 1)) << shift;
    shift += width;
    codes += count * lanes * width / 8;
  }
  return code;
}

void expect_codes(const Golden& g, const kernels::PaperPlanes& p) {
  for (std::size_t t = 0; t < g.tile_tokens; ++t) {
    const std::size_t block = t / 64 * 8 * g.head_dim;
    for (std::size_t d = 0; d < g.head_dim; ++d) {
      const std::size_t at = t * g.head_dim + d;
      ASSERT_EQ(code_at(p.k_codes + block * g.k_bits, g.k_bits, g.head_dim, 64, d, t % 64),
                g.k_codes[at])
          << "K, token " << t << " channel " << d;
      ASSERT_EQ(code_at(p.v_codes + block * g.v_bits, g.v_bits, 64, g.head_dim, t % 64, d),
                g.v_codes[at])
          << "V, token " << t << " channel " << d;
    }
  }
}

// scale * code + minimum, rounded once.
void expect_values(const Golden& g, const World& world, const std::vector<std::byte>& segment) {
  const auto bf16 = [](std::uint16_t bits) { return double{kernels::f32_from_bf16(bits)}; };
  std::vector<float> k(g.k_codes.size()), v(k.size());
  world.codec->reconstruct(world.geometry, segment, g.kv_head, k.data(), v.data());
  const std::size_t k_group = std::min(g.group, g.head_dim);
  for (std::size_t t = 0; t < g.tile_tokens; ++t) {
    for (std::size_t d = 0; d < g.head_dim; ++d) {
      const std::size_t at = t * g.head_dim + d;
      const std::size_t of_k = d / k_group * g.tile_tokens + t;
      const std::size_t of_v = t / g.group * g.head_dim + d;
      ASSERT_EQ(k[at],
                static_cast<float>(bf16(g.k.scale[of_k]) * g.k_codes[at] + bf16(g.k.min[of_k])));
      ASSERT_EQ(v[at],
                static_cast<float>(bf16(g.v.scale[of_v]) * g.v_codes[at] + bf16(g.v.min[of_v])));
    }
  }
}

void expect_plane(const std::vector<std::uint16_t>& want, const std::byte* plane, std::size_t bytes,
                  const char* name) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    std::uint16_t got = 0;
    std::memcpy(&got, plane + bytes * i, bytes);
    ASSERT_EQ(got, want[i]) << name << " " << i;
  }
}

struct State {
  State(std::uint32_t rows_in, std::uint32_t dim)
      : rows(rows_in), m(rows, -std::numeric_limits<float>::infinity()), l(rows), o(rows * dim) {}
  kernels::AttentionStates view() {
    return {m.data(), l.data(), o.data(), rows, static_cast<std::uint32_t>(o.size() / rows)};
  }
  std::uint32_t rows;
  std::vector<float> m, l, o;
};

void expect_output(const Golden& g, const State& state) {
  for (std::size_t i = 0; i < g.output.size(); ++i) {
    const float got = state.o[i] / state.l[i / g.head_dim];
    ASSERT_NEAR(got, g.output[i], 1e-5 * std::max(1.0f, std::fabs(g.output[i]))) << "output " << i;
  }
}

class PaperGolden : public ::testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(kernels::force_isa(kernels::available_isas().back())); }
};

TEST_F(PaperGolden, FilesAreWhole) {
  const auto all = goldens();
  EXPECT_GE(all.size(), 10u);
  for (const Golden& golden : all) EXPECT_TRUE(golden.whole_file) << golden.spec();
}

TEST_F(PaperGolden, BytesAreEqualAndScoresWithin1e5) {
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::force_isa(isa));
    for (const Golden& g : goldens()) {
      if (g.tokens < g.tile_tokens) continue;
      SCOPED_TRACE(std::string(kernels::isa_name(isa)) + " " + g.spec());
      const World world(g);
      const std::vector<std::byte> segment = world.encode(g);
      const std::size_t part_bytes = (segment.size() - kSegmentHeaderBytes) / 2;
      const auto planes =
          planes_of(g, segment.data() + kSegmentHeaderBytes + g.kv_head * part_bytes);
      expect_codes(g, planes);
      expect_values(g, world, segment);
      expect_plane(g.k.scale, planes.k_scale, 2, "scale of K");
      expect_plane(g.k.min, planes.k_min, 2, "minimum of K");
      expect_plane(g.k.sums, planes.k_sums, kernels::paper_sum_bytes(planes.k_partition, g.k_bits),
                   "K sum");
      expect_plane(g.v.scale, planes.v_scale, 2, "scale of V");
      expect_plane(g.v.min, planes.v_min, 2, "minimum of V");
      expect_plane(g.v.sums, planes.v_sums, kernels::paper_sum_bytes(g.group, g.v_bits), "V sum");
      std::vector<float> scores(g.scores.size());
      kernels::paper_kernels().scores(planes, world.queries.data(), g.rows, scores.data());
      for (std::size_t i = 0; i < scores.size(); ++i) {
        ASSERT_NEAR(scores[i], g.scores[i], 1e-5) << "score " << i;
      }
      State state(g.rows, g.head_dim);
      world.codec->attend(world.geometry, segment, g.kv_head, {world.queries.data(), g.rows},
                          state.view());
      expect_output(g, state);
    }
  }
}

// Without requantization elimination the open tile is coded as far as a row sees it.
TEST_F(PaperGolden, OpenTileIsCodedWithoutRequantizationElimination) {
  int checked = 0;
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::force_isa(isa));
    for (const Golden& g : goldens()) {
      if (g.tokens == g.tile_tokens) continue;
      SCOPED_TRACE(std::string(kernels::isa_name(isa)) + " " + g.spec());
      const World world(g);
      State state(g.rows, g.head_dim);
      const std::vector<std::uint32_t> visible(g.rows, g.tokens);
      world.codec->attend_open(world.geometry, g.layer, g.tile, world.open, g.kv_head,
                               {world.queries.data(), g.rows}, visible.data(), state.view());
      expect_output(g, state);
      ++checked;
    }
  }
  EXPECT_GT(checked, 0);
}

}  // namespace
}  // namespace kvferry::codec
