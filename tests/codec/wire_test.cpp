// The wire form of whole segments, for every codec that has one: never longer, back to the very
// bytes, and refused when anything in it is not as it was written.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/hash.h"
#include "bench/kv_data.h"
#include "codec/codec.h"
#include "codec/segment.h"

namespace kvferry::codec {
namespace {

using Bytes = std::vector<std::byte>;

constexpr const char* kSpecs[] = {
    "raw | lossless",
    "raw | zstd",
    "hadamard | hack(k=2,v=2) | rans",
    "hack(k=4,v=2) | rans",
    "hack(k=3,v=5) | rans",
    "hack(k=2,v=2,range=minmax) | zstd",
    "hack(k=4,v=4) | zstd(level=3)",
    "hack(k=4,v=4) | lossless",
};

KvGeometry geometry() {
  KvGeometry g;
  g.layers = 1;
  g.kv_heads = 4;
  g.q_heads = 8;
  g.head_dim = 128;
  return g;
}

// The segments of a sequence of two closed tiles and one of 17 tokens, of one layer.
struct Sample {
  std::shared_ptr<const Codec> codec;
  std::uint32_t tokens = 0;  // of the tile
  std::uint32_t tile = 0;
  Bytes segment;
};

std::vector<Sample> samples(const std::string& spec, bench::Kind kind) {
  std::vector<Sample> all;
  auto sequence = bench::encode_sequence(spec, geometry(), 2 * 64 + 17, kind, 5);
  EXPECT_TRUE(sequence.ok()) << sequence.status().to_string();
  const SequenceKv& kv = sequence->kv();
  for (std::uint32_t tile = 0; tile < 2; ++tile) {
    const auto segment = kv.segment(0, tile);
    all.push_back({kv.codec, 64, tile, Bytes(segment.begin(), segment.end())});
  }
  Bytes open(kv.codec->segment_bytes(geometry(), 0, 2, 17));
  EXPECT_TRUE(kv.codec->encode(geometry(), 0, 2, 17, kv.open_tile(0), open).ok());
  all.push_back({kv.codec, 17, 2, open});
  return all;
}

Bytes wrap(const Sample& s) {
  Bytes wire(s.segment.size());
  wire.resize(s.codec->wrap(geometry(), s.segment, wire));
  return wire;
}

Status unwrap(const Sample& s, const Bytes& wire, Bytes& out) {
  out.assign(s.segment.size(), std::byte{0x5a});
  return s.codec->unwrap(geometry(), 0, s.tile, s.tokens, wire, out);
}

TEST(Wire, ComesBackAndIsNeverLonger) {
  for (const char* spec : kSpecs) {
    for (const bench::Kind kind : bench::kKinds) {
      for (const Sample& s : samples(spec, kind)) {
        const Bytes wire = wrap(s);
        ASSERT_LE(wire.size(), s.segment.size()) << spec << " " << bench::name_of(kind);
        const auto bytes = wire_bytes(wire);
        ASSERT_TRUE(bytes.ok());
        EXPECT_EQ(*bytes, wire.size());
        Bytes back;
        const Status status = unwrap(s, wire, back);
        ASSERT_TRUE(status.ok()) << spec << " " << bench::name_of(kind) << status.to_string();
        ASSERT_EQ(back, s.segment) << spec << " " << bench::name_of(kind);
      }
    }
  }
}

double share(const std::string& spec) {
  const Sample s = samples(spec, bench::Kind::kGaussian)[1];
  return static_cast<double>(wrap(s).size()) / static_cast<double>(s.segment.size());
}

// Two-sided: a coder that becomes suspiciously good forgets something.
TEST(Wire, SavesWhatTheEntropySays) {
  EXPECT_NEAR(share("raw | lossless"), 0.662, 0.005);
  EXPECT_NEAR(share("hack(k=2,v=2,range=minmax) | rans"), 0.755, 0.01);
  EXPECT_NEAR(share("hack(k=2,v=2,range=search) | rans"), 0.888, 0.01);
  EXPECT_NEAR(share("hack(k=4,v=2,range=search) | rans"), 0.905, 0.01);
  for (const std::string storage : {"hack(k=2,v=2)", "hack(k=4,v=2)", "hack(k=4,v=4)"}) {
    EXPECT_LT(share(storage + " | rans"), share(storage + " | zstd")) << storage;
  }
}

TEST(Wire, RefusesEveryTruncationAndEverythingBehind) {
  for (const char* spec : kSpecs) {
    for (const Sample& s : samples(spec, bench::Kind::kGaussian)) {
      const Bytes wire = wrap(s);
      Bytes back;
      // Every length near the ends, and some between.
      for (std::size_t n = 0; n < wire.size(); n += n < 400 || n + 400 > wire.size() ? 1 : 97) {
        const Bytes cut(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(n));
        ASSERT_EQ(unwrap(s, cut, back).code(), Code::kDataLoss) << spec << " " << n;
      }
      Bytes longer = wire;
      longer.push_back(std::byte{0});
      ASSERT_EQ(unwrap(s, longer, back).code(), Code::kDataLoss) << spec;
    }
  }
}

TEST(Wire, ADamagedHeaderIsRefusedAndNoDamagePassesForTheSegment) {
  for (const char* spec : kSpecs) {
    for (const Sample& s : samples(spec, bench::Kind::kGaussian)) {
      const Bytes wire = wrap(s);
      Bytes back;
      for (std::size_t at = 0; at < wire.size(); at += at < 600 ? 1 : 53) {
        Bytes damaged = wire;
        damaged[at] ^= static_cast<std::byte>(1u << (at % 8));
        const Status status = unwrap(s, damaged, back);
        if (at < kSegmentHeaderBytes) {
          ASSERT_EQ(status.code(), Code::kDataLoss) << spec << " byte " << at;
        } else if (status.ok() && s.codec->spec().find("zstd") == std::string::npos) {
          // zstd's frames have bits that decide nothing.
          ASSERT_NE(back, s.segment) << spec << " byte " << at;
        }
      }
    }
  }
}

TEST(Wire, OfAnotherPlaceIsRefused) {
  for (const char* spec : kSpecs) {
    const std::vector<Sample> all = samples(spec, bench::Kind::kGaussian);
    Bytes back;
    EXPECT_EQ(unwrap(all[0], wrap(all[1]), back).code(), Code::kDataLoss) << spec;
    EXPECT_EQ(unwrap(all[2], wrap(all[1]), back).code(), Code::kDataLoss) << spec;
  }
  // A plain segment may come where a wrapped one could: wrapping had saved nothing.
  const Sample s = samples("hack(k=4,v=2) | rans", bench::Kind::kGaussian)[1];
  Bytes back;
  EXPECT_TRUE(unwrap(s, s.segment, back).ok());
  EXPECT_EQ(back, s.segment);
}

TEST(Wire, SurvivesAnyBytesBehindAGoodHeader) {
  for (const char* spec : kSpecs) {
    const Sample s = samples(spec, bench::Kind::kGaussian)[1];
    const Bytes wire = wrap(s);
    Bytes back;
    for (std::uint64_t round = 0; round < 300; ++round) {
      Bytes any = wire;
      const std::size_t end = round % 3 == 0 ? any.size() : kSegmentHeaderBytes + 200;
      for (std::size_t at = kSegmentHeaderBytes; at < end; ++at) {
        const std::uint64_t draw = counter_random(round, at);
        if (round % 3 == 0 || draw % 16 == 0) any[at] = static_cast<std::byte>(draw >> 8);
      }
      (void)unwrap(s, any, back);
    }
  }
}

TEST(Wire, SpecsAreNormalised) {
  const auto spec_of = [](const char* text) {
    const auto codec = make_codec(text);
    return codec.ok() ? (*codec)->spec() : codec.status().to_string();
  };
  EXPECT_EQ(spec_of("raw|lossless()"), "raw | lossless");
  EXPECT_EQ(spec_of("hadamard | hack(k=2,v=2) | rans"), "hadamard | hack(k=2,v=2) | rans");
  EXPECT_EQ(spec_of("raw | zstd(level=1)"), "raw | zstd");
  EXPECT_EQ(spec_of("raw | zstd(level=19)"), "raw | zstd(level=19)");
  EXPECT_NE(make_codec("raw | zstd(level=20)").status().message().find("character 18"),
            std::string::npos);
  EXPECT_FALSE(make_codec("raw | rans(4)").ok());
  EXPECT_FALSE(make_codec("rans").ok());
  EXPECT_FALSE(make_codec("raw | rans | zstd").ok());
}

}  // namespace
}  // namespace kvferry::codec
