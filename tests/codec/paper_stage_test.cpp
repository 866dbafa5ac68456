// hack(layout=paper): specs, sizes, what is refused from outside, what the seed decides, and the
// open tile without requantization elimination. paper_golden_test has the bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "bench/kv_data.h"
#include "codec/codec.h"
#include "codec/describe.h"
#include "codec/segment.h"
#include "kernels/isa.h"

namespace kvferry::codec {
namespace {

using namespace bench;  // NOLINT: made-up KV is what these tests are about

using ::testing::HasSubstr;

constexpr KvGeometry kGeometry{3, 2, 4, 128};

// The values of a tile of both heads.
struct Tile {
  explicit Tile(std::uint32_t tokens, std::uint64_t seed = 1) {
    for (std::uint32_t h = 0; h < kGeometry.kv_heads; ++h) {
      for (auto* values : {&k, &v}) {
        const auto head = make_values(Kind::kGaussian, seed++, tokens, kGeometry.head_dim);
        values->insert(values->end(), head.begin(), head.end());
      }
    }
  }
  OpenTile open() {
    return {reinterpret_cast<std::byte*>(k.data()), reinterpret_cast<std::byte*>(v.data())};
  }
  std::vector<std::uint16_t> k, v;
};

std::shared_ptr<const Codec> codec_of(const std::string& spec) {
  auto made = make_codec(spec);
  EXPECT_TRUE(made.ok()) << made.status().to_string();
  return made.ok() ? *made : nullptr;
}

std::vector<std::byte> encode(const Codec& codec, Tile& tile, std::uint32_t layer,
                              std::uint32_t number) {
  const std::uint32_t tokens = codec.tile_tokens();
  std::vector<std::byte> out(codec.segment_bytes(kGeometry, layer, number, tokens));
  const Status status = codec.encode(kGeometry, layer, number, tokens, tile.open(), out);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return out;
}

struct State {
  explicit State(std::uint32_t rows_in)
      : rows(rows_in),
        m(rows, -std::numeric_limits<float>::infinity()),
        l(rows),
        o(rows * kGeometry.head_dim) {}
  kernels::AttentionStates view() {
    return {m.data(), l.data(), o.data(), rows, kGeometry.head_dim};
  }
  std::uint32_t rows;
  std::vector<float> m, l, o;
};

class PaperStage : public ::testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(kernels::force_isa(kernels::available_isas().back())); }
};

TEST_F(PaperStage, SpecsAreNormalised) {
  const std::pair<const char*, const char*> cases[] = {
      {"hack(layout=paper)", "hack(k=4,v=2,layout=paper)"},
      {"hack(layout=paper,group=64,v=3,k=1,first_bits=none,rounding=nearest,se=on,rqe=on)",
       "hack(k=1,v=3,layout=paper)"},
      {"hack(layout=paper,group=128,first_bits=8,seed=7,rounding=stochastic,se=off)",
       "hack(k=4,v=2,layout=paper,group=128,first_bits=8,rounding=stochastic,seed=7,se=off)"},
      {"hack(layout=paper,rounding=stochastic)",
       "hack(k=4,v=2,layout=paper,rounding=stochastic,seed=0)"},
      {"hadamard | hack(rqe=off,layout=paper,k=2)",
       "hadamard | hack(k=2,v=2,layout=paper,rqe=off)"},
      {"hack(layout=channel)", "hack(k=4,v=2)"},
  };
  for (const auto& [given, want] : cases) EXPECT_EQ(codec_of(given)->spec(), want);
  EXPECT_EQ(codec_of("hack(layout=paper)")->tile_tokens(), 64u);
  EXPECT_EQ(codec_of("hack(layout=paper,group=32)")->tile_tokens(), 64u);
  EXPECT_EQ(codec_of("hack(layout=paper,group=128)")->tile_tokens(), 128u);
}

