#include "scheduler/admission.h"

#include <gtest/gtest.h>

namespace kvferry::scheduler {
namespace {

TEST(Admission, RunsThenQueuesThenRefuses) {
  Admission admission({.running = 2, .queued = 2});
  EXPECT_TRUE(*admission.enter(1));
  EXPECT_TRUE(*admission.enter(2));
  EXPECT_FALSE(*admission.enter(3));
  EXPECT_FALSE(*admission.enter(4));
  EXPECT_EQ(admission.enter(5).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(admission.running(), 2u);
  EXPECT_EQ(admission.queued(), 2u);
  EXPECT_EQ(admission.leave(1, 0.1), 3u);  // first come, first served
  EXPECT_FALSE(*admission.enter(5));
}

TEST(Admission, WhoLeavesTheQueueStartsNobody) {
  Admission admission({.running = 1, .queued = 2});
  EXPECT_TRUE(*admission.enter(1));
  EXPECT_FALSE(*admission.enter(2));
  EXPECT_FALSE(*admission.enter(3));
  EXPECT_EQ(admission.leave(2, 0), std::nullopt);
  EXPECT_EQ(admission.leave(99, 0), std::nullopt);
  EXPECT_EQ(admission.leave(1, 1), 3u);
  EXPECT_EQ(admission.leave(3, 1), std::nullopt);
  EXPECT_EQ(admission.running(), 0u);
  EXPECT_TRUE(*admission.enter(4));
}

TEST(Admission, RetryAfterFollowsTheQueueAndThePace) {
  Admission admission({.running = 1, .queued = 100});
  EXPECT_EQ(admission.retry_after_s(), 1u);
  for (std::uint64_t id = 1; id <= 11; ++id) EXPECT_TRUE(admission.enter(id).ok());
  EXPECT_EQ(admission.retry_after_s(), 10u);
  for (std::uint64_t id = 12; id <= 100; ++id) EXPECT_TRUE(admission.enter(id).ok());
  EXPECT_EQ(admission.retry_after_s(), 60u);
}

}  // namespace
}  // namespace kvferry::scheduler
