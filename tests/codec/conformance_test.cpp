// Every codec's bytes: sizes stated beforehand, equal on every instruction set, meaning the same
// wherever they lie, and the wire form that gives them back. Values that are not finite are
// refused, the largest and smallest ones are not.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "base/hash.h"
#include "codec/pipeline_codec.h"
#include "codec/segment.h"
#include "codec/spec.h"
#include "codec/stage.h"
#include "codec_case.h"
#include "kernels/isa.h"

namespace kvferry::codec {
namespace {

using bench::Kind;
using ::testing::HasSubstr;

TEST(AllSpecs, NameEveryStage) {
  std::set<std::string> named;
  for (const char* spec : kAllSpecs) {
    const auto stages = parse_spec(spec);
    ASSERT_TRUE(stages.ok());
    for (const SpecStage& stage : *stages) named.insert(stage.name);
  }
  for (const StageEntry& entry : list_stages()) {
    EXPECT_EQ(named.count(std::string(entry.name)), 1u) << entry.name << " is in no spec";
  }
}

// All segments that a sequence in two layers may have: the first tile, a later one, open ones.
std::vector<Place> places(const Codec& codec) {
  std::vector<Place> all;
  for (const std::uint32_t layer : {0u, 1u}) {
    for (const std::uint32_t tile : {0u, 3u}) {
      for (const std::uint32_t tokens : {1u, codec.tile_tokens() - 1, codec.tile_tokens()}) {
        all.push_back({layer, tile, tokens});
      }
    }
  }
  return all;
}

TEST_P(EveryCodec, StatesItsSizes) {
  const auto pipeline = *make_pipeline_codec(GetParam());
  for (const std::uint32_t dim : head_dims()) {
    for (const std::uint32_t kv_heads : {1u, 3u}) {
      const KvGeometry g{2, kv_heads, kv_heads, dim};
      for (const Place& at : places(*codec_)) {
        const std::size_t bytes = codec_->segment_bytes(g, at.layer, at.tile, at.tokens);
        if (at.tokens < codec_->tile_tokens()) {
          EXPECT_EQ(bytes, 64 + std::size_t{4} * kv_heads * at.tokens * dim);
          continue;
        }
        std::size_t planes = 0;
        for (const Plane& plane : pipeline->storage().planes(g, {at.layer, at.tile})) {
          EXPECT_GE(plane.bits, 1u);
          EXPECT_LE(plane.bits, 32u);
          EXPECT_GT(plane.bytes, 0u);
          planes += plane.bytes;
        }
        EXPECT_EQ(planes % 64, 0u);
        EXPECT_EQ(bytes, 64 + kv_heads * planes) << "tile " << at.tile;
        if (at.tile == 0) continue;
        EXPECT_EQ(bytes, codec_->segment_bytes(g, at.layer, at.tile + 1000, at.tokens));
      }
    }
  }
}

// Wrong sizes and places are refused before anything is written.
TEST_P(EveryCodec, RefusesWrongSizes) {
  const KvGeometry g = geometry();
  const std::uint32_t whole = codec_->tile_tokens();
  TileValues tile = make_tile(*codec_, g, Kind::kGaussian, 1);
  const auto segment = encode_tile(*codec_, g, {1, 3, whole}, tile);
  for (const std::ptrdiff_t more : {-1, 1}) {
    std::vector<std::byte> out(segment.size() + static_cast<std::size_t>(more));
    EXPECT_FALSE(codec_->encode(g, 1, 3, whole, tile.open(), out).ok());
    EXPECT_FALSE(codec_->unwrap(g, 1, 3, whole, segment, out).ok());
  }
  std::vector<std::byte> out(segment.size());
  for (const Place& at : {Place{1, 3, 0}, Place{1, 3, whole + 1}, Place{2, 3, whole}}) {
    EXPECT_FALSE(codec_->encode(g, at.layer, at.tile, at.tokens, tile.open(), out).ok());
    EXPECT_FALSE(codec_->validate(g, at.layer, at.tile, at.tokens, segment).ok());
    EXPECT_FALSE(codec_->unwrap(g, at.layer, at.tile, at.tokens, segment, out).ok());
  }
}

// From run to run, on every instruction set, wherever input and output lie and whatever was there.
TEST_P(EveryCodec, GivesEqualBytes) {
  const KvGeometry g = geometry();
  for (const Kind kind : bench::kKinds) {
    TileValues tile = make_tile(*codec_, g, kind, 7);
    ExactBytes k(std::as_bytes(std::span(tile.k)), 2), v(std::as_bytes(std::span(tile.v)), 6);
    for (const Place& at : places(*codec_)) {
      SCOPED_TRACE(std::string(bench::name_of(kind)) + " tile " + std::to_string(at.tile) + ", " +
                   std::to_string(at.tokens) + " tokens");
      const auto want = encode_tile(*codec_, g, at, tile);
      on_every_isa([&] {
        ASSERT_EQ(encode_tile(*codec_, g, at, tile), want);
        ExactBytes out(want.size(), 3);
        std::fill(out.bytes().begin(), out.bytes().end(), std::byte{0xff});
        const OpenTile moved{k.bytes().data(), v.bytes().data()};
        ASSERT_TRUE(codec_->encode(g, at.layer, at.tile, at.tokens, moved, out.bytes()).ok());
        ASSERT_TRUE(std::equal(want.begin(), want.end(), out.bytes().begin()));
      });
      ASSERT_TRUE(codec_->validate(g, at.layer, at.tile, at.tokens, want).ok());
    }
  }
}

// The bytes of a head's part depend on that head alone, so that a range of heads is a range of
// bytes; those of an open tile not on what lies behind its last token.
TEST_P(EveryCodec, KeepsHeadsApart) {
  const KvGeometry g = geometry(3);
  const Place at{1, 3, codec_->tile_tokens()};
  TileValues tile = make_tile(*codec_, g, Kind::kGaussian, 5);
  const auto before = encode_tile(*codec_, g, at, tile);
  const std::size_t head = tile.k.size() / g.kv_heads;
  TileValues other = make_tile(*codec_, g, Kind::kMixed, 6);
  std::copy_n(other.k.begin(), head, tile.k.begin() + static_cast<std::ptrdiff_t>(head));
  std::copy_n(other.v.begin(), head, tile.v.begin() + static_cast<std::ptrdiff_t>(head));
  const auto after = encode_tile(*codec_, g, at, tile);
  const std::size_t part = (before.size() - kSegmentHeaderBytes) / g.kv_heads;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const bool second = i >= kSegmentHeaderBytes + part && i < kSegmentHeaderBytes + 2 * part;
    if (second) continue;
    ASSERT_EQ(before[i], after[i]) << "byte " << i;
  }
  EXPECT_NE(before, after);
}

// A copy at any even address is the same segment.
TEST_P(EveryCodec, MayLieAnywhere) {
  const KvGeometry g = geometry();
  constexpr std::uint32_t kRows = 3;
  const auto queries = bench::make_queries(4, kRows, g.head_dim);
  const std::size_t n = std::size_t{codec_->tile_tokens()} * g.head_dim;
  TileValues tile = make_tile(*codec_, g, Kind::kGaussian, 9);
  for (const std::uint32_t number : {0u, 3u}) {
    const Place at{1, number, codec_->tile_tokens()};
    const auto segment = encode_tile(*codec_, g, at, tile);
    on_every_isa([&] {
      States want(kRows, g.head_dim);
      std::vector<float> want_k(n), want_v(n), k(n), v(n);
      codec_->attend(g, segment, 1, {queries.data(), kRows}, want.view());
      codec_->reconstruct(g, segment, 1, want_k.data(), want_v.data());
      for (const std::size_t offset : {2u, 6u, 34u}) {
        ExactBytes copy(segment, offset);
        ASSERT_TRUE(codec_->validate(g, at.layer, at.tile, at.tokens, copy.bytes()).ok());
        States got(kRows, g.head_dim);
        codec_->attend(g, copy.bytes(), 1, {queries.data(), kRows}, got.view());
        ASSERT_EQ(got, want) << offset;
        codec_->reconstruct(g, copy.bytes(), 1, k.data(), v.data());
        ASSERT_EQ(k, want_k);
        ASSERT_EQ(v, want_v);
      }
    });
  }
}

// The wire form is as long as its header says, never longer than the segment, the same bytes on
// every instruction set, and comes back bit by bit.
TEST_P(EveryCodec, ComesBackFromTheWire) {
  const KvGeometry g = geometry();
  for (const Kind kind : bench::kKinds) {
    TileValues tile = make_tile(*codec_, g, kind, 3);
    for (const Place& at : places(*codec_)) {
      SCOPED_TRACE(std::string(bench::name_of(kind)) + " tile " + std::to_string(at.tile) + ", " +
                   std::to_string(at.tokens) + " tokens");
      const auto segment = encode_tile(*codec_, g, at, tile);
      std::vector<std::byte> wire;
      on_every_isa([&] {
        ExactBytes room(segment.size(), 1);
        const std::size_t length = codec_->wrap(g, segment, room.bytes());
        ASSERT_LE(length, segment.size());
        const auto wrapped = room.bytes().first(length);
        ASSERT_EQ(wire_bytes(wrapped).value(), length);
        if (wire.empty()) wire.assign(wrapped.begin(), wrapped.end());
        ASSERT_TRUE(std::equal(wrapped.begin(), wrapped.end(), wire.begin(), wire.end()));
        ExactBytes sent(wrapped, 5), back(segment.size(), 2);
        const Status status =
            codec_->unwrap(g, at.layer, at.tile, at.tokens, sent.bytes(), back.bytes());
        ASSERT_TRUE(status.ok()) << status.to_string();
        ASSERT_TRUE(std::equal(segment.begin(), segment.end(), back.bytes().begin()));
      });
    }
  }
}

// An open tile comes back from its dense segment bit by bit, with zeros behind its last token.
TEST_P(EveryCodec, LoadsOpenTiles) {
  const KvGeometry g = geometry();
  TileValues tile = make_tile(*codec_, g, Kind::kMixed, 2);
  for (const std::uint32_t tokens : {1u, 31u, codec_->tile_tokens() - 1}) {
    const auto segment = encode_tile(*codec_, g, {1, 3, tokens}, tile);
    TileValues loaded{std::vector<std::uint16_t>(tile.k.size(), 0xaaaa),
                      std::vector<std::uint16_t>(tile.v.size(), 0xaaaa)};
    codec_->load_open(g, segment, loaded.open());
    for (std::size_t i = 0; i < tile.k.size(); ++i) {
      const bool filled = i / g.head_dim % codec_->tile_tokens() < tokens;
      ASSERT_EQ(loaded.k[i], filled ? tile.k[i] : 0);
      ASSERT_EQ(loaded.v[i], filled ? tile.v[i] : 0);
    }
  }
}

// NaN or infinity names its layer, KV head, token and channel; slots behind the last token are
// nobody's.
TEST_P(EveryCodec, RefusesWhatIsNotFinite) {
  const KvGeometry g = geometry();
  const std::uint32_t whole = codec_->tile_tokens();
  on_every_isa([&] {
    for (const std::uint32_t tokens : {whole, whole - 5}) {
      TileValues good = make_tile(*codec_, g, Kind::kGaussian, 8);
      std::vector<std::byte> out(codec_->segment_bytes(g, 1, 2, tokens));
      for (std::uint64_t draw = 0; draw < 40; ++draw) {
        TileValues tile = good;
        auto& values = draw % 2 == 0 ? tile.k : tile.v;
        const std::size_t index = counter_random(11, draw) % values.size();
        constexpr std::uint16_t kBad[] = {0x7f80, 0xff80, 0x7f81, 0xffff, 0x7fc0};
        values[index] = kBad[draw % 5];
        const std::size_t slot = index / g.head_dim % whole;
        const Status status = codec_->encode(g, 1, 2, tokens, tile.open(), out);
        if (slot >= tokens) {
          ASSERT_TRUE(status.ok()) << status.to_string();
          continue;
        }
        ASSERT_EQ(status.code(), Code::kInvalidArgument);
        ASSERT_EQ(status.message(), std::string(draw % 2 == 0 ? "K" : "V") +
                                        " is NaN or infinite: layer 1, KV head " +
                                        std::to_string(index / g.head_dim / whole) + ", token " +
                                        std::to_string(2 * whole + slot) + ", channel " +
                                        std::to_string(index % g.head_dim));
      }
    }
  });
}

constexpr std::uint16_t kLargest = 0x7f7f, kSmallest = 0x0001, kSign = 0x8000;

// Tiles at the ends of bf16: what overflows f32 on the way, what vanishes, and both side by side.
std::uint16_t extreme(int kind, std::uint64_t index) {
  const std::uint64_t random = counter_random(static_cast<std::uint64_t>(kind), index);
  const auto sign = static_cast<std::uint16_t>(random % 2 == 0 ? 0 : kSign);
  switch (kind) {
    case 0:  // both ends of the range
      return kLargest | sign;
    case 1:  // all equal
      return kLargest | kSign;
    case 2:  // one among zeros
      return index % 1000 == 17 ? kLargest : 0;
    case 3:  // no step that f32 could divide by
      return kSmallest | sign;
    case 4:  // the smallest beside the largest
      return (random / 2 % 64 == 0 ? kLargest : kSmallest) | sign;
    default:  // any finite bits
      return static_cast<std::uint16_t>((random >> 8) % 0x7f80) | sign;
  }
}
constexpr int kExtremes = 6;

void expect_finite(const std::vector<float>& values, const char* what) {
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  ASSERT_EQ(bad, values.end()) << what << " " << bad - values.begin() << " is " << *bad;
}

TEST_P(EveryCodec, StaysFiniteOnExtremes) {
  const KvGeometry g = geometry(1);
  constexpr std::uint32_t kRows = 5;
  std::vector<float> queries = bench::make_queries(3, kRows, g.head_dim);
  constexpr float kScales[kRows] = {1.0f, 0.0f, 0x1p-120f, 0x1p60f, 0x1p124f};
  for (std::size_t i = 0; i < queries.size(); ++i) queries[i] *= kScales[i / g.head_dim];
  const std::size_t n = std::size_t{codec_->tile_tokens()} * g.head_dim;
  std::vector<float> k(n), v(n);
  for (int kind = 0; kind < kExtremes; ++kind) {
    TileValues tile{std::vector<std::uint16_t>(n), std::vector<std::uint16_t>(n)};
    for (std::size_t i = 0; i < n; ++i) tile.k[i] = extreme(kind, i);
    for (std::size_t i = 0; i < n; ++i) tile.v[i] = extreme(kind, i + n);
    for (const std::uint32_t number : {0u, 3u}) {
      const Place at{1, number, codec_->tile_tokens()};
      const auto segment = encode_tile(*codec_, g, at, tile);
      const Status status = codec_->validate(g, at.layer, at.tile, at.tokens, segment);
      ASSERT_TRUE(status.ok()) << kind << ": " << status.to_string();
      on_every_isa([&] {
        SCOPED_TRACE("values of kind " + std::to_string(kind) + ", tile " + std::to_string(number));
        codec_->reconstruct(g, segment, 0, k.data(), v.data());
        expect_finite(k, "K");
        expect_finite(v, "V");
        States states(kRows, g.head_dim);
        for (int twice = 0; twice < 2; ++twice) {
          codec_->attend(g, segment, 0, {queries.data(), kRows}, states.view());
        }
        codec_->attend_open(g, 1, number, tile.open(), 0, {queries.data(), kRows}, nullptr,
                            states.view());
        expect_finite(states.m, "m");
        expect_finite(states.l, "l");
        expect_finite(states.normalized(), "output");
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Bytes, EveryCodec, ::testing::ValuesIn(kAllSpecs), spec_test_name);

}  // namespace
}  // namespace kvferry::codec
