// The transfer protocol without faults: what arrives, in which orders, and what is accounted.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/transport/transfer_world.h"

namespace kvferry::transport::testing {
namespace {

void expect_success(World& world, const TestTransfer& t) {
  EXPECT_EQ(t.completed, 1) << t.receive_status.to_string();
  EXPECT_EQ(t.acknowledged, 1) << t.send_status.to_string();
  EXPECT_EQ(t.failed + t.receive_failed, 0);
  EXPECT_TRUE(t.landed_is_sent());
  EXPECT_EQ(std::count(t.land_calls.begin(), t.land_calls.end(), 1),
            static_cast<std::ptrdiff_t>(t.land_calls.size()));
  ASSERT_EQ(t.first_tokens.size(), 1u);
  EXPECT_EQ(t.first_tokens[0].id, 42);
  EXPECT_LE(world.policy.max_in_flight, world.policy.granted);
}

class TransferTokens : public ::testing::TestWithParam<std::uint32_t> {};

TEST_P(TransferTokens, ArrivesWhole) {
  World world;
  TestTransfer t = world.make(1, GetParam(), 3);
  world.run(t);
  expect_success(world, t);
  EXPECT_EQ(t.granted, 1);
  EXPECT_EQ(t.stats.prefill.encode_ns, 2u);
  EXPECT_EQ(t.stats.frames_refused, 0u);
  world.expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Tokens, TransferTokens,
                         ::testing::Values(1, 63, 64, 65, 127, 128, 129, 500, 2000));

TEST(Transfer, BytesAreThoseOfTheWire) {
  World world;
  TestTransfer t = world.make(1, 130);
  world.run(t);
  std::uint64_t wire = 0, payload = 0;
  for (const WireFrame& frame : world.policy.sent) {
    // What follows COMMIT_ACK comes after the receiver's account is closed.
    if (frame.header.type == FrameType::kRelease) continue;
    wire += sizeof(FrameHeader) + frame.payload.size();
    if (frame.header.type == FrameType::kData) payload += frame.payload.size();
  }
  EXPECT_EQ(t.stats.wire_bytes, wire);
  EXPECT_EQ(t.stats.payload_bytes, payload);
  EXPECT_EQ(world.d->metrics
                .counter("kvferry_transfer_payload_bytes_total",
                         "Bytes of DATA payloads, each frame once",
                         {{"direction", "received"}, {"codec", "fake"}})
                .value(),
            static_cast<double>(payload));
  EXPECT_EQ(world.p->metrics
                .counter("kvferry_transfer_raw_bytes_total", "Bytes that the same KV takes in bf16",
                         {{"direction", "sent"}, {"codec", "fake"}})
                .value(),
            130.0 * 2 * 2 * 2 * 64 * 2);
}

TEST(Transfer, FramesGatherUpToTheirSize) {
  TransferConfig config;
  config.frame_bytes = 300;  // 140 + 76 + 76 bytes, then 3 x 76
  World world(config);
  TestTransfer t = world.make(1, 64 * 7, 1);
  world.run(t);
  expect_success(world, t);
  std::vector<std::uint32_t> tiles;
  for (const WireFrame& frame : world.policy.sent) {
    if (frame.header.type == FrameType::kData) tiles.push_back(frame.header.tile_count);
  }
  EXPECT_EQ(tiles, (std::vector<std::uint32_t>{3, 3, 1}));
}

TEST(Transfer, SegmentLongerThanAFrameGoesAlone) {
  TransferConfig config;
  config.frame_bytes = 50;
  World world(config);
  TestTransfer t = world.make(1, 200, 2);
  world.run(t);
  expect_success(world, t);
}

TEST(Transfer, ContiguousSegmentsAreNotGathered) {
  World world;
  TestTransfer t = world.make(1, 192, 1);
  std::vector<std::byte> block;
  for (const auto& segment : t.segments) block.insert(block.end(), segment.begin(), segment.end());
  ASSERT_TRUE(world.expect(t).ok());
  ASSERT_TRUE(world.open(t).ok());
  world.poll();
  std::vector<OutgoingSegment> spans;
  std::size_t at = 0;
  for (const auto& segment : t.segments) {
    spans.emplace_back(std::span(block).subspan(at, segment.size()));
    at += segment.size();
  }
  world.p->hub.sender().push(1, 0, 0, spans);
  EXPECT_EQ(world.p->pool->usage().free, world.p->pool->usage().pool);
  world.commit(t);
  ASSERT_TRUE(world.advance_until_ended(t, kSecond));
  expect_success(world, t);
}

TEST(Transfer, CreditsBoundWhatIsInFlight) {
  TransferConfig config;
  config.frame_bytes = 80;
  config.credits_per_transfer = 3;
  config.staging_slots = 4;
  World world(config);
  std::vector<TestTransfer> transfers;
  for (std::uint64_t id = 1; id <= 6; ++id) transfers.push_back(world.make(id, 1000, 2));
  for (auto& t : transfers) {
    ASSERT_TRUE(world.expect(t).ok());
    ASSERT_TRUE(world.open(t).ok());
    world.push_all(t);
    world.commit(t);
  }
  std::size_t most = 0;
  world.policy.script = [&](std::size_t, Channel&, const WireFrame& frame, const auto& forward) {
    const auto usage = world.d->pool->usage();
    most = std::max(most, usage.pool - usage.free);
    forward(frame);
  };
  for (auto& t : transfers) {
    ASSERT_TRUE(world.advance_until_ended(t, 10 * kSecond));
    EXPECT_EQ(t.completed, 1) << t.receive_status.to_string();
    EXPECT_TRUE(t.landed_is_sent());
  }
  EXPECT_GT(most, 0u);
  EXPECT_LE(most, 4 * ExtentPool::kUnit) << "four slots of one unit each";
  EXPECT_EQ(world.d->refused(RefusalCause::kCredits), 0);
  world.expect_clean();
}

TEST(Transfer, WaitsWhenThePoolHasNoRoomForSlots) {
  World world({}, 4096);
  auto block = world.d->pool->allocate(4096, ExtentClass::kClosed);
  ASSERT_TRUE(block.ok());
  TestTransfer t = world.make(1, 65);
  ASSERT_TRUE(world.expect(t).ok());
  ASSERT_TRUE(world.open(t).ok());
  world.push_all(t);
  world.commit(t);
  world.advance(20 * kSecond);
  EXPECT_FALSE(t.ended());
  EXPECT_EQ(t.granted, 0);
  block->release();
  ASSERT_TRUE(world.advance_until_ended(t, kSecond));
  expect_success(world, t);
  world.expect_clean();
}

TEST(Transfer, WantBeforeExpectIsHeld) {
  World world;
  TestTransfer t = world.make(1, 100);
  ASSERT_TRUE(world.open(t).ok());
  world.push_all(t);
  world.commit(t);
  world.advance(10 * kSecond);
  EXPECT_EQ(t.granted, 0);
  EXPECT_EQ(world.d->hub.receiver().active(), 1u);
  ASSERT_TRUE(world.expect(t).ok());
  ASSERT_TRUE(world.advance_until_ended(t, kSecond));
  expect_success(world, t);
  world.expect_clean();
}

TEST(Transfer, HeldWantsAreBounded) {
  TransferConfig config;
  config.max_held_wants = 3;
  World world(config);
  std::vector<TestTransfer> transfers;
  for (std::uint64_t id = 1; id <= 4; ++id) transfers.push_back(world.make(id, 64));
  for (auto& t : transfers) ASSERT_TRUE(world.open(t).ok());
  world.poll();
  EXPECT_EQ(transfers[3].failed, 1);
  EXPECT_EQ(transfers[3].send_status.code(), Code::kResourceExhausted);
  EXPECT_EQ(transfers[0].failed, 0);
  world.advance(config.lease_ns + kSecond);
  for (auto& t : transfers) EXPECT_EQ(t.failed, 1);
  EXPECT_EQ(transfers[0].send_status.code(), Code::kDeadlineExceeded);
  world.expect_clean();
}

// Layers pushed in every order, before and after the grant, with the commit at once behind.
TEST(Transfer, LayersInAnyOrder) {
  std::vector<std::uint32_t> order = {0, 1, 2, 3};
  do {
    World world;
    TestTransfer t = world.make(1, 100, 4);
    ASSERT_TRUE(world.expect(t).ok());
    ASSERT_TRUE(world.open(t).ok());
    world.push_layer(t, order[0]);
    world.poll();
    for (std::size_t i = 1; i < order.size(); ++i) world.push_layer(t, order[i]);
    world.commit(t);
    ASSERT_TRUE(world.advance_until_ended(t, kSecond));
    expect_success(world, t);
  } while (std::next_permutation(order.begin(), order.end()));
}

// P's frames delivered in every order (the grant comes first, so that there are frames).
TEST(Transfer, FramesArriveInAnyOrder) {
  std::vector<std::size_t> order = {0, 1, 2, 3, 4};  // four DATA, COMMIT
  int runs = 0;
  do {
    World world;
    TestTransfer t = world.make(1, 100, 4);
    world.policy.script = [&](std::size_t, Channel&, const WireFrame& frame, const auto& forward) {
      const bool hold = frame.header.type == FrameType::kData ||
                        (frame.header.type == FrameType::kCommit && world.policy.kept.size() < 5);
      if (!hold) return forward(frame);
      world.policy.kept.emplace_back(frame, forward);
    };
    ASSERT_TRUE(world.expect(t).ok());
    ASSERT_TRUE(world.open(t).ok());
    world.push_all(t);
    world.commit(t);
    world.poll();
    ASSERT_EQ(world.policy.kept.size(), 5u);
    for (const std::size_t i : order) {
      world.policy.kept[i].second(world.policy.kept[i].first);
      world.poll();
    }
    ASSERT_TRUE(t.ended());
    expect_success(world, t);
    world.expect_clean();
    ++runs;
  } while (std::next_permutation(order.begin(), order.end()));
  EXPECT_EQ(runs, 120);
}

TEST(Transfer, ManyAtOnceOverOneChannel) {
  World world;
  std::vector<TestTransfer> transfers;
  for (std::uint64_t id = 1; id <= 40; ++id) {
    transfers.push_back(world.make(id, static_cast<std::uint32_t>(id * 17)));
  }
  for (auto& t : transfers) {
    ASSERT_TRUE(world.open(t).ok());
    ASSERT_TRUE(world.expect(t).ok());
    world.push_all(t);
    world.commit(t);
  }
  for (auto& t : transfers) {
    ASSERT_TRUE(world.advance_until_ended(t, 10 * kSecond));
    EXPECT_EQ(t.completed, 1) << t.receive_status.to_string();
    EXPECT_TRUE(t.landed_is_sent());
  }
  world.expect_clean();
}

}  // namespace
}  // namespace kvferry::transport::testing
