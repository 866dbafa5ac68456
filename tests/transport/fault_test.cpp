// The transfer protocol under faults: every frame dropped, duplicated, delayed, and damaged at
// every byte, in both directions. Either the transfer completes with exactly the bytes that were
// sent, or it fails on both sides with a definite error; no memory stays in use either way.
#include <gtest/gtest.h>

#include "tests/transport/transfer_world.h"

namespace kvferry::transport::testing {
namespace {

constexpr std::uint32_t kTokens = 100;  // a closed tile and an open one
constexpr std::uint32_t kLayers = 2;

TransferConfig small_config() {
  TransferConfig config;
  config.frame_bytes = 150;  // one frame a segment
  return config;
}

// The frames of an undisturbed transfer, both ways, in order.
std::vector<WireFrame> undisturbed() {
  World world(small_config());
  TestTransfer t = world.make(1, kTokens, kLayers);
  world.run(t);
  world.poll();
  return world.policy.sent;
}

void expect_complete_or_failed(World& world, const TestTransfer& t) {
  ASSERT_EQ(t.completed + t.receive_failed, 1);
  ASSERT_EQ(t.acknowledged + t.failed, 1);
  if (t.completed == 1) {
    EXPECT_TRUE(t.landed_is_sent());
    ASSERT_EQ(t.first_tokens.size(), 1u);
    EXPECT_EQ(t.first_tokens[0].id, 42);
  } else {
    EXPECT_EQ(t.failed, 1) << "P took for delivered what D did not";
  }
  world.advance(world.config.lease_ns + kSecond);  // stray answers settle
  world.expect_clean();
}

void run_with(const ScriptedPolicy::Script& script, bool must_complete) {
  World world(small_config());
  world.policy.script = script;
  TestTransfer t = world.make(1, kTokens, kLayers);
  ASSERT_TRUE(world.expect(t).ok());
  ASSERT_TRUE(world.open(t).ok());
  world.push_all(t);
  world.commit(t);
  ASSERT_TRUE(world.advance_until_ended(t, World::kFar + kSecond)) << "hangs";
  expect_complete_or_failed(world, t);
  if (must_complete) {
    EXPECT_EQ(t.completed, 1) << t.receive_status.to_string();
  }
}

TEST(TransferFaults, TheSmallTransferHasEveryKindOfFrame) {
  std::size_t data = 0;
  for (const WireFrame& frame : undisturbed()) data += frame.header.type == FrameType::kData;
  EXPECT_EQ(data, 4u);
  EXPECT_EQ(undisturbed().size(), 1 + 1 + 4 + 4 + 1 + 1 + 1u);
}

TEST(TransferFaults, EachFrameDroppedOnce) {
  const std::size_t frames = undisturbed().size();
  for (std::size_t k = 0; k < frames; ++k) {
    SCOPED_TRACE("frame " + std::to_string(k));
    run_with(
        [k](std::size_t i, Channel&, const WireFrame& frame, const auto& forward) {
          if (i != k) forward(frame);
        },
        true);
  }
}

// A type of frame that never arrives: a definite end, however long.
TEST(TransferFaults, EachTypeDroppedAlways) {
  for (std::uint16_t type = 1; type <= kLastFrameType; ++type) {
    SCOPED_TRACE(frame_type_name(static_cast<FrameType>(type)));
    run_with(
        [type](std::size_t, Channel&, const WireFrame& frame, const auto& forward) {
          if (frame.header.type != static_cast<FrameType>(type)) forward(frame);
        },
        false);
  }
}

TEST(TransferFaults, EachFrameDuplicated) {
  const std::size_t frames = undisturbed().size();
  for (std::size_t k = 0; k < frames; ++k) {
    SCOPED_TRACE("frame " + std::to_string(k));
    run_with(
        [k](std::size_t i, Channel&, const WireFrame& frame, const auto& forward) {
          forward(frame);
          if (i == k) forward(frame);
        },
        true);
  }
}

TEST(TransferFaults, AllFramesDuplicated) {
  run_with(
      [](std::size_t, Channel&, const WireFrame& frame, const auto& forward) {
        forward(frame);
        forward(frame);
      },
      true);
}

// Frame k comes after each later one.
TEST(TransferFaults, EachFrameDelayedBehindEachOther) {
  const std::size_t frames = undisturbed().size();
  for (std::size_t k = 0; k < frames; ++k) {
    for (std::size_t behind = k + 1; behind < frames; ++behind) {
      SCOPED_TRACE("frame " + std::to_string(k) + " behind " + std::to_string(behind));
      std::vector<std::pair<WireFrame, FaultPolicy::Forward>> kept;
      run_with(
          [&, k, behind](std::size_t i, Channel&, const WireFrame& frame, const auto& forward) {
            if (i == k) {
              kept.emplace_back(frame, forward);
              return;
            }
            forward(frame);
            if (i == behind) {
              for (const auto& [late, deliver] : kept) deliver(late);
              kept.clear();
            }
          },
          true);
    }
  }
}

void flip(WireFrame& frame, std::size_t bit) {
  const std::size_t byte = bit / 8;
  const auto mask = static_cast<std::byte>(1u << (bit % 8));
  if (byte < sizeof(FrameHeader)) {
    std::as_writable_bytes(std::span(&frame.header, 1))[byte] ^= mask;
  } else {
    frame.payload[byte - sizeof(FrameHeader)] ^= mask;
  }
}

// One bit of every byte of every frame, header and payload; which bit moves on with the byte and
// the frame. CRC32C finds every single bit, so what is at stake is what happens then.
TEST(TransferFaults, EachByteDamagedOnce) {
  const std::vector<WireFrame> frames = undisturbed();
  for (std::size_t k = 0; k < frames.size(); ++k) {
    const std::size_t bytes = sizeof(FrameHeader) + frames[k].payload.size();
    for (std::size_t byte = 0; byte < bytes; ++byte) {
      SCOPED_TRACE("frame " + std::to_string(k) + " byte " + std::to_string(byte));
      const std::size_t bit = byte * 8 + (byte + k) % 8;
      run_with(
          [k, bit](std::size_t i, Channel&, WireFrame frame, const auto& forward) {
            if (i == k) flip(frame, bit);
            forward(frame);
          },
          true);
      if (HasFatalFailure()) return;
    }
  }
}

// The same, but every frame of that type is damaged for good: a definite error, and never a token.
TEST(TransferFaults, EachTypeDamagedAlways) {
  for (std::uint16_t type = 1; type <= kLastFrameType; ++type) {
    for (const std::size_t bit : {100 * 8 + 3, 128 * 8 + 5}) {
      SCOPED_TRACE(std::string(frame_type_name(static_cast<FrameType>(type))) + " bit " +
                   std::to_string(bit));
      run_with(
          [&](std::size_t, Channel&, WireFrame frame, const auto& forward) {
            const bool reaches = bit / 8 < sizeof(FrameHeader) + frame.payload.size();
            if (frame.header.type == static_cast<FrameType>(type) && reaches) flip(frame, bit);
            forward(frame);
          },
          false);
    }
  }
}

TEST(TransferFaults, RefusedThreeTimesFailsBothSides) {
  World world(small_config());
  world.policy.script = [](std::size_t, Channel&, WireFrame frame, const auto& forward) {
    if (frame.header.type == FrameType::kData && frame.header.layer == 1)
      frame.payload[20] ^= std::byte{1};
    forward(frame);
  };
  TestTransfer t = world.make(1, kTokens, kLayers);
  world.run(t);
  EXPECT_EQ(t.send_status.code(), Code::kDataLoss);
  EXPECT_EQ(t.receive_status.code(), Code::kDataLoss);
  EXPECT_GE(world.d->refused(RefusalCause::kPayloadChecksum), 3);
  EXPECT_LE(world.d->refused(RefusalCause::kPayloadChecksum), 6);
  world.expect_clean();
}

TEST(TransferFaults, RefusedTwiceIsSentAThirdTime) {
  World world(small_config());
  world.policy.script = [](std::size_t, Channel&, WireFrame frame, const auto& forward) {
    if (frame.header.type == FrameType::kData && frame.header.attempt < 2)
      frame.payload[0] ^= std::byte{1};
    forward(frame);
  };
  TestTransfer t = world.make(1, kTokens, kLayers);
  const std::uint64_t start = world.timers.now_ns();
  world.run(t);
  EXPECT_EQ(t.completed, 1);
  EXPECT_TRUE(t.landed_is_sent());
  EXPECT_EQ(t.stats.frames_refused, 8u);
  EXPECT_EQ(world.timers.now_ns(), start) << "a refusal needs no timeout";
  world.expect_clean();
}

// A segment that carries a good checksum and another tile's content: the codec's check refuses it.
TEST(TransferFaults, SegmentOfAnotherTileIsRefused) {
  World world(small_config());
  TestTransfer t = world.make(1, 192, 1);
  std::swap(t.segments[1], t.segments[2]);
  std::swap(t.wires[1], t.wires[2]);
  world.run(t);
  EXPECT_EQ(t.receive_failed, 1);
  EXPECT_EQ(t.send_status.code(), Code::kDataLoss);
  EXPECT_EQ(world.d->refused(RefusalCause::kSegment), 6);
  world.expect_clean();
}

// A frame that names other tiles than it carries, sealed correctly: caught by the digest at the
// latest.
TEST(TransferFaults, SealedLiesAreRefused) {
  struct Lie {
    const char* what;
    std::function<void(FrameHeader&)> change;
    RefusalCause cause;
  };
  const std::vector<Lie> lies = {
      {"layer", [](FrameHeader& h) { h.layer = 9; }, RefusalCause::kBounds},
      {"tile", [](FrameHeader& h) { h.first_tile += 7, h.first_token += 7 * 64; },
       RefusalCause::kBounds},
      {"count", [](FrameHeader& h) { h.tile_count += 1, h.token_count += 64; },
       RefusalCause::kBounds},
      {"token", [](FrameHeader& h) { h.first_token += 64; }, RefusalCause::kBounds},
      {"all", [](FrameHeader& h) { h.tile_count = 0xffffffff; }, RefusalCause::kBounds},
      {"far", [](FrameHeader& h) { h.first_tile = 0x3ffffff, h.first_token = 0xffffffc0; },
       RefusalCause::kBounds},
      {"codec", [](FrameHeader& h) { h.codec_id ^= 1; }, RefusalCause::kIdentity},
      {"model", [](FrameHeader& h) { h.model_fingerprint ^= 1; }, RefusalCause::kIdentity},
      {"layout", [](FrameHeader& h) { h.layout_fingerprint ^= 1; }, RefusalCause::kIdentity},
      {"class", [](FrameHeader& h) { h.numerics_class ^= 1; }, RefusalCause::kIdentity},
      {"request", [](FrameHeader& h) { h.request_id ^= 1; }, RefusalCause::kIdentity},
      {"transfer", [](FrameHeader& h) { h.transfer_id ^= 1; }, RefusalCause::kUnknownTransfer},
      {"epoch", [](FrameHeader& h) { h.sender_epoch ^= 1; }, RefusalCause::kEpoch},
      {"open layer", [](FrameHeader& h) { h.layer ^= 1; }, RefusalCause::kSegment},
  };
  for (const Lie& lie : lies) {
    SCOPED_TRACE(lie.what);
    World world(small_config());
    world.policy.script = [&](std::size_t, Channel&, WireFrame frame, const auto& forward) {
      if (frame.header.type == FrameType::kData) {
        lie.change(frame.header);
        seal(frame.header, frame.payload);
      }
      forward(frame);
    };
    TestTransfer t = world.make(1, 64, 2);
    ASSERT_TRUE(world.expect(t).ok());
    ASSERT_TRUE(world.open(t).ok());
    world.push_all(t);
    world.commit(t);
    ASSERT_TRUE(world.advance_until_ended(t, World::kFar + kSecond));
    EXPECT_EQ(t.completed, 0);
    EXPECT_EQ(t.acknowledged, 0);
    EXPECT_GT(world.d->refused(lie.cause), 0);
    world.advance(world.config.lease_ns);
    world.expect_clean();
  }
}

TEST(TransferFaults, WrongDigestFailsBothSides) {
  World world(small_config());
  world.policy.script = [](std::size_t, Channel&, WireFrame frame, const auto& forward) {
    if (frame.header.type == FrameType::kCommit) {
      frame.payload[8] ^= std::byte{1};
      seal(frame.header, frame.payload);
    }
    forward(frame);
  };
  TestTransfer t = world.make(1, kTokens, kLayers);
  world.run(t);
  EXPECT_EQ(t.receive_status.code(), Code::kDataLoss);
  EXPECT_EQ(t.send_status.code(), Code::kDataLoss);
  world.expect_clean();
}

TEST(TransferFaults, MalformedBodiesAreNotFollowed) {
  for (const FrameType type :
       {FrameType::kWant, FrameType::kGrant, FrameType::kCommit, FrameType::kBeat}) {
    for (const std::size_t cut : {0u, 1u, 7u}) {
      SCOPED_TRACE(std::string(frame_type_name(type)) + " cut to " + std::to_string(cut));
      run_with(
          [&](std::size_t, Channel&, WireFrame frame, const auto& forward) {
            if (frame.header.type == type) {
              frame.payload.resize(cut);
              seal(frame.header, frame.payload);
            }
            forward(frame);
          },
          false);
    }
  }
}

}  // namespace
}  // namespace kvferry::transport::testing
