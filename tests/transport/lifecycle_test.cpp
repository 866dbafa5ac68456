// Every way out of a transfer: refusal, cancellation, deadline, lease, closed channel, in each
// state and from both sides. After each, both sides have ended and no memory is in use.
#include <gtest/gtest.h>

#include "tests/transport/transfer_world.h"

namespace kvferry::transport::testing {
namespace {

// How far a transfer has come when something happens to it.
enum class Stage { kExpected, kWanted, kHeld, kGranted, kHalfSent, kSent, kCommitted };
constexpr Stage kStages[] = {Stage::kExpected, Stage::kWanted, Stage::kHeld,     Stage::kGranted,
                             Stage::kHalfSent, Stage::kSent,   Stage::kCommitted};

// Brings the transfer to the stage. From kHalfSent on, D's answers to DATA do not arrive.
void bring_to(World& world, TestTransfer& t, Stage stage) {
  world.policy.script = [&world, stage](std::size_t, Channel&, const WireFrame& frame,
                                        const auto& forward) {
    const FrameType type = frame.header.type;
    if (stage >= Stage::kHalfSent && (type == FrameType::kAck || type == FrameType::kCommitAck)) {
      return;
    }
    if (stage == Stage::kWanted && type == FrameType::kGrant) return;
    if (stage == Stage::kCommitted && type == FrameType::kData && frame.header.layer == 1) return;
    forward(frame);
  };
  if (stage != Stage::kHeld) {
    ASSERT_TRUE(world.expect(t).ok());
  }
  if (stage == Stage::kExpected) return;
  ASSERT_TRUE(world.open(t).ok());
  world.poll();
  if (stage >= Stage::kHalfSent) world.push_layer(t, 0);
  if (stage >= Stage::kSent) world.push_layer(t, 1);
  if (stage >= Stage::kCommitted) world.commit(t);
  world.poll();
}

class TransferStages : public ::testing::TestWithParam<Stage> {};
INSTANTIATE_TEST_SUITE_P(Stages, TransferStages, ::testing::ValuesIn(kStages));

TEST_P(TransferStages, SenderCancels) {
  if (GetParam() == Stage::kExpected) return;  // there is no sender yet
  World world;
  TestTransfer t = world.make(1, 100);
  bring_to(world, t, GetParam());
  world.p->hub.sender().cancel(1, cancelled("client gone"));
  EXPECT_EQ(t.failed, 0) << "not inside the call";
  world.poll();
  EXPECT_EQ(t.failed, 1);
  EXPECT_EQ(t.send_status.code(), Code::kCancelled);
  if (GetParam() == Stage::kHeld) {
    EXPECT_EQ(world.expect(t).code(), Code::kCancelled) << "the sender has gone already";
  } else {
    EXPECT_EQ(t.receive_failed, 1);
    EXPECT_EQ(t.receive_status.code(), Code::kCancelled);
    EXPECT_NE(t.receive_status.message().find("client gone"), std::string::npos);
  }
  world.expect_clean();
}

TEST_P(TransferStages, ReceiverCancels) {
  World world;
  TestTransfer t = world.make(1, 100);
  bring_to(world, t, GetParam());
  world.d->hub.receiver().cancel(1, cancelled("client gone"));
  world.poll();
  EXPECT_EQ(t.completed + t.receive_failed, 0) << "no callback after cancel";
  if (GetParam() != Stage::kExpected) {
    EXPECT_EQ(t.failed, 1);
    EXPECT_EQ(t.send_status.code(), Code::kCancelled);
  }
  world.expect_clean();
}

// The cancellation itself is lost: beats find out.
TEST_P(TransferStages, LostCancellationIsFoundByBeats) {
  if (GetParam() < Stage::kGranted) return;
  for (const bool by_sender : {true, false}) {
    World world;
    TestTransfer t = world.make(1, 100);
    bring_to(world, t, GetParam());
    world.policy.script = [](std::size_t, Channel&, const WireFrame& frame, const auto& forward) {
      if (frame.header.code != static_cast<std::uint32_t>(Code::kCancelled)) forward(frame);
    };
    if (by_sender) {
      world.p->hub.sender().cancel(1, cancelled("client gone"));
    } else {
      world.d->hub.receiver().cancel(1, cancelled("client gone"));
    }
    world.policy.script = nullptr;
    world.advance(2 * world.config.beat_ns);
    EXPECT_EQ(by_sender ? t.receive_failed : t.failed, 1);
    world.expect_clean();
  }
}

TEST_P(TransferStages, ChannelCloses) {
  if (GetParam() == Stage::kExpected) return;
  for (const bool by_sender : {true, false}) {
    World world;
    TestTransfer t = world.make(1, 100);
    Channel* side_of_d = nullptr;
    Channel* side_of_p = nullptr;
    bring_to(world, t, GetParam());
    world.policy.script = [&](std::size_t, Channel& channel, const WireFrame& frame,
                              const auto& forward) {
      (frame.header.sender_epoch == 0xAAAA ? side_of_p : side_of_d) = &channel;
      forward(frame);
    };
    world.advance(3 * world.config.beat_ns);  // WANT again or beats: both sides send something
    if (t.ended()) continue;
    ASSERT_NE(by_sender ? side_of_p : side_of_d, nullptr);
    (by_sender ? side_of_p : side_of_d)->close();
    world.poll();
    EXPECT_EQ(t.failed, 1);
    EXPECT_EQ(t.send_status.code(), Code::kUnavailable);
    if (GetParam() != Stage::kHeld) {
      EXPECT_EQ(t.receive_failed, 1);
      EXPECT_EQ(t.receive_status.code(), Code::kUnavailable);
    }
    world.expect_clean();
  }
}

TEST_P(TransferStages, PeerProcessVanishes) {
  if (GetParam() == Stage::kExpected || GetParam() == Stage::kHeld) return;
  World world;
  TestTransfer t = world.make(1, 100);
  bring_to(world, t, GetParam());
  world.p.reset();  // in mid-transfer: no callback of P, everything of P's is free
  world.poll();
  EXPECT_EQ(t.failed + t.acknowledged, 0);
  EXPECT_EQ(t.receive_failed, 1);
  EXPECT_EQ(world.d->pool->usage().free, world.d->pool->usage().pool);

  World other;
  TestTransfer u = other.make(1, 100);
  bring_to(other, u, GetParam());
  other.d.reset();
  other.poll();
  EXPECT_EQ(u.receive_failed + u.completed, 0);
  EXPECT_EQ(u.failed, 1);
  EXPECT_EQ(other.p->pool->usage().free, other.p->pool->usage().pool);
}

// Nothing arrives any more, in either direction, and no channel reports it: a hung peer.
TEST_P(TransferStages, SilenceEndsWithTheLease) {
  if (GetParam() == Stage::kExpected || GetParam() == Stage::kHeld) return;
  World world;
  TestTransfer t = world.make(1, 100);
  bring_to(world, t, GetParam());
  world.policy.script = [](std::size_t, Channel&, const WireFrame&, const auto&) {};
  world.advance(world.config.lease_ns - kSecond);
  EXPECT_FALSE(t.ended());
  world.advance(2 * kSecond);
  EXPECT_EQ(t.failed, 1);
  EXPECT_EQ(t.receive_failed, 1);
  EXPECT_EQ(t.send_status.code(), Code::kUnavailable);
  EXPECT_EQ(t.receive_status.code(), Code::kUnavailable);
  world.expect_clean();
}

TEST_P(TransferStages, DeadlinesEnd) {
  if (GetParam() == Stage::kHeld) return;
  World world;
  TestTransfer t = world.make(1, 100);
  bring_to(world, t, GetParam());
  world.policy.script = [](std::size_t, Channel&, const WireFrame& frame, const auto& forward) {
    const FrameType type = frame.header.type;
    if (type == FrameType::kBeat || type == FrameType::kRelease) forward(frame);
  };
  world.advance(World::kFar - kSecond);
  // P, whose WANT nobody answered, does not name it in beats: D's lease ran out before.
  EXPECT_EQ(t.receive_failed, GetParam() == Stage::kWanted ? 1 : 0);
  world.advance(2 * kSecond);
  EXPECT_EQ(t.receive_failed, 1);
  if (GetParam() == Stage::kWanted) {
    EXPECT_EQ(t.failed, 1);  // earlier: nobody answered its WANT
  } else if (GetParam() != Stage::kExpected) {
    EXPECT_EQ(t.failed, 1);
    EXPECT_EQ(t.receive_status.code(), Code::kDeadlineExceeded);
  }
  world.expect_clean();
}

// Beats alone keep a transfer alive far beyond its lease, on both sides.
TEST(TransferLease, BeatsExtend) {
  World world;
  TestTransfer t = world.make(1, 100);
  ASSERT_TRUE(world.expect(t).ok());
  ASSERT_TRUE(world.open(t).ok());
  world.poll();
  EXPECT_EQ(t.granted, 1);
  world.advance(300 * kSecond);
  EXPECT_EQ(t.failed + t.receive_failed, 0);
  world.push_all(t);
  world.commit(t);
  ASSERT_TRUE(world.advance_until_ended(t, kSecond));
  EXPECT_EQ(t.completed, 1);
  EXPECT_TRUE(t.landed_is_sent());
  world.expect_clean();
}

TEST(TransferRefusal, NamesTheCause) {
  struct Case {
    const char* named;
    std::function<void(World&, TestTransfer&)> change;  // of what D expects
  };
  const std::vector<Case> cases = {
      {"codec differs: sender has 'fake', receiver expects 'other'",
       [](World&, TestTransfer& t) { t.identity.codec = std::make_shared<FakeCodec>("other"); }},
      {"layout differs", [](World&, TestTransfer& t) { t.identity.geometry.head_dim = 128; }},
      {"layout differs", [](World&, TestTransfer& t) { t.identity.geometry.removed_bias = 1; }},
      {"layout differs",
       [](World&, TestTransfer& t) { t.identity.codec = std::make_shared<FakeCodec>("fake", 2); }},
      {"tokens differ: sender has 100, receiver expects 101",
       [](World&, TestTransfer& t) { t.identity.tokens = 101; }},
      {"request id differs", [](World&, TestTransfer& t) { ++t.identity.request_id; }},
  };
  for (const Case& c : cases) {
    for (const bool want_first : {false, true}) {
      SCOPED_TRACE(std::string(c.named) + (want_first ? ", WANT first" : ""));
      World world;
      TestTransfer sent = world.make(1, 100);
      TestTransfer expected = world.make(1, 100);
      c.change(world, expected);
      if (want_first) {
        ASSERT_TRUE(world.open(sent).ok());
        world.poll();
        EXPECT_NE(world.expect(expected).message().find(c.named), std::string::npos);
        EXPECT_EQ(expected.receive_failed, 0) << "expect() said it already";
      } else {
        ASSERT_TRUE(world.expect(expected).ok());
        ASSERT_TRUE(world.open(sent).ok());
        world.poll();
        EXPECT_EQ(expected.receive_failed, 1);
        EXPECT_NE(expected.receive_status.message().find(c.named), std::string::npos);
      }
      world.poll();
      EXPECT_EQ(sent.failed, 1);
      EXPECT_NE(sent.send_status.message().find(c.named), std::string::npos)
          << sent.send_status.to_string();
      world.expect_clean();
    }
  }
}

TEST(TransferRefusal, AnotherModelOrClass) {
  for (const bool model : {true, false}) {
    World world;
    ModelIdentity other = World::kModel;
    ++(model ? other.model_fingerprint : other.numerics_class);
    world.p = nullptr;
    world.p = std::make_unique<Process>(world.network, world.io, world.timers, world.policy, 0xCCCC,
                                        other, world.config, 1 << 20);
    TestTransfer t = world.make(1, 100);
    TestTransfer at_d = world.make(1, 100);
    t.identity.model_fingerprint = other.model_fingerprint;
    t.identity.numerics_class = other.numerics_class;
    EXPECT_EQ(world.expect(t).code(), Code::kFailedPrecondition) << "not D's own";
    for (const bool expected : {false, true}) {
      if (expected) {
        at_d.identity.transfer_id = t.identity.transfer_id = 2;
        ASSERT_TRUE(world.expect(at_d).ok());
      }
      t.failed = 0;
      ASSERT_TRUE(world.open(t).ok());
      world.poll();
      EXPECT_EQ(t.failed, 1);
      EXPECT_EQ(t.send_status.code(), Code::kUnsupported);
      EXPECT_NE(t.send_status.message().find(model ? "model fingerprint differs"
                                                   : "numerics class differs"),
                std::string::npos);
    }
    EXPECT_EQ(at_d.receive_failed, 1);
    world.expect_clean();
  }
}

TEST(TransferRefusal, CallersMistakesAreErrors) {
  World world;
  TestTransfer t = world.make(1, 100);
  TestTransfer bad = world.make(2, 100);
  bad.identity.codec = nullptr;
  EXPECT_EQ(world.expect(bad).code(), Code::kInvalidArgument);
  EXPECT_EQ(world.open(bad).code(), Code::kInvalidArgument);
  TestTransfer empty = world.make(3, 100);
  empty.identity.tokens = 0;
  EXPECT_EQ(world.expect(empty).code(), Code::kInvalidArgument);
  EXPECT_EQ(world.expect(t, 0).code(), Code::kDeadlineExceeded);
  ASSERT_TRUE(world.expect(t).ok());
  EXPECT_EQ(world.expect(t).code(), Code::kFailedPrecondition);
  ASSERT_TRUE(world.open(t).ok());
  EXPECT_EQ(world.open(t).code(), Code::kFailedPrecondition);
  EXPECT_EQ(
      world.p->hub.sender()
          .open(world.make(9, 64).identity, "loopback:99", world.timers.now_ns() + kSecond, {})
          .code(),
      Code::kUnavailable);
  world.p->hub.sender().cancel(77, cancelled("unknown ids are ignored"));
  world.d->hub.receiver().cancel(77, cancelled("unknown ids are ignored"));
  world.push_all(t);
  world.commit(t);
  ASSERT_TRUE(world.advance_until_ended(t, kSecond));
  EXPECT_EQ(world.expect(t).code(), Code::kFailedPrecondition) << "used before";
  world.expect_clean();
}

TEST(TransferRefusal, MisusedPushFailsBothSides) {
  const std::vector<std::function<void(World&, TestTransfer&)>> mistakes = {
      [](World& w, TestTransfer& t) { w.push_layer(t, 0), w.push_layer(t, 0); },
      [](World& w, TestTransfer& t) {
        w.p->hub.sender().push(1, 0, 0, {OutgoingSegment(std::span(t.segments[0]).first(5))});
      },
      [](World& w, TestTransfer& t) {
        w.p->hub.sender().push(1, 2, 0, {OutgoingSegment(t.segments[0])});
      },
      [](World& w, TestTransfer& t) {
        w.p->hub.sender().push(1, 0, 2, {OutgoingSegment(t.segments[0])});
      },
      [](World& w, TestTransfer& t) { w.push_layer(t, 0), w.commit(t); },
      [](World& w, TestTransfer& t) { w.push_all(t), w.p->hub.sender().commit(1, {}, {}); },
  };
  for (std::size_t i = 0; i < mistakes.size(); ++i) {
    SCOPED_TRACE(i);
    World world;
    TestTransfer t = world.make(1, 100);
    ASSERT_TRUE(world.expect(t).ok());
    ASSERT_TRUE(world.open(t).ok());
    world.poll();
    mistakes[i](world, t);
    ASSERT_TRUE(world.advance_until_ended(t, kSecond));
    EXPECT_EQ(t.failed + t.receive_failed, 2) << t.send_status.to_string();
    world.expect_clean();
  }
}

TEST(TransferRefusal, NoMemoryToLandFailsBothSides) {
  World world;
  TestTransfer t = world.make(1, 100);
  t.refuse_landing = true;
  world.run(t);
  EXPECT_EQ(t.receive_status.code(), Code::kResourceExhausted);
  EXPECT_EQ(t.send_status.code(), Code::kResourceExhausted);
  world.expect_clean();
}

// Two incarnations of P on one channel: only the first is heard.
TEST(TransferEpoch, AnotherIncarnationOnTheChannelIsRefused) {
  World world;
  TestTransfer t = world.make(1, 100);
  world.policy.script = [&](std::size_t i, Channel&, WireFrame frame, const auto& forward) {
    if (i != 0 && frame.header.sender_epoch == 0xAAAA) {
      frame.header.sender_epoch = 0xAAAB;
      seal(frame.header, frame.payload);
    }
    forward(frame);
  };
  ASSERT_TRUE(world.expect(t).ok());
  ASSERT_TRUE(world.open(t).ok());
  world.push_all(t);
  world.commit(t);
  ASSERT_TRUE(world.advance_until_ended(t, 2 * world.config.lease_ns));
  EXPECT_EQ(t.failed + t.receive_failed, 2);
  EXPECT_GT(world.d->refused(RefusalCause::kEpoch), 0);
  world.expect_clean();
}

// A restarted P wants the same transfer over a channel of its own: it belongs to the first.
TEST(TransferEpoch, AnotherChannelCannotTakeATransferOver) {
  World world;
  TestTransfer t = world.make(1, 100);
  ASSERT_TRUE(world.expect(t).ok());
  ASSERT_TRUE(world.open(t).ok());
  world.poll();
  Process restarted(world.network, world.io, world.timers, world.policy, 0xDDDD, World::kModel,
                    world.config, 1 << 20);
  int refused = 0;
  SendCallbacks callbacks;
  callbacks.failed = [&](const Status& why) {
    ++refused;
    EXPECT_EQ(why.code(), Code::kFailedPrecondition);
  };
  ASSERT_TRUE(restarted.hub.sender()
                  .open(t.identity, world.d->transport.address(), world.timers.now_ns() + kSecond,
                        callbacks)
                  .ok());
  world.poll();
  EXPECT_EQ(refused, 1);
  world.push_all(t);
  world.commit(t);
  ASSERT_TRUE(world.advance_until_ended(t, kSecond));
  EXPECT_EQ(t.completed, 1);
  EXPECT_TRUE(t.landed_is_sent());
  world.expect_clean();
}

TEST(TransferRefusal, CommittedTwiceFailsTheSender) {
  World world;
  TestTransfer t = world.make(1, 100);
  ASSERT_TRUE(world.expect(t).ok());
  ASSERT_TRUE(world.open(t).ok());
  world.push_all(t);
  world.commit(t);
  world.commit(t);
  ASSERT_TRUE(world.advance_until_ended(t, kSecond));
  EXPECT_EQ(t.failed, 1);
  EXPECT_EQ(t.receive_failed, 1);
  world.expect_clean();
}

// Callbacks may call back into the side that calls them.
TEST(TransferCallbacks, MayCallBack) {
  World world;
  TestTransfer first = world.make(1, 100);
  TestTransfer second = world.make(2, 100);
  SendCallbacks sends;
  int second_done = 0;
  sends.granted = [&] { world.p->hub.sender().cancel(1, cancelled("changed its mind")); };
  sends.failed = [&](const Status&) {
    SendCallbacks again;
    again.granted = [&] {
      world.push_all(second);
      world.commit(second);
    };
    again.acknowledged = [&] { ++second_done; };
    EXPECT_TRUE(world.p->hub.sender()
                    .open(second.identity, world.d->transport.address(),
                          world.timers.now_ns() + kSecond, again)
                    .ok());
  };
  ASSERT_TRUE(world.expect(first).ok());
  ASSERT_TRUE(world.expect(second).ok());
  ASSERT_TRUE(world.p->hub.sender()
                  .open(first.identity, world.d->transport.address(),
                        world.timers.now_ns() + kSecond, sends)
                  .ok());
  world.poll();
  EXPECT_EQ(first.receive_failed, 1);
  EXPECT_EQ(second.completed, 1);
  EXPECT_EQ(second_done, 1);
  world.expect_clean();
}

}  // namespace
}  // namespace kvferry::transport::testing