TEST_F(PaperStage, ErrorsNameThePlace) {
  const struct {
    const char* spec;
    const char* message;
  } cases[] = {
      {"hack(layout=row)", "character 13: expected channel or paper"},
      {"hack(layout=paper,range=search)", "character 19: expected layout=channel, not paper,"},
      {"hack(layout=paper,group=48)", "character 25: expected 32, 64 or 128"},
      {"hack(layout=paper,rounding=up)", "expected nearest or stochastic"},
      {"hack(layout=paper,rounding=stochastic,seed=-1)", "a number from 0 to 4294967295"},
      {"hack(layout=paper,seed=4294967296)", "a number from 0 to 4294967295"},
      {"hack(layout=paper,seed=7)", "character 19: expected rounding=stochastic"},
      {"hack(layout=paper,layout=paper)", "\"layout\" only once"},
      {"hack(group=64,se=off)", "character 15: expected layout=paper beside"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(make_codec(c.spec).status().message(), HasSubstr(c.message)) << c.spec;
  }
  const auto wide = codec_of("hack(layout=paper,group=128)");
  EXPECT_TRUE(wide->supports({1, 1, 1, 64}).ok());
  EXPECT_THAT(wide->supports({1, 1, 1, 96}).message(), HasSubstr("not 64, 128 or 256"));
}

TEST_F(PaperStage, BitsAreThoseOfTheDocument) {
  const struct {
    const char* arguments;
    double bits;
  } cases[] = {
      {"k=2,v=2,group=32", 3.25},   {"k=2,v=2", 2.625},          {"k=2,v=2,group=128", 2.375},
      {"k=2,v=2,se=off", 2.5},      {"k=4,v=2,group=32", 4.375}, {"k=4,v=2", 3.6875},
      {"k=4,v=2,group=128", 3.375}, {"k=4,v=4", 4.75},           {"k=2,v=2,group=32,se=off", 3.0},
  };
  for (const auto& c : cases) {
    const auto spec = "hack(layout=paper," + std::string(c.arguments) + ")";
    const auto description = describe_codec(spec, kGeometry, {4096});
    ASSERT_TRUE(description.ok()) << description.status().to_string();
    EXPECT_EQ(description->points[0].closed_bits_per_value, c.bits) << spec;
    // The first tile is as the rest.
    const auto codec = codec_of(spec);
    EXPECT_EQ(codec->segment_bytes(kGeometry, 0, 0, codec->tile_tokens()),
              codec->segment_bytes(kGeometry, 0, 1, codec->tile_tokens()));
  }
  const auto first = codec_of("hack(k=2,v=2,layout=paper,first_bits=8)");
  EXPECT_GT(first->segment_bytes(kGeometry, 0, 0, 64), first->segment_bytes(kGeometry, 0, 1, 64));
}

// Every scale and minimum that is not finite, and every bit of codes and sums, of both heads.
TEST_F(PaperStage, WrongPlanesAreRefused) {
  const struct {
    const char* spec;
    std::uint32_t group, bits[2], sum_bytes[2];
  } cases[] = {
      {"hack(k=2,v=4,layout=paper)", 64, {2, 4}, {1, 2}},
      {"hack(k=8,v=1,layout=paper,group=32)", 32, {8, 1}, {2, 1}},
      {"hack(k=3,v=2,layout=paper,group=128)", 128, {3, 2}, {2, 2}},
  };
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::force_isa(isa));
    for (const auto& c : cases) {
      const auto codec = codec_of(c.spec);
      const std::uint32_t tokens = codec->tile_tokens();
      Tile tile(tokens);
      auto segment = encode(*codec, tile, 2, 3);
      ASSERT_TRUE(codec->validate(kGeometry, 2, 3, tokens, segment).ok());
      const auto expect_refused = [&](std::size_t at, std::uint16_t value, std::size_t bytes) {
        std::uint16_t kept = 0;
        std::memcpy(&kept, &segment[at], bytes);
        std::memcpy(&segment[at], &value, bytes);
        ASSERT_EQ(codec->validate(kGeometry, 2, 3, tokens, segment).code(), Code::kDataLoss)
            << c.spec << " byte " << at;
        std::memcpy(&segment[at], &kept, bytes);
      };
      const auto another_bit = [&](std::size_t at) {
        return static_cast<std::uint16_t>(std::to_integer<unsigned>(segment[at]) ^ 1u << at % 8);
      };
      const std::size_t n = std::size_t{tokens} * kGeometry.head_dim / c.group;
      std::size_t at = kSegmentHeaderBytes;
      for (int side = 0; side < 4; ++side) {  // K and V of both heads
        const std::size_t codes = n * c.group * c.bits[side % 2] / 8;
        for (std::size_t i = 0; i < codes; i += 61) expect_refused(at + i, another_bit(at + i), 1);
        at += codes;
        for (std::size_t i = 0; i < 2 * n; i += 5) expect_refused(at + 2 * i, 0x7f80, 2);
        at += 4 * n;
        const std::size_t sums = n * c.sum_bytes[side % 2];
        for (std::size_t i = 0; i < sums; i += 5) expect_refused(at + i, another_bit(at + i), 1);
        at += sums;
      }
      EXPECT_EQ(at, segment.size());
    }
  }
}

