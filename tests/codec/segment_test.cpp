// Segments as bytes: golden ones, checks of what comes from outside, and errors of encode.
#include "codec/segment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/hash.h"
#include "bench/kv_data.h"
#include "kernels/isa.h"

namespace kvferry::codec {
namespace {

using namespace bench;  // NOLINT: made-up KV is what these tests are about

using ::testing::HasSubstr;

constexpr KvGeometry kGeometry{3, 2, 4, 64};
constexpr std::uint32_t kLayer = 2;

// A tile of K and V in memory of exactly its size, so that a sanitizer sees a step outside.
struct Tile {
  std::vector<std::uint16_t> k, v;
  OpenTile open() {
    return {reinterpret_cast<std::byte*>(k.data()), reinterpret_cast<std::byte*>(v.data())};
  }
};

// Values made of integer steps alone, so that golden bytes do not rest on a libm.
Tile make_tile(std::uint64_t seed, std::uint32_t tokens = kGridTokens) {
  Tile tile;
  const std::size_t n = std::size_t{kGeometry.kv_heads} * tokens * kGeometry.head_dim;
  for (auto* values : {&tile.k, &tile.v}) {
    for (std::size_t i = 0; i < n; ++i) {
      const auto bits = static_cast<std::uint32_t>(counter_random(seed, i) >> 44);
      const float value = (static_cast<float>(bits) - 524288.0f) * 0x1p-18f;
      values->push_back(kernels::bf16_from_f32(value));
    }
    seed += 1;
  }
  return tile;
}

std::vector<std::byte> encode(const Codec& codec, Tile& tile, std::uint32_t number,
                              std::uint32_t tokens) {
  std::vector<std::byte> out(codec.segment_bytes(kGeometry, kLayer, number, tokens));
  const Status status = codec.encode(kGeometry, kLayer, number, tokens, tile.open(), out);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return out;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[std::to_integer<int>(b) >> 4];
    text += kDigits[std::to_integer<int>(b) & 15];
  }
  return text;
}

struct Golden {
  const char* spec;
  std::uint32_t tile, tokens;
  std::uint64_t hash;
  const char* body;  // the first bytes behind the header
};

TEST(Segment, GoldenBytesOnEveryInstructionSet) {
  const Golden cases[] = {
      {"raw", 1, 64, 0x7ead97de2f323c9f, "903e6fbf9cbfa53f83bdebbff4bf25bf"},
      {"raw", 0, 5, 0x3a2533a405a1ce30, "903e6fbf9cbfa53f83bdebbff4bf25bf"},
      {"hack(k=2,v=2)", 1, 64, 0xfddbed30df7d053d, "ea91f017954c62eabc812d495d6535b1"},
      {"hack(k=4,v=2)", 7, 64, 0x8ec3e03f723d7d50, "7804035c65e23889d335d5b4d4456614"},
      {"hack(k=4,v=4,range=search)", 7, 64, 0x7bf5f16be7257b21, "8804035c65e23889e325d4b4e4456614"},
      {"hack(k=2,v=2,range=minmax)", 7, 64, 0x92ef4a635ea267ec, "e691b116954c66aabd856d495d6535b1"},
      {"hack(k=2,v=2,range=lsq)", 7, 64, 0x7deeeb8c2437ba63, "e6d1f017954c62eabc812d495d6535b1"},
      {"hack(k=3,v=1)", 7, 64, 0xf6aa4d9750950919, "80b2b12a3e9dd48129464a46eada7f72"},
      {"hack(k=7,v=5,range=lsq)", 7, 64, 0x1dbe35fbc2f8f91d, "f84129a85e606310fb6d17d4f54a2263"},
      {"hack(k=1,v=6)", 7, 64, 0x4135746914c27e82, "1ff8acb128e2950f7ec8a6422234d44c"},
      {"hack(k=2,v=2,group=32)", 7, 64, 0xf39bc3ea4d52cc29, "e691f017554c62eabc812d495d6535b1"},
      {"hack(k=4,v=2,group=128,balance=dual)", 7, 128, 0x1c13769e7ccddeaa,
       "8914135c66d23879d435d5a4d5456614"},
      {"hack(k=2,v=2,balance=dual)", 7, 64, 0x7e3b76075c714c5e, "ea91b017954c62eabd812d094d6535b1"},
      {"hack(k=2,v=2,group=32,balance=dual,first_bits=none)", 0, 64, 0x932f9e95296c1df2,
       "e691f017554c62e6bc812d494d6535f1"},
      {"hack(k=2,v=2,group=128,first_bits=16)", 0, 128, 0x2cb45472a867903b,
       "903e6fbf9cbfa53f83bdebbff4bf25bf"},
      {"hack(k=2,v=2)", 0, 64, 0xe50a30a350c092f4, "904232d05d2186a037594f484b556346"},
      {"hack(k=2,v=3,layout=paper,group=32)", 3, 64, 0x83c677e8aa3feb2,
       "e691b117954c66aabd812d495d6535b1"},
      {"hack(k=2,v=2,layout=paper,rounding=stochastic,seed=7)", 3, 64, 0x46b1162573354fb7,
       "e691b117654d6596ad456d4d99a53571"},
      {"fp8(e4m3)", 7, 64, 0xee2fe9bfd85c42c7, "61eff272d0f7f7ea65e477e5747071f7"},
      {"fp8(e5m2)", 0, 64, 0x0855d1a5dd283035, "6cf3f575e4f7f8f16eee77ef767474f7"},
      {"int8", 7, 64, 0xcd744dff4161c203, "12c4b153fc8985d61ae777e55e3f488a"},
      {"int(k=2,v=2)", 0, 64, 0xe6dcd80cb671fb3d, "9641762bdae949ac12754af74d263de0"},
      {"int(k=3,v=5,group=32)", 7, 64, 0x7615fed45736f0a7, "543c40dce71ab43cd66286d785a05924"},
      {"kivi(k=2,v=2)", 7, 128, 0x26a47c66396c9ed4, "e691b117554c66eabd852d495d6535b1"},
      {"kvarn(k=4,v=2)", 7, 128, 0x82a7e4631c265b2b, "8914135c66d23879d435d5a4d5456614"},
      {"hack(k=2,v=2)", 3, 63, 0x93f487b705a1841d, "903e6fbf9cbfa53f83bdebbff4bf25bf"},
  };
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::force_isa(isa));
    for (const Golden& golden : cases) {
      SCOPED_TRACE(std::string(golden.spec) + " tile " + std::to_string(golden.tile) + " on " +
                   std::string(kernels::isa_name(isa)));
      const auto codec = *make_codec(golden.spec);
      Tile tile = make_tile(11, codec->tile_tokens());
      const auto bytes = encode(*codec, tile, golden.tile, golden.tokens);
      EXPECT_EQ(hash64(bytes), golden.hash);
      EXPECT_EQ(hex(std::span(bytes).subspan(kSegmentHeaderBytes, 16)), golden.body);
    }
  }
}

