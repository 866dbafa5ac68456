// Transfers of codecs with a wire stage: shorter frames, the very segments at the other end, and
// nothing but a definite error for every damage that gets past the payload's checksum.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "codec/segment.h"
#include "tests/transport/transfer_world.h"

namespace kvferry::transport::testing {
namespace {

std::shared_ptr<const codec::Codec> codec_of(const std::string& spec) {
  auto codec = codec::make_codec(spec);
  EXPECT_TRUE(codec.ok()) << codec.status().to_string();
  return *codec;
}

std::size_t total(const std::vector<std::vector<std::byte>>& parts) {
  return std::accumulate(parts.begin(), parts.end(), std::size_t{0},
                         [](std::size_t sum, const auto& part) { return sum + part.size(); });
}

class Wrapped : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Specs, Wrapped,
                         ::testing::Values("raw | lossless", "hack(k=2,v=2,range=minmax) | rans",
                                           "hack(k=4,v=4) | zstd"));

TEST_P(Wrapped, ArrivesWholeInFewerBytes) {
  for (const std::uint32_t tokens : {1u, 63u, 64u, 200u, 640u}) {
    World world({}, 8 << 20);
    TestTransfer t = world.make(1, tokens, 3, codec_of(GetParam()));
    world.run(t);
    EXPECT_EQ(t.completed, 1) << t.receive_status.to_string();
    EXPECT_EQ(t.acknowledged, 1) << t.send_status.to_string();
    EXPECT_TRUE(t.landed_is_sent());
    EXPECT_EQ(t.stats.payload_bytes, total(t.wires));
    EXPECT_EQ(t.stats.frames_refused, 0u);
    if (tokens >= 64) {
      EXPECT_LT(total(t.wires), total(t.segments));
    }
    EXPECT_EQ(world.d->metrics
                  .counter("kvferry_transfer_payload_bytes_total",
                           "Bytes of DATA payloads, each frame once",
                           {{"direction", "received"}, {"codec", t.identity.codec->spec()}})
                  .value(),
              static_cast<double>(total(t.wires)));
    world.expect_clean();
  }
}

// Sends one frame's payload as `damage` leaves it, checksummed anew, the first `times` times.
struct Damage {
  std::function<void(std::vector<std::byte>&)> damage;
  int times = 1;
  int done = 0;
  void operator()(std::size_t, Channel&, WireFrame frame, const FaultPolicy::Forward& forward) {
    if (frame.header.type == FrameType::kData && frame.header.sequence == 1 && done < times) {
      ++done;
      damage(frame.payload);
      frame.header.payload_bytes = static_cast<std::uint32_t>(frame.payload.size());
      seal(frame.header, frame.payload);
    }
    forward(frame);
  }
};

const std::vector<std::function<void(std::vector<std::byte>&)>>& damages() {
  static const std::vector<std::function<void(std::vector<std::byte>&)>> all = {
      [](auto& p) { p.pop_back(); },
      [](auto& p) { p.push_back(std::byte{0}); },
      [](auto& p) { p.resize(20); },                        // no whole header
      [](auto& p) { p.resize(64); },                        // no more than a header
      [](auto& p) { p[0] ^= std::byte{1}; },                // magic
      [](auto& p) { p[18] ^= std::byte{1}; },               // wrapped
      [](auto& p) { p[24] ^= std::byte{1}; },               // bytes
      [](auto& p) { p[27] = std::byte{0x7f}; },             // bytes: 2 GiB
      [](auto& p) { p[24] = p[25] = p[26] = p[27] = {}; },  // bytes: 0
      [](auto& p) { p[12] ^= std::byte{1}; },               // layer
      [](auto& p) { std::fill(p.begin() + 64, p.end(), std::byte{0xff}); },
      [](auto& p) { std::fill(p.begin() + 64, p.end(), std::byte{0}); },
  };
  return all;
}

TEST_P(Wrapped, DamageIsSentAgainAndThenTheTransferFails) {
  TransferConfig config;
  config.frame_bytes = 1;  // a frame a segment
  for (std::size_t i = 0; i < damages().size(); ++i) {
    for (const int times : {1, 3}) {
      World world(config, 8 << 20);
      TestTransfer t = world.make(1, 192, 1, codec_of(GetParam()));
      world.policy.script = Damage{damages()[i], times};
      world.run(t);
      const std::string what = "damage " + std::to_string(i);
      if (times == 1) {
        EXPECT_EQ(t.completed, 1) << what << ": " << t.receive_status.to_string();
        EXPECT_TRUE(t.landed_is_sent()) << what;
        EXPECT_GE(t.stats.frames_refused, 1u) << what;
      } else {
        EXPECT_EQ(t.completed, 0) << what;
        EXPECT_EQ(t.send_status.code(), Code::kDataLoss) << what << t.send_status.to_string();
        EXPECT_EQ(t.receive_failed, 1) << what;
      }
      world.expect_clean();
    }
  }
}

// A wire form that decodes to another valid segment is caught by the digest, which is of segments.
TEST(WrappedDigest, IsOfTheSegments) {
  World world({}, 8 << 20);
  TestTransfer t = world.make(1, 192, 1, codec_of("hack(k=4,v=4) | rans"));
  // Tile 1 as it is, with one code changed: a plain segment where a wrapped one could be.
  t.wires[1] = t.segments[1];
  t.wires[1][codec::kSegmentHeaderBytes] ^= std::byte{1};
  world.run(t);
  EXPECT_EQ(t.completed, 0);
  EXPECT_EQ(t.receive_status.code(), Code::kDataLoss) << t.receive_status.to_string();
  world.expect_clean();
}

TEST(WrappedPush, MayNotBeShorterWithoutAWireStage) {
  World world({}, 8 << 20);
  TestTransfer t = world.make(1, 64, 1, codec_of("raw"));
  t.wires[0].pop_back();
  world.run(t);
  EXPECT_EQ(t.send_status.code(), Code::kInvalidArgument) << t.send_status.to_string();
  world.expect_clean();
}

}  // namespace
}  // namespace kvferry::transport::testing