// Random bits depend on the seed, layer, KV head and position, and nothing else does.
TEST_F(PaperStage, SeedLayerHeadAndPositionDecideRounding) {
  const auto codec = codec_of("hack(k=2,v=2,layout=paper,rounding=stochastic,seed=7)");
  const auto other = codec_of("hack(k=2,v=2,layout=paper,rounding=stochastic,seed=8)");
  const auto nearest = codec_of("hack(k=2,v=2,layout=paper)");
  Tile tile(64);
  const std::size_t head = tile.k.size() / 2;  // both heads hold the same values
  std::copy_n(tile.k.begin(), head, tile.k.begin() + static_cast<std::ptrdiff_t>(head));
  std::copy_n(tile.v.begin(), head, tile.v.begin() + static_cast<std::ptrdiff_t>(head));
  const auto body = [&](const Codec& of, std::uint32_t layer, std::uint32_t number) {
    const auto segment = encode(of, tile, layer, number);
    return std::vector<std::byte>(segment.begin() + kSegmentHeaderBytes, segment.end());
  };
  const auto base = body(*codec, 1, 5);
  EXPECT_EQ(body(*codec, 1, 5), base);
  EXPECT_NE(body(*codec, 2, 5), base);
  EXPECT_NE(body(*codec, 1, 6), base);
  EXPECT_NE(body(*other, 1, 5), base);
  const auto half = static_cast<std::ptrdiff_t>(base.size() / 2);
  EXPECT_FALSE(std::equal(base.begin(), base.begin() + half, base.begin() + half));
  EXPECT_EQ(body(*nearest, 1, 5), body(*nearest, 2, 6));
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::force_isa(isa));
    EXPECT_EQ(body(*codec, 1, 5), base) << kernels::isa_name(isa);
  }
}

void expect_open_tile_is_coded(const std::string& spec, std::uint32_t number) {
  constexpr std::uint32_t kLayer = 2, kHead = 1, kRows = 6;
  const auto codec = codec_of(spec);
  const std::uint32_t tokens = codec->tile_tokens(), dim = kGeometry.head_dim;
  Tile tile(tokens);
  const std::vector<float> q = make_queries(9, kRows, dim);
  std::vector<float> add(std::size_t{kRows} * tokens);
  for (std::size_t i = 0; i < add.size(); ++i) add[i] = static_cast<float>(i % 13) * 0.1f;
  const QueryRows queries{q.data(), kRows, add.data()};
  const auto attend_open = [&](const std::uint32_t* visible) {
    State state(kRows);
    codec->attend_open(kGeometry, kLayer, number, tile.open(), kHead, queries, visible,
                       state.view());
    return state;
  };
  State closed(kRows);
  codec->attend(kGeometry, encode(*codec, tile, kLayer, number), kHead, queries, closed.view());
  const State open = attend_open(nullptr);
  EXPECT_EQ(open.m, closed.m);
  EXPECT_EQ(open.l, closed.l);
  EXPECT_EQ(open.o, closed.o);
  const std::vector<std::uint32_t> visible = {tokens, 1, 40, 40, 33, tokens};
  const State mixed = attend_open(visible.data());
  for (std::uint32_t r = 0; r < kRows; ++r) {
    const bool whole = visible[r] == tokens;
    EXPECT_EQ(mixed.m[r] == closed.m[r] && mixed.l[r] == closed.l[r], whole) << r;
  }
  EXPECT_EQ(mixed.l[1], 1.0f);
  // What is behind a row's tokens does not matter to it.
  const auto behind = static_cast<std::ptrdiff_t>(std::size_t{kHead} * tokens * dim + 40 * dim);
  std::fill(tile.k.begin() + behind, tile.k.end(), std::uint16_t{0x4f00});
  std::fill(tile.v.begin() + behind, tile.v.end(), std::uint16_t{0x4f00});
  const State changed = attend_open(visible.data());
  for (const std::uint32_t r : {1u, 2u, 3u, 4u}) {
    EXPECT_EQ(changed.m[r], mixed.m[r]);
    EXPECT_TRUE(std::equal(changed.o.begin() + r * dim, changed.o.begin() + (r + 1) * dim,
                           mixed.o.begin() + r * dim));
  }
}

// A row that sees the whole open tile gets what it would get of the closed one; each row by what it
// alone sees.
TEST_F(PaperStage, OpenTileWithoutRequantizationElimination) {
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::force_isa(isa));
    for (const char* spec : {"hack(k=2,v=2,layout=paper,rqe=off)",
                             "hack(k=3,v=8,layout=paper,group=32,rqe=off,se=off)",
                             "hack(k=4,v=2,layout=paper,group=128,rqe=off)",
                             "hack(k=2,v=2,layout=paper,rounding=stochastic,seed=5,rqe=off)",
                             "hack(k=2,v=3,layout=paper,first_bits=8,rqe=off)"}) {
      for (const std::uint32_t number : {0u, 3u}) {
        SCOPED_TRACE(std::string(spec) + " tile " + std::to_string(number));
        expect_open_tile_is_coded(spec, number);
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::codec