TEST(Segment, GoldenHeader) {
  Tile tile = make_tile(11);
  const auto bytes = encode(**make_codec("hack(k=4,v=2)"), tile, 0x01020304, 64);
  const std::uint64_t id = hash64("hack(k=4,v=2)");
  EXPECT_EQ(hex(std::span(bytes).first(40)),
            "4b565347"  // magic
            "0100"      // version
            "02"        // kind: codes
            "01"        // open dtype: bf16
            "0402"      // bits of K and V
            "4000"      // tokens
            "0200"      // layer
            "0200"      // KV heads
            "4000"      // head_dim
            "0000"
            "04030201"  // tile
            "401c0000"  // bytes: 64 + 2 * 8 * 64 * (4 + 2 + 1)
            "00000000" +
                hex(std::as_bytes(std::span(&id, 1))));
  EXPECT_EQ(hex(std::span(bytes).subspan(40, 24)), std::string(48, '0'));
}

TEST(Segment, SizesAreThoseOfTheDocument) {
  const auto raw = *make_codec("raw");
  const auto hack = *make_codec("hack(k=4,v=2)");
  for (const std::uint32_t dim : {64u, 128u, 256u}) {
    const KvGeometry geometry{1, 3, 3, dim};
    EXPECT_EQ(raw->segment_bytes(geometry, kLayer, 5, 64), 64 + 3 * 2 * 64 * dim * 2);
    EXPECT_EQ(hack->segment_bytes(geometry, kLayer, 5, 17), 64 + 3 * 2 * 17 * dim * 2);
    EXPECT_EQ(hack->segment_bytes(geometry, kLayer, 5, 64), 64 + 3 * 8 * dim * 7);
    EXPECT_EQ(hack->segment_bytes(geometry, kLayer, 0, 64), 64 + 3 * 8 * dim * 17);
  }
}

