#include "manager_harness.h"

namespace kvferry::gateway {
namespace {

using scheduler::WorkerId;

TEST_F(ManagerTest, OrdersBothWorkersAndGivesTextAndUsage) {
  up(kD1);
  up(kP1);
  Seen seen;
  const Generation wanted = generation();
  submit(wanted, seen);
  ASSERT_EQ(sent_.size(), 2u);
  WorkerId to = 0;
  const proto::StartDecode start = order(&to);
  EXPECT_EQ(to, kD1);
  EXPECT_TRUE(start.remote_prefill());
  const proto::Plan plan = start.plan();
  EXPECT_EQ(std::vector<std::int32_t>(plan.ids().begin(), plan.ids().end()), wanted.prompt);
  EXPECT_EQ(plan.max_tokens(), 8u);
  EXPECT_EQ(plan.deadline_ms(), 120000u);
  EXPECT_EQ(plan.sampling().seed(), 42u);
  EXPECT_EQ(sent_[1].first, kP1);
  EXPECT_EQ(sent_[1].second.start_prefill().decode_data_address(), "address of 1");
  EXPECT_EQ(sent_[1].second.start_prefill().plan().SerializeAsString(), plan.SerializeAsString());
  timers_.advance(30 * kMillisecond);
  say(kD1, plan, " a red ball");
  EXPECT_EQ(seen.text, " a red ball");
  usage_.set_sent_bytes(99);
  finished(kD1, plan, "stop");
  ASSERT_EQ(seen.dones, 1);
  EXPECT_TRUE(seen.outcome->status.ok());
  EXPECT_EQ(seen.reason, "stop");
  EXPECT_EQ(seen.outcome->usage.sent_bytes, 99u);
  EXPECT_EQ(seen.outcome->usage.attempts, 1u);
  EXPECT_DOUBLE_EQ(seen.outcome->usage.ttft_ms, 30);
  EXPECT_EQ(manager_->active(), 0u);
}

TEST_F(ManagerTest, ShortPromptsAndNoPrefillWorkerMeanLocalPrefill) {
  up(kD1);
  Seen first, second;
  submit(generation(), first);
  EXPECT_FALSE(order().remote_prefill());
  up(kP1);
  submit(generation("a"), second);
  EXPECT_FALSE(order().remote_prefill());
  EXPECT_EQ(sent_.size(), 2u);
}

TEST_F(ManagerTest, WaitsForAWorkerAndStartsWhenOneComes) {
  Seen seen;
  submit(generation(), seen);
  EXPECT_TRUE(sent_.empty());
  timers_.advance(10 * kSecond);
  up(kD1);
  EXPECT_EQ(order().plan().deadline_ms(), 110000u);
  say(kD1, order().plan(), "x");
  EXPECT_EQ(seen.text, "x");
}

TEST_F(ManagerTest, DecodeWorkerDiesAndTheClientSeesEachTokenOnce) {
  up(kD1);
  up(kD2);
  up(kP1);
  Seen seen;
  const Generation wanted = generation();
  submit(wanted, seen);
  WorkerId first_worker = 0;
  const proto::Plan first = order(&first_worker).plan();
  const std::vector<std::int32_t> ids = *mini_tokenizer()->encode(" a red ball", false);
  ASSERT_GE(ids.size(), 3u);
  token(first_worker, first, 0, ids[0]);
  token(first_worker, first, 1, ids[1]);
  manager_->worker_down(first_worker);

  WorkerId second_worker = 0;
  const proto::Plan second = order(&second_worker).plan();
  EXPECT_NE(second_worker, first_worker);
  EXPECT_NE(second.transfer_id(), first.transfer_id());
  EXPECT_EQ(second.attempt(), 2u);
  EXPECT_EQ(second.max_tokens(), 6u);
  EXPECT_EQ(second.prompt_tokens(), wanted.prompt.size());
  std::vector<std::int32_t> resumed = wanted.prompt;
  resumed.insert(resumed.end(), {ids[0], ids[1]});
  EXPECT_EQ(std::vector<std::int32_t>(second.ids().begin(), second.ids().end()), resumed);
  EXPECT_EQ(cancelled(first.transfer_id()).count(kP1), 1u);

  // The first worker was only asleep: what it says now is of an older attempt.
  constexpr std::int32_t kWrong = 34;
  token(first_worker, first, 2, kWrong);
  token(second_worker, first, 2, kWrong);
  token(first_worker, second, 0, kWrong);
  proto::Plan half_right = second;
  half_right.set_transfer_id(first.transfer_id());
  token(second_worker, half_right, 0, kWrong);
  half_right = second;
  half_right.set_attempt(1);
  token(second_worker, half_right, 0, kWrong);
  for (std::uint32_t i = 2; i < ids.size(); ++i) token(second_worker, second, i - 2, ids[i]);
  token(second_worker, second, 0, ids[2]);  // twice
  finished(first_worker, first, "length");
  finished(first_worker, second, "length");
  EXPECT_EQ(seen.dones, 0);
  finished(second_worker, second, "stop");
  EXPECT_EQ(seen.text, " a red ball");
  EXPECT_EQ(seen.outcome->usage.completion_tokens, ids.size());
  EXPECT_EQ(seen.outcome->usage.attempts, 2u);
  EXPECT_EQ(seen.dones, 1);
}

TEST_F(ManagerTest, AnAnswerThatHasBegunStaysInItsNumericsClass) {
  up(kD1, 1);
  Seen seen;
  submit(generation(), seen);
  const proto::Plan plan = order().plan();
  say(kD1, plan, "a");
  up(kD2, 2);
  manager_->worker_down(kD1);
  EXPECT_EQ(orders(), 1u);  // it waits
  up(kD1, 1);
  EXPECT_EQ(orders(), 2u);
}

TEST_F(ManagerTest, LastTokenThenDeathIsAnAnswer) {
  up(kD1);
  Seen seen;
  Generation wanted = generation();
  wanted.max_tokens = 2;
  submit(wanted, seen);
  const proto::Plan plan = order().plan();
  token(kD1, plan, 0, 34);
  token(kD1, plan, 1, 35);
  manager_->worker_down(kD1);
  ASSERT_EQ(seen.dones, 1);
  EXPECT_EQ(seen.reason, "length");
  EXPECT_EQ(seen.text, "AB");
  EXPECT_EQ(seen.outcome->usage.sent_bytes, 1234u);  // from the first token
}

TEST_F(ManagerTest, PrefillWorkerDies) {
  up(kD1);
  up(kP1);
  up(kP2);
  Seen seen;
  submit(generation(), seen);
  const proto::Plan first = order().plan();
  manager_->worker_down(kP1);
  EXPECT_TRUE(cancelled(first.transfer_id()).contains(kD1));
  EXPECT_TRUE(order().remote_prefill());  // on the other one
  EXPECT_EQ(sent_.back().first, kP2);
  manager_->worker_down(kP2);
  timers_.advance(kSecond);
  const proto::StartDecode local = order();
  EXPECT_FALSE(local.remote_prefill());
  say(kD1, local.plan(), "a");
  finished(kD1, local.plan(), "stop");
  EXPECT_EQ(seen.text, "a");
  EXPECT_EQ(seen.outcome->usage.attempts, 3u);
}

TEST_F(ManagerTest, APrefillWorkerThatIsDoneMayDie) {
  up(kD1);
  up(kP1);
  Seen seen;
  submit(generation(), seen);
  const proto::Plan plan = order().plan();
  say(kD1, plan, "a");
  manager_->worker_down(kP1);
  failed(kP1, plan, Code::kInternal);
  EXPECT_EQ(orders(), 1u);
  finished(kD1, plan, "stop");
  EXPECT_EQ(seen.dones, 1);
}

TEST_F(ManagerTest, FailureOfPrefillIsTriedElsewhereAndThenOnTheDecodeWorker) {
  up(kD1);
  up(kP1);
  Seen seen;
  submit(generation(), seen);
  failed(kP1, order().plan(), Code::kDataLoss);
  EXPECT_FALSE(order().remote_prefill());
}

TEST_F(ManagerTest, FailuresOfTheSameKindAreBounded) {
  up(kD1);
  Seen seen;
  submit(generation(), seen);
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(seen.dones, 0) << i;
    failed(kD1, order().plan(), Code::kInternal);
    timers_.advance(2 * kSecond);
  }
  ASSERT_EQ(seen.dones, 1);
  EXPECT_EQ(seen.outcome->status.code(), Code::kInternal);
  EXPECT_EQ(orders(), 5u);
}

TEST_F(ManagerTest, AFullWorkerIsTriedAgainAndAWrongRequestIsNot) {
  up(kD1);
  Seen full, wrong;
  submit(generation(), full);
  for (int i = 0; i < 12; ++i) {
    failed(kD1, order().plan(), Code::kResourceExhausted);
    timers_.advance(2 * kSecond);
  }
  EXPECT_EQ(orders(), 13u);
  say(kD1, order().plan(), "a");
  finished(kD1, order().plan(), "stop");
  EXPECT_EQ(full.text, "a");
  submit(generation(), wrong);
  failed(kD1, order().plan(), Code::kInvalidArgument);
  ASSERT_EQ(wrong.dones, 1);
  EXPECT_EQ(wrong.outcome->status.code(), Code::kInvalidArgument);
}

TEST_F(ManagerTest, AGapOrAnImpossibleTokenEndsTheAttempt) {
  up(kD1);
  Seen seen;
  submit(generation(), seen);
  token(kD1, order().plan(), 1, 34);
  EXPECT_EQ(orders(), 2u);
  token(kD1, order().plan(), 0, -5);
  timers_.advance(kSecond);
  EXPECT_EQ(orders(), 3u);
  EXPECT_EQ(seen.text, "");
}

TEST_F(ManagerTest, StopStringsAcrossTokens) {
  up(kD1);
  Seen seen;
  Generation wanted = generation();
  wanted.stop = {"ed b"};
  wanted.max_tokens = 100;
  submit(wanted, seen);
  const proto::Plan plan = order().plan();
  say(kD1, plan, " a red ball");
  EXPECT_EQ(seen.text, " a r");
  ASSERT_EQ(seen.dones, 1);
  EXPECT_EQ(seen.reason, "stop");
  EXPECT_EQ(seen.outcome->usage.sent_bytes, 1234u);
  EXPECT_TRUE(cancelled(plan.transfer_id()).contains(kD1));
}

TEST_F(ManagerTest, WhatTheStopBufferHeldComesAtTheEnd) {
  up(kD1);
  Seen seen;
  Generation wanted = generation();
  wanted.stop = {"ball!"};
  wanted.max_tokens = 100;
  submit(wanted, seen);
  const proto::Plan plan = order().plan();
  say(kD1, plan, " a red ball");
  EXPECT_EQ(seen.text, " a red ");
  finished(kD1, plan, "length");
  EXPECT_EQ(seen.text, " a red ball");
  EXPECT_EQ(seen.reason, "length");
}

TEST_F(ManagerTest, CancelReachesBothWorkersInEveryState) {
  RequestLimits limits;
  limits.admission.running = 1;
  make(limits);
  Seen running, queued;
  const auto first = submit(generation(), running);  // waits for a worker
  const auto second = submit(generation(), queued);
  manager_->cancel(second, "gone", "client_gone");
  manager_->cancel(first, "gone", "client_gone");
  EXPECT_TRUE(sent_.empty());
  up(kD1);
  up(kP1);
  EXPECT_TRUE(sent_.empty());
  const auto third = submit(generation(), running);  // receiving
  const std::uint64_t transfer = order().plan().transfer_id();
  manager_->cancel(third, "gone", "client_gone");
  EXPECT_EQ(cancelled(transfer), (std::set<WorkerId>{kD1, kP1}));
  const auto fourth = submit(generation(), running);  // running
  const proto::Plan plan = order().plan();
  say(kD1, plan, "a");
  manager_->cancel(fourth, "gone", "client_gone");
  EXPECT_TRUE(cancelled(plan.transfer_id()).contains(kD1));
  say(kD1, plan, "b", 1);
  EXPECT_EQ(running.text, "a");
  EXPECT_EQ(running.dones + queued.dones, 0);
  EXPECT_EQ(manager_->active(), 0u);
}

TEST_F(ManagerTest, QueuesBeyondTheRunningLimitThenRefuses) {
  RequestLimits limits;
  limits.admission = {.running = 1, .queued = 1};
  make(limits);
  up(kD1);
  Seen first, second;
  submit(generation(), first);
  submit(generation(), second);
  EXPECT_EQ(manager_->submit(generation(), {}).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(orders(), 1u);
  finished(kD1, order().plan(), "stop");
  EXPECT_EQ(first.dones, 1);
  EXPECT_EQ(orders(), 2u);
  finished(kD1, order().plan(), "stop");
  EXPECT_EQ(second.dones, 1);
}

TEST_F(ManagerTest, TheDeadlineEndsEveryState) {
  RequestLimits limits;
  limits.admission.running = 1;
  make(limits);
  Seen waiting, queued;
  submit(generation(), waiting);
  submit(generation(), queued);
  timers_.advance(120 * kSecond);
  for (const Seen* seen : {&waiting, &queued}) {
    ASSERT_EQ(seen->dones, 1);
    EXPECT_EQ(seen->outcome->status.code(), Code::kDeadlineExceeded);
  }
  up(kD1);
  Seen running;
  submit(generation(), running);
  const proto::Plan plan = order().plan();
  say(kD1, plan, "a");
  timers_.advance(120 * kSecond);
  ASSERT_EQ(running.dones, 1);
  EXPECT_EQ(running.outcome->status.code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(cancelled(plan.transfer_id()).contains(kD1));
  EXPECT_EQ(manager_->active(), 0u);
}

TEST_F(ManagerTest, MessagesAboutNothingAreIgnored) {
  up(kD1);
  proto::Plan unknown;
  unknown.set_request_id(777);
  token(kD1, unknown, 0, 5);
  finished(kD1, unknown, "stop");
  failed(kD1, unknown, Code::kInternal);
  Seen seen;
  submit(generation(), seen);
  finished(kD1, order().plan(), "whim");  // no reason that exists
  EXPECT_EQ(orders(), 2u);
  EXPECT_EQ(seen.dones, 0);
}

}  // namespace
}  // namespace kvferry::gateway
