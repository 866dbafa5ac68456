// Damaged bytes of every codec, as a segment and in its wire form: every truncation is refused;
// every altered bit is refused or harmless, which is to say that what passed the check is attended
// to without a step outside its bytes and without NaN. Sanitizers see the steps.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/hash.h"
#include "codec/segment.h"
#include "codec_case.h"

namespace kvferry::codec {
namespace {

using bench::Kind;

// A segment of one KV head, closed or open, first or later.
struct Sample {
  Place at;
  std::vector<std::byte> segment, wire;
};

std::vector<Sample> samples(const Codec& codec, const KvGeometry& g) {
  std::vector<Sample> all;
  TileValues tile = make_tile(codec, g, Kind::kGaussian, 51);
  const std::uint32_t whole = codec.tile_tokens();
  for (const Place& at : {Place{1, 0, whole}, Place{1, 3, whole}, Place{1, 3, 7}}) {
    Sample sample{at, encode_tile(codec, g, at, tile), {}};
    sample.wire.resize(sample.segment.size());
    sample.wire.resize(codec.wrap(g, sample.segment, sample.wire));
    all.push_back(std::move(sample));
  }
  return all;
}

// What may be done with a validated segment.
void expect_harmless(const Codec& codec, const KvGeometry& g, const Place& at,
                     std::span<const std::byte> segment) {
  std::vector<float> k(std::size_t{codec.tile_tokens()} * g.head_dim), v(k.size());
  codec.reconstruct(g, segment, 0, k.data(), v.data());
  const auto is_nan = [](float x) { return std::isnan(x); };
  ASSERT_TRUE(std::none_of(k.begin(), k.end(), is_nan));
  ASSERT_TRUE(std::none_of(v.begin(), v.end(), is_nan));
  const auto queries = bench::make_queries(52, 1, g.head_dim);
  States states(1, g.head_dim);
  if (at.tokens == codec.tile_tokens()) {
    codec.attend(g, segment, 0, {queries.data(), 1}, states.view());
  } else {
    TileValues tile{std::vector<std::uint16_t>(k.size()), std::vector<std::uint16_t>(k.size())};
    codec.load_open(g, segment, tile.open());
    codec.attend_open(g, at.layer, at.tile, tile.open(), 0, {queries.data(), 1}, &at.tokens,
                      states.view());
  }
  const auto output = states.normalized();
  ASSERT_TRUE(std::none_of(output.begin(), output.end(), is_nan));
}

// Calls body(bit) for every bit of the header and about `count` of those behind it.
template <class Body>
void for_bits(std::size_t bytes, std::size_t count, Body body) {
  const std::size_t header = 8 * kSegmentHeaderBytes;
  const std::size_t step = std::max<std::size_t>(1, (8 * bytes - header) / count) | 1;  // all bits
  for (std::size_t bit = 0; bit < 8 * bytes; bit += bit < header ? 1 : step) body(bit);
}

constexpr std::size_t kBits = 700;  // behind the header, of each form

TEST_P(EveryCodec, RefusesEveryTruncation) {
  const KvGeometry g = geometry(1);
  for (const Sample& sample : samples(*codec_, g)) {
    const auto& [layer, tile, tokens] = sample.at;
    std::vector<std::byte> back(sample.segment.size());
    for (std::size_t length = 0; length < sample.segment.size(); ++length) {
      ExactBytes cut(std::span(sample.segment).first(length));
      ASSERT_EQ(codec_->validate(g, layer, tile, tokens, cut.bytes()).code(), Code::kDataLoss)
          << length << " of " << sample.segment.size() << " bytes";
    }
    for (std::size_t length = 0; length < sample.wire.size(); ++length) {
      ExactBytes cut(std::span(sample.wire).first(length));
      ASSERT_EQ(codec_->unwrap(g, layer, tile, tokens, cut.bytes(), back).code(), Code::kDataLoss)
          << length << " of " << sample.wire.size() << " bytes on the wire";
    }
    for (auto longer : {sample.segment, sample.wire}) {
      longer.push_back(std::byte{0});
      EXPECT_FALSE(codec_->validate(g, layer, tile, tokens, longer).ok());
      EXPECT_EQ(codec_->unwrap(g, layer, tile, tokens, longer, back).code(), Code::kDataLoss);
    }
  }
}

// A wire form cut short whose header says so.
TEST_P(EveryCodec, RefusesTruncationsThatTheHeaderOwnsUpTo) {
  const KvGeometry g = geometry(1);
  for (const Sample& sample : samples(*codec_, g)) {
    const auto& [layer, tile, tokens] = sample.at;
    ExactBytes back(sample.segment.size());
    const std::size_t step = sample.wire.size() / 500 + 1;
    for (std::size_t length = kSegmentHeaderBytes; length < sample.wire.size(); length += step) {
      ExactBytes cut(std::span(sample.wire).first(length));
      const auto bytes = static_cast<std::uint32_t>(length);
      std::memcpy(cut.bytes().data() + offsetof(SegmentHeader, bytes), &bytes, sizeof(bytes));
      ASSERT_FALSE(codec_->unwrap(g, layer, tile, tokens, cut.bytes(), back.bytes()).ok())
          << length;
    }
  }
}

TEST_P(EveryCodec, SurvivesEveryAlteredBit) {
  const KvGeometry g = geometry(1);
  for (const Sample& sample : samples(*codec_, g)) {
    const auto& [layer, tile, tokens] = sample.at;
    ExactBytes segment(sample.segment);
    for_bits(sample.segment.size(), kBits, [&](std::size_t bit) {
      segment.bytes()[bit / 8] ^= std::byte{1} << (bit % 8);
      const Status status = codec_->validate(g, layer, tile, tokens, segment.bytes());
      if (bit < 8 * kSegmentHeaderBytes) {
        ASSERT_EQ(status.code(), Code::kDataLoss) << "bit " << bit;
      } else if (status.ok()) {
        expect_harmless(*codec_, g, sample.at, segment.bytes());
      }
      segment.bytes()[bit / 8] ^= std::byte{1} << (bit % 8);
    });
    ExactBytes wire(sample.wire), back(sample.segment.size());
    for_bits(sample.wire.size(), kBits, [&](std::size_t bit) {
      wire.bytes()[bit / 8] ^= std::byte{1} << (bit % 8);
      const Status status = codec_->unwrap(g, layer, tile, tokens, wire.bytes(), back.bytes());
      if (bit < 8 * kSegmentHeaderBytes) {
        ASSERT_EQ(status.code(), Code::kDataLoss) << "bit " << bit << " on the wire";
      } else if (status.ok()) {
        ASSERT_TRUE(codec_->validate(g, layer, tile, tokens, back.bytes()).ok());
        expect_harmless(*codec_, g, sample.at, back.bytes());
      }
      wire.bytes()[bit / 8] ^= std::byte{1} << (bit % 8);
    });
  }
}

// Any bytes behind a good header: what validates is harmless, whatever its scales and codes are.
TEST_P(EveryCodec, SurvivesArbitraryBytes) {
  const KvGeometry g = geometry(1);
  for (const Sample& sample : samples(*codec_, g)) {
    const auto& [layer, tile, tokens] = sample.at;
    for (std::uint64_t draw = 0; draw < 200; ++draw) {
      ExactBytes segment(sample.segment);
      const std::size_t body = sample.segment.size() - kSegmentHeaderBytes;
      // Few bytes in most draws, so that most validate; all of them in some.
      const std::size_t count = draw % 10 == 0 ? body : 1 + draw % 32;
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t random = counter_random(draw, i);
        segment.bytes()[kSegmentHeaderBytes + (random >> 8) % body] =
            static_cast<std::byte>(random);
      }
      if (codec_->validate(g, layer, tile, tokens, segment.bytes()).ok()) {
        expect_harmless(*codec_, g, sample.at, segment.bytes());
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::codec