class Validate : public ::testing::TestWithParam<std::pair<const char*, std::uint32_t>> {};

// Every length but the right one is refused, and nothing outside the bytes given is read.
TEST_P(Validate, EveryTruncation) {
  const auto [spec, tokens] = GetParam();
  const auto codec = *make_codec(spec);
  Tile tile = make_tile(5, codec->tile_tokens());
  const auto segment = encode(*codec, tile, 3, tokens);
  ASSERT_TRUE(codec->validate(kGeometry, kLayer, 3, tokens, segment).ok());
  for (std::size_t length = 0; length < segment.size(); ++length) {
    // Memory of its own, exactly that long.
    const std::unique_ptr<std::byte[]> cut(new std::byte[length]);
    std::copy_n(segment.begin(), length, cut.get());
    const Status status = codec->validate(kGeometry, kLayer, 3, tokens, {cut.get(), length});
    ASSERT_EQ(status.code(), Code::kDataLoss) << length;
  }
  auto longer = segment;
  longer.push_back(std::byte{0});
  EXPECT_EQ(codec->validate(kGeometry, kLayer, 3, tokens, longer).code(), Code::kDataLoss);
}

TEST_P(Validate, EveryBitOfTheHeader) {
  const auto [spec, tokens] = GetParam();
  const auto codec = *make_codec(spec);
  Tile tile = make_tile(5, codec->tile_tokens());
  auto segment = encode(*codec, tile, 3, tokens);
  for (std::size_t bit = 0; bit < 8 * kSegmentHeaderBytes; ++bit) {
    segment[bit / 8] ^= std::byte{1} << (bit % 8);
    ASSERT_EQ(codec->validate(kGeometry, kLayer, 3, tokens, segment).code(), Code::kDataLoss)
        << bit;
    segment[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST_P(Validate, AnotherPlaceOrCodec) {
  const auto [spec, tokens] = GetParam();
  const auto codec = *make_codec(spec);
  Tile tile = make_tile(5, codec->tile_tokens());
  const auto segment = encode(*codec, tile, 3, tokens);
  EXPECT_FALSE(codec->validate(kGeometry, kLayer - 1, 3, tokens, segment).ok());
  EXPECT_FALSE(codec->validate(kGeometry, kLayer, 4, tokens, segment).ok());
  EXPECT_FALSE(codec->validate(kGeometry, kLayer, 3, tokens - 1, segment).ok());
  EXPECT_FALSE(codec->validate(kGeometry, kGeometry.layers, 3, tokens, segment).ok());
  EXPECT_FALSE(codec->validate(kGeometry, kLayer, 3, 65, segment).ok());
  EXPECT_FALSE(codec->validate(kGeometry, kLayer, 3, 0, segment).ok());
  const auto other = *make_codec("hadamard | " + std::string(spec));
  EXPECT_THAT(other->validate(kGeometry, kLayer, 3, tokens, segment).message(),
              HasSubstr("codec id"));
}

INSTANTIATE_TEST_SUITE_P(All, Validate,
                         ::testing::Values(std::pair{"raw", 64u}, std::pair{"raw", 7u},
                                           std::pair{"hack(k=2,v=2)", 64u},
                                           std::pair{"hack(k=4,v=2)", 63u},
                                           std::pair{"hack(k=3,v=2,group=32,balance=dual)", 64u},
                                           std::pair{"hack(k=2,v=2,group=128)", 128u},
                                           std::pair{"hack(k=2,v=3,layout=paper)", 64u},
                                           std::pair{"dequantize | hack(k=2,v=2)", 64u},
                                           std::pair{"fp8(e5m2)", 64u}, std::pair{"int8", 64u},
                                           std::pair{"int(k=3,v=2)", 64u}));

// Each scale and minimum of each plane and head.
TEST(Segment, ScalesAndMinimaAreChecked) {
  const auto codec = *make_codec("hack(k=4,v=2)");
  Tile tile = make_tile(5);
  const auto segment = encode(*codec, tile, 3, 64);
  const std::size_t dim = kGeometry.head_dim;
  const std::size_t head = 8 * dim * 7;
  const std::size_t k_scale = 8 * dim * 4, k_min = k_scale + 2 * dim;
  const std::size_t v_scale = k_min + 2 * dim + 8 * dim * 2, v_min = v_scale + 2 * dim;
  const auto verdict = [&](std::size_t at, std::uint16_t value) {
    auto changed = segment;
    std::memcpy(changed.data() + at, &value, sizeof(value));
    return codec->validate(kGeometry, kLayer, 3, 64, changed);
  };
  for (std::size_t h = 0; h < kGeometry.kv_heads; ++h) {
    for (std::size_t i = 0; i < dim; ++i) {
      const std::size_t at = kSegmentHeaderBytes + h * head + 2 * i;
      for (const std::size_t plane : {k_scale, v_scale}) {
        for (const int bad : {0x7f80, 0x7fc0, 0xff80, 0x0000, 0x007f, 0xbf80}) {
          ASSERT_FALSE(verdict(at + plane, static_cast<std::uint16_t>(bad)).ok()) << bad;
        }
        ASSERT_TRUE(verdict(at + plane, 0x0080).ok());
      }
      for (const std::size_t plane : {k_min, v_min}) {
        for (const int bad : {0x7f80, 0x7fc0, 0xff80, 0xffff}) {
          ASSERT_FALSE(verdict(at + plane, static_cast<std::uint16_t>(bad)).ok()) << bad;
        }
        ASSERT_TRUE(verdict(at + plane, 0x8000).ok());
      }
    }
  }
}

// Rows of K and columns of V, and the dense values of a first tile of 16 bits.
TEST(Segment, FactorsAreChecked) {
  const auto codec = *make_codec("hack(k=4,v=2,balance=dual,first_bits=16)");
  Tile tile = make_tile(5);
  auto segment = encode(*codec, tile, 3, 64);
  const std::size_t dim = kGeometry.head_dim;
  const std::size_t k_row = kSegmentHeaderBytes + 8 * dim * 4 + 4 * dim;
  const std::size_t v_column = k_row + 2 * 64 + 8 * dim * 2 + 4 * dim;
  ASSERT_EQ(segment.size(),
            kSegmentHeaderBytes + kGeometry.kv_heads * (v_column + 2 * dim - kSegmentHeaderBytes));
  for (const std::size_t plane : {k_row, v_column}) {
    for (std::size_t i = 0; i < 64; ++i) {
      for (const int bad : {0x7f80, 0x7fc0, 0x0000, 0x007f, 0xbf80}) {
        auto changed = segment;
        std::memcpy(changed.data() + plane + 2 * i, &bad, 2);
        const Status status = codec->validate(kGeometry, kLayer, 3, 64, changed);
        ASSERT_THAT(status.message(), HasSubstr("factor " + std::to_string(i))) << bad;
      }
    }
  }
  segment = encode(*codec, tile, 0, 64);
  ASSERT_TRUE(codec->validate(kGeometry, kLayer, 0, 64, segment).ok());
  const std::uint16_t infinity = 0x7f80;
  std::memcpy(segment.data() + segment.size() - 2, &infinity, 2);
  EXPECT_FALSE(codec->validate(kGeometry, kLayer, 0, 64, segment).ok());
}

// What encode never writes is refused, at its first and its last place in the part of each head.
TEST(Segment, CodesAndScalesOfReconstructedStoragesAreChecked) {
  const std::size_t n = kGridTokens * kGeometry.head_dim;
  const struct {
    const char* spec;
    std::size_t first, last;  // within a part
    std::uint16_t good;
    std::vector<std::uint16_t> bad;
  } cases[] = {
      {"fp8(e4m3)", 0, 2 * n - 2, 0x7efe, {0x7f00, 0x00ff}},
      {"fp8(e5m2)", 0, 2 * n - 2, 0x7bfb, {0x7c00, 0x00fc, 0x7e00}},
      {"fp8(e4m3)", 2 * n, 2 * n + 2, 0x0880, {0x0800, 0x7c00, 0xbf80, 0x0000, 0x7f80, 0x3f81}},
      {"fp8(e4m3)", 2 * n + 4, 2 * n + 62, 0x0000, {0x0001, 0x8000}},
      {"int8", 0, n - 2, 0x7f81, {0x8000, 0x0080}},
      {"int8", n, n + 126, 0x0080, {0x007f, 0xbf80, 0x7f80, 0x0000}},
      {"int8", 2 * n + 128, 2 * n + 254, 0x7f7f, {0x007f, 0xbf80, 0x7f80, 0x0000}},
      {"int(k=2,v=2)", n / 4, n / 4 + 126, 0x0080, {0x007f, 0xbf80, 0x7f80, 0x0000}},
      {"int(k=2,v=2)", n / 4 + 128, n / 4 + 254, 0x8000, {0x7f80, 0xff80, 0x7fc0}},
      {"int(k=2,v=2)", n / 2 + 256, n / 2 + 382, 0x7f7f, {0x007f, 0xbf80, 0x7f80, 0x0000}},
      {"int(k=2,v=2)", n / 2 + 384, n / 2 + 510, 0xff7f, {0x7f80, 0xff80, 0x7fc0}},
  };
  for (const auto& c : cases) {
    const auto codec = *make_codec(c.spec);
    Tile tile = make_tile(5);
    const auto segment = encode(*codec, tile, 3, 64);
    const std::size_t part = (segment.size() - kSegmentHeaderBytes) / kGeometry.kv_heads;
    for (std::size_t h = 0; h < kGeometry.kv_heads; ++h) {
      for (const std::size_t at : {c.first, c.last}) {
        const auto verdict = [&](std::uint16_t value) {
          auto changed = segment;
          std::memcpy(changed.data() + kSegmentHeaderBytes + h * part + at, &value, sizeof(value));
          return codec->validate(kGeometry, kLayer, 3, 64, changed);
        };
        EXPECT_TRUE(verdict(c.good).ok()) << c.spec << " " << at;
        for (const std::uint16_t bad : c.bad) {
          EXPECT_EQ(verdict(bad).code(), Code::kDataLoss) << c.spec << " " << at << " " << bad;
        }
      }
    }
  }
}

TEST(Segment, DenseValuesAreChecked) {
  const auto codec = *make_codec("raw");
  for (const std::uint32_t tokens : {64u, 3u}) {
    Tile tile = make_tile(5);
    const auto segment = encode(*codec, tile, 3, tokens);
    for (std::size_t at = kSegmentHeaderBytes; at < segment.size(); at += 2) {
      auto changed = segment;
      const std::uint16_t infinity = 0x7f80;
      std::memcpy(changed.data() + at, &infinity, sizeof(infinity));
      ASSERT_FALSE(codec->validate(kGeometry, kLayer, 3, tokens, changed).ok()) << at;
    }
  }
}

// NaN or infinity names where it stands; what lies behind the last token does not count.
TEST(Segment, EncodeRefusesWhatIsNotFinite) {
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::force_isa(isa));
    for (const char* spec : {"raw", "hack(k=2,v=2)"}) {
      const auto codec = *make_codec(spec);
      for (const std::uint32_t tokens : {64u, 41u}) {
        std::vector<std::byte> out(codec->segment_bytes(kGeometry, kLayer, 2, tokens));
        for (const std::uint16_t bad : {0x7f80, 0xff80, 0x7f81, 0xffff}) {
          Tile tile = make_tile(3);
          // KV head 1, slot 40, channel 63.
          tile.v[(kGridTokens + 40) * kGeometry.head_dim + 63] = bad;
          const Status status = codec->encode(kGeometry, kLayer, 2, tokens, tile.open(), out);
          EXPECT_EQ(status.code(), Code::kInvalidArgument);
          EXPECT_EQ(status.message(),
                    "V is NaN or infinite: layer 2, KV head 1, token 168, channel 63");
        }
        Tile tile = make_tile(3);
        tile.k[63 * kGeometry.head_dim] = 0x7f80;
        EXPECT_EQ(codec->encode(kGeometry, kLayer, 2, tokens, tile.open(), out).ok(), tokens < 64);
      }
    }
  }
}

TEST(Segment, EncodeRefusesWrongSizes) {
  const auto codec = *make_codec("hack(k=2,v=2)");
  Tile tile = make_tile(3);
  std::vector<std::byte> out(codec->segment_bytes(kGeometry, 0, 1, 64) - 1);
  EXPECT_FALSE(codec->encode(kGeometry, kLayer, 1, 64, tile.open(), out).ok());
  EXPECT_FALSE(codec->encode(kGeometry, kLayer, 1, 0, tile.open(), out).ok());
  EXPECT_FALSE(codec->encode(kGeometry, kLayer, 1, 65, tile.open(), out).ok());
  EXPECT_FALSE(codec->encode(kGeometry, kGeometry.layers, 1, 64, tile.open(), out).ok());
}

// An open tile survives the journey bit by bit, with zeros behind the last token.
TEST(Segment, OpenTilesComeBack) {
  for (const char* spec : {"raw", "hack(k=4,v=2)"}) {
    const auto codec = *make_codec(spec);
    for (std::uint32_t tokens = 1; tokens < kGridTokens; tokens += 31) {
      Tile tile = make_tile(8);
      const auto segment = encode(*codec, tile, 1, tokens);
      Tile loaded{std::vector<std::uint16_t>(tile.k.size(), 0xaaaa),
                  std::vector<std::uint16_t>(tile.v.size(), 0xaaaa)};
      codec->load_open(kGeometry, segment, loaded.open());
      for (std::size_t i = 0; i < tile.k.size(); ++i) {
        const bool filled = i / kGeometry.head_dim % kGridTokens < tokens;
        ASSERT_EQ(loaded.k[i], filled ? tile.k[i] : 0);
        ASSERT_EQ(loaded.v[i], filled ? tile.v[i] : 0);
      }
      std::vector<float> k(tokens * kGeometry.head_dim), v(k.size());
      codec->reconstruct(kGeometry, segment, 1, k.data(), v.data());
      const std::size_t head = kGridTokens * kGeometry.head_dim;
      EXPECT_EQ(k.back(), kernels::f32_from_bf16(tile.k[head + k.size() - 1]));
      EXPECT_EQ(v.back(), kernels::f32_from_bf16(tile.v[head + v.size() - 1]));
    }
  }
}

TEST(Segment, RawIsLossless) {
  const auto codec = *make_codec("raw");
  EXPECT_TRUE(codec->traits().lossless);
  Tile tile = make_tile(8);
  const auto segment = encode(*codec, tile, 1, 64);
  const std::size_t head = kGridTokens * kGeometry.head_dim;
  std::vector<float> k(head), v(head);
  for (std::uint32_t h = 0; h < kGeometry.kv_heads; ++h) {
    codec->reconstruct(kGeometry, segment, h, k.data(), v.data());
    for (std::size_t i = 0; i < head; ++i) {
      ASSERT_EQ(k[i], kernels::f32_from_bf16(tile.k[h * head + i]));
      ASSERT_EQ(v[i], kernels::f32_from_bf16(tile.v[h * head + i]));
    }
  }
}

TEST(Segment, ExactCodecKeepsF32) {
  const auto codec = make_exact_codec();
  EXPECT_EQ(codec->traits().open_dtype, OpenDtype::kF32);
  const std::size_t head = kGridTokens * kGeometry.head_dim;
  std::vector<float> k(kGeometry.kv_heads * head), v(k.size());
  for (std::size_t i = 0; i < k.size(); ++i) {
    k[i] = static_cast<float>(gaussian(1, i));
    v[i] = static_cast<float>(gaussian(2, i));
  }
  const OpenTile tile{reinterpret_cast<std::byte*>(k.data()),
                      reinterpret_cast<std::byte*>(v.data())};
  std::vector<std::byte> segment(codec->segment_bytes(kGeometry, 0, 1, 64));
  ASSERT_TRUE(codec->encode(kGeometry, 0, 1, 64, tile, segment).ok());
  ASSERT_TRUE(codec->validate(kGeometry, 0, 1, 64, segment).ok());
  std::vector<float> k_back(head), v_back(head);
  codec->reconstruct(kGeometry, segment, 1, k_back.data(), v_back.data());
  EXPECT_TRUE(std::equal(k_back.begin(), k_back.end(), k.begin() + head));
  EXPECT_TRUE(std::equal(v_back.begin(), v_back.end(), v.begin() + head));
  v[head + 77] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(codec->encode(kGeometry, 0, 1, 64, tile, segment).ok());
}

}  // namespace
}  // namespace kvferry::codec
