// Landing slots at the receiver, frame by frame: credits, duplicates, and the end of a transfer in
// between.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/transport/transfer_world.h"

namespace kvferry::transport::testing {
namespace {

// What a transport with rendezvous does: many payloads are landing at one time.
class TransferLanding : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.frame_bytes = 150;
    config_.credits_per_transfer = 2;
    world_ = std::make_unique<World>(config_);
    t_ = world_->make(1, 300, 1);
    world_->policy.script = [this](std::size_t, Channel& channel, const WireFrame& frame,
                                   const auto& forward) {
      if (frame.header.sender_epoch == 0xBBBB) side_of_d_ = &channel;
      if (frame.header.type != FrameType::kData) forward(frame);
    };
    ASSERT_TRUE(world_->expect(t_).ok());
    ASSERT_TRUE(world_->open(t_).ok());
    world_->poll();
    world_->push_all(t_);
    for (const WireFrame& frame : world_->policy.sent) {
      if (frame.header.type == FrameType::kData) data_.push_back(frame);
    }
    ASSERT_EQ(data_.size(), 2u) << "two credits";
  }
  Result<std::span<std::byte>> header_comes(const WireFrame& frame) {
    return world_->d->hub.on_header(*side_of_d_, frame.header);
  }
  void frame_comes(const WireFrame& frame, std::span<std::byte> memory,
                   const Status& status = ok_status()) {
    if (status.ok() && !memory.empty()) {
      std::copy(frame.payload.begin(), frame.payload.end(), memory.begin());
    }
    world_->d->hub.on_frame(*side_of_d_, frame.header, memory, status);
    world_->poll();
  }
  std::size_t quarantined() const {
    return world_->d->pool->usage()
        .classes[static_cast<std::size_t>(ExtentClass::kStaging)]
        .quarantined;
  }
  std::size_t answers(FrameType type) const {
    std::size_t count = 0;
    for (const WireFrame& frame : world_->policy.sent) count += frame.header.type == type;
    return count;
  }

  TransferConfig config_;
  std::unique_ptr<World> world_;
  TestTransfer t_;
  Channel* side_of_d_ = nullptr;
  std::vector<WireFrame> data_;
};

TEST_F(TransferLanding, CreditsBoundTheSlots) {
  const auto first = header_comes(data_[0]);
  const auto second = header_comes(data_[1]);
  ASSERT_TRUE(first.ok() && second.ok());
  WireFrame third = data_[1];
  third.header.sequence = 7;
  seal(third.header, third.payload);
  const auto refused = header_comes(third);
  EXPECT_FALSE(refused.ok());
  frame_comes(third, {}, refused.status());
  EXPECT_EQ(world_->d->refused(RefusalCause::kCredits), 1);
  EXPECT_EQ(answers(FrameType::kNack), 1u);
  frame_comes(data_[1], *second);
  frame_comes(data_[0], *first);
  EXPECT_EQ(answers(FrameType::kAck), 2u);
}

TEST_F(TransferLanding, DuplicateOfALandingFrameIsIgnored) {
  const auto first = header_comes(data_[0]);
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(header_comes(data_[0]).ok());
  EXPECT_EQ(answers(FrameType::kNack) + answers(FrameType::kAck), 0u);
  frame_comes(data_[0], *first);
  EXPECT_EQ(answers(FrameType::kAck), 1u);
  EXPECT_FALSE(header_comes(data_[0]).ok());
  EXPECT_EQ(answers(FrameType::kAck), 2u) << "resident: acknowledged without landing";
  EXPECT_EQ(t_.land_calls[0], 1);
}

TEST_F(TransferLanding, SlotOfADeadTransferIsKeptUntilTheFrameIsThere) {
  const auto first = header_comes(data_[0]);
  ASSERT_TRUE(first.ok());
  world_->d->hub.receiver().cancel(1, cancelled("client gone"));
  world_->poll();
  PoolUsage usage = world_->d->pool->usage();
  EXPECT_EQ(usage.pool - usage.free, ExtentPool::kUnit) << "one slot is still being written to";
  EXPECT_EQ(quarantined(), ExtentPool::kUnit);
  EXPECT_FALSE(world_->d->hub.idle());
  frame_comes(data_[0], *first);
  EXPECT_EQ(t_.land_calls[0], 0) << "nothing lands after the end";
  EXPECT_EQ(quarantined(), 0u) << "the receive has completed";
  world_->expect_clean();
}

TEST_F(TransferLanding, FrameThatNeverArrivesClosesTheChannel) {
  const auto first = header_comes(data_[0]);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(side_of_d_->open());
  world_->timers.advance(config_.lease_ns + kSecond);  // only timers: no other frame arrives
  EXPECT_EQ(t_.receive_failed, 1);
  EXPECT_FALSE(side_of_d_->open());
  EXPECT_EQ(quarantined(), ExtentPool::kUnit) << "closed, but the receive has not ended";
  frame_comes(data_[0], *first, unavailable("channel closed"));
  EXPECT_EQ(quarantined(), 0u);
  world_->expect_clean();
}

}  // namespace
}  // namespace kvferry::transport::testing
