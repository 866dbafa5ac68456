// Requests of several choices: one attempt for all, ends one by one, and one attempt for each once
// an attempt that had begun has failed.
#include <map>

#include "manager_harness.h"

namespace kvferry::gateway {
namespace {

class ChoicesTest : public ManagerTest {
 protected:
  Generation several(std::uint32_t choices) {
    Generation wanted = generation();
    wanted.choices = choices;
    wanted.max_tokens = 100;
    return wanted;
  }
  // The last StartDecode for each first choice.
  std::map<std::uint32_t, std::pair<WorkerId, proto::Plan>> plans() const {
    std::map<std::uint32_t, std::pair<WorkerId, proto::Plan>> last;
    for (const auto& [id, message] : sent_) {
      if (!message.has_start_decode()) continue;
      const proto::Plan& plan = message.start_decode().plan();
      last[plan.first_choice()] = {id, plan};
    }
    return last;
  }
};

TEST_F(ChoicesTest, OneAttemptForAllOfThem) {
  up(kD1);
  up(kP1);
  Seen seen;
  submit(several(3), seen);
  EXPECT_EQ(orders(), 1u);
  const proto::Plan plan = order().plan();
  EXPECT_EQ(plan.first_choice(), 0u);
  EXPECT_EQ(plan.choices(), 3u);
  const std::uint32_t first = say(kD1, plan, " a red", 0, 0);
  const std::uint32_t second = say(kD1, plan, " a blue", 0, 1);
  finished(kD1, plan, "length", 1);
  finished(kD1, plan, "length", 1);  // twice
  EXPECT_EQ(seen.others[0].text, " a blue");
  EXPECT_EQ(seen.others[0].reason, "length");
  EXPECT_EQ(seen.dones, 0);
  token(kD1, plan, second, 34, 1);  // of a choice that has ended
  token(kD1, plan, 0, 34, 7);       // of one that is not there
  say(kD1, plan, " ball", first, 0);
  finished(kD1, plan, "stop", 2);
  EXPECT_EQ(seen.others[1].text, "");
  finished(kD1, plan, "stop", 0);
  ASSERT_EQ(seen.dones, 1);
  EXPECT_EQ(seen.text, " a red ball");
  EXPECT_EQ(seen.outcome->usage.completion_tokens, seen.ids.size() + seen.others[0].ids.size());
  EXPECT_EQ(seen.outcome->usage.prompt_tokens, generation().prompt.size());
  EXPECT_EQ(seen.outcome->usage.sent_bytes, 1234u);  // one transfer
  EXPECT_EQ(seen.outcome->usage.attempts, 1u);
  EXPECT_EQ(manager_->active(), 0u);
}

TEST_F(ChoicesTest, AStopStringEndsItsChoiceAlone) {
  up(kD1);
  Seen seen;
  Generation wanted = several(2);
  wanted.stop = {"ed"};
  submit(wanted, seen);
  const proto::Plan plan = order().plan();
  say(kD1, plan, " a red ball", 0, 1);
  EXPECT_EQ(seen.others[0].text, " a r");
  EXPECT_EQ(seen.others[0].reason, "stop");
  ASSERT_TRUE(sent_.back().second.has_cancel());
  EXPECT_TRUE(sent_.back().second.cancel().has_choice());
  EXPECT_EQ(sent_.back().second.cancel().choice(), 1u);
  EXPECT_EQ(seen.dones, 0);
  say(kD1, plan, " a red ball", 0, 0);
  EXPECT_FALSE(sent_.back().second.cancel().has_choice()) << "the last one ends the attempt";
  EXPECT_EQ(seen.text, " a r");
  EXPECT_EQ(seen.dones, 1);
}

TEST_F(ChoicesTest, WhatHadBegunGoesOnByItself) {
  up(kD1);
  up(kP1);
  Seen seen;
  const Generation wanted = several(4);
  submit(wanted, seen);
  const proto::Plan first = order().plan();
  const std::uint32_t said = say(kD1, first, " a red", 0, 0);
  say(kD1, first, " a", 0, 1);
  say(kD1, first, "x", 0, 3);
  finished(kD1, first, "stop", 3);
  manager_->worker_down(kD1);
  EXPECT_EQ(orders(), 1u);  // nobody is there
  up(kD2);
  const auto resumed = plans();
  ASSERT_EQ(orders(), 4u);
  ASSERT_EQ(resumed.size(), 3u);
  std::set<std::uint64_t> transfers{first.transfer_id()};
  for (std::uint32_t choice = 0; choice < 3; ++choice) {
    const proto::Plan& plan = resumed.at(choice).second;
    EXPECT_EQ(resumed.at(choice).first, kD2);
    EXPECT_EQ(plan.choices(), 1u);
    EXPECT_EQ(plan.prompt_tokens(), wanted.prompt.size());
    EXPECT_TRUE(transfers.insert(plan.transfer_id()).second);
  }
  const proto::Plan& of_first = resumed.at(0).second;
  EXPECT_EQ(static_cast<std::uint32_t>(of_first.ids_size()), wanted.prompt.size() + said);
  EXPECT_EQ(of_first.max_tokens(), 100 - said);
  EXPECT_EQ(static_cast<std::size_t>(resumed.at(2).second.ids_size()), wanted.prompt.size());
  token(kD2, of_first, 0, 34, 1);  // another's choice
  say(kD2, of_first, " ball", 0, 0);
  finished(kD2, of_first, "stop", 0);
  say(kD2, resumed.at(1).second, " dog", 0, 1);
  finished(kD2, resumed.at(1).second, "stop", 1);
  EXPECT_EQ(seen.dones, 0);
  say(kD2, resumed.at(2).second, "y", 0, 2);
  finished(kD2, resumed.at(2).second, "length", 2);
  ASSERT_EQ(seen.dones, 1);
  EXPECT_EQ(seen.text, " a red ball");
  EXPECT_EQ(seen.others[0].text, " a dog");
  EXPECT_EQ(seen.others[1].text, "y");
  EXPECT_EQ(seen.others[2].text, "x");
  EXPECT_EQ(seen.outcome->usage.attempts, 4u);
}

TEST_F(ChoicesTest, WithoutATokenTheyGoOnTogether) {
  up(kD1);
  Seen seen;
  submit(several(3), seen);
  failed(kD1, order().plan(), Code::kUnavailable);
  EXPECT_EQ(orders(), 2u);
  EXPECT_EQ(order().plan().choices(), 3u);
}

TEST_F(ChoicesTest, OneThatFailsForGoodEndsTheRequest) {
  up(kD1);
  Seen seen;
  submit(several(2), seen);
  const proto::Plan first = order().plan();
  say(kD1, first, "a", 0, 0);
  failed(kD1, first, Code::kUnavailable);
  const auto resumed = plans();
  ASSERT_EQ(orders(), 3u);
  failed(kD1, resumed.at(1).second, Code::kInvalidArgument);
  ASSERT_EQ(seen.dones, 1);
  EXPECT_EQ(seen.outcome->status.code(), Code::kInvalidArgument);
  EXPECT_TRUE(cancelled(resumed.at(0).second.transfer_id()).contains(kD1));
  EXPECT_EQ(manager_->active(), 0u);
}

TEST_F(ChoicesTest, CancelAndDeadlineReachEveryBranch) {
  for (const bool late : {false, true}) {
    sent_.clear();
    up(kD1);
    Seen seen;
    const auto id = submit(several(3), seen);
    const proto::Plan first = order().plan();
    for (std::uint32_t choice = 0; choice < 3; ++choice) token(kD1, first, 0, 34, choice);
    failed(kD1, first, Code::kUnavailable);
    const auto resumed = plans();
    ASSERT_EQ(resumed.size(), 3u);
    if (late) {
      timers_.advance(120 * kSecond);
      EXPECT_EQ(seen.dones, 1);
    } else {
      manager_->cancel(id, "gone", "client_gone");
      EXPECT_EQ(seen.dones, 0);
    }
    for (const auto& [choice, sent] : resumed) {
      EXPECT_TRUE(cancelled(sent.second.transfer_id()).contains(kD1)) << choice;
    }
    EXPECT_EQ(manager_->active(), 0u);
  }
}

TEST_F(ChoicesTest, StopStringsWaitForMinTokensAndMayBeKept) {
  up(kD1);
  Seen seen;
  Generation wanted = several(1);
  wanted.stop = {"A"};
  wanted.min_tokens = 2;
  wanted.include_stop = true;
  submit(wanted, seen);
  const proto::Plan plan = order().plan();
  EXPECT_EQ(plan.sampling().min_tokens(), 2u);
  const std::int32_t a = mini_tokenizer()->encode("A", false)->front();
  for (std::uint32_t i = 0; i < 3; ++i) token(kD1, plan, i, a);
  EXPECT_EQ(seen.text, "AAA");
  EXPECT_EQ(seen.reason, "stop");
}

TEST_F(ChoicesTest, LogprobsComeWithTheTextOfTheirTokens) {
  up(kD1);
  Seen seen;
  Generation wanted = several(1);
  wanted.stop = {"B!"};
  wanted.logprobs = 2;
  submit(wanted, seen);
  const proto::Plan plan = order().plan();
  EXPECT_TRUE(plan.has_logprobs());
  const std::vector<std::int32_t> ids = *mini_tokenizer()->encode("AB", false);
  ASSERT_EQ(ids.size(), 2u);
  say(kD1, plan, "AB");
  EXPECT_EQ(seen.tokens.size(), 1u) << "the stop buffer holds the other back";
  finished(kD1, plan, "length");
  ASSERT_EQ(seen.tokens.size(), ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(seen.tokens[i].id, ids[i]);
    EXPECT_EQ(seen.tokens[i].logprob, -0.25f * static_cast<float>(ids[i]));
    ASSERT_EQ(seen.tokens[i].top.size(), 2u);
    EXPECT_EQ(seen.tokens[i].top[1].first, 41);
  }
}

class PromptLogprobsTest : public ChoicesTest {
 protected:
  void tell(const proto::Plan& plan, std::uint32_t position, std::uint32_t count) {
    proto::Envelope message;
    proto::PromptLogprobs& prompt = *message.mutable_prompt_logprobs();
    prompt.set_request_id(plan.request_id());
    prompt.set_transfer_id(plan.transfer_id());
    prompt.set_attempt(plan.attempt());
    prompt.set_position(position);
    for (std::uint32_t i = 0; i < count; ++i) {
      prompt.add_entries()->set_logprob(-static_cast<float>(position + i));
    }
    manager_->worker_message(kD1, message);
  }
  Generation scored() {
    Generation wanted = several(1);
    wanted.logprobs = 0;
    wanted.prompt_logprobs = true;
    return wanted;
  }
};

TEST_F(PromptLogprobsTest, ComeBeforeTheFirstPieceFromTheDecodeWorker) {
  up(kD1);
  up(kP1);
  Seen seen;
  const Generation wanted = scored();
  const auto length = static_cast<std::uint32_t>(wanted.prompt.size());
  submit(wanted, seen);
  EXPECT_FALSE(order().remote_prefill());
  const proto::Plan plan = order().plan();
  EXPECT_TRUE(plan.prompt_logprobs());
  tell(plan, 1, 3);
  tell(plan, 4, length - 4);
  token(kD1, plan, 0, 34);
  ASSERT_EQ(seen.prompt.size(), length);
  EXPECT_FALSE(seen.prompt[0].logprob.has_value());
  for (std::uint32_t i = 1; i < length; ++i) {
    EXPECT_EQ(seen.prompt[i].id, wanted.prompt[i]);
    EXPECT_EQ(seen.prompt[i].logprob, -static_cast<float>(i));
  }
  // What goes on after a failure has them already.
  failed(kD1, plan, Code::kUnavailable);
  EXPECT_FALSE(order().plan().prompt_logprobs());
  EXPECT_TRUE(order().remote_prefill());
}

TEST_F(PromptLogprobsTest, GapsExcessAndAbsenceEndTheAttempt) {
  up(kD1);
  Seen seen;
  const Generation wanted = scored();
  const auto length = static_cast<std::uint32_t>(wanted.prompt.size());
  submit(wanted, seen);
  tell(order().plan(), 2, 1);
  EXPECT_EQ(orders(), 2u);
  tell(order().plan(), 1, length);
  timers_.advance(kSecond);
  EXPECT_EQ(orders(), 3u);
  tell(order().plan(), 1, 2);
  token(kD1, order().plan(), 0, 34);
  timers_.advance(kSecond);
  EXPECT_EQ(orders(), 4u);
  tell(order().plan(), 1, length - 1);
  finished(kD1, order().plan(), "length");
  EXPECT_EQ(seen.prompt.size(), length);
  EXPECT_EQ(seen.reason, "length");
}

}  // namespace
}  // namespace kvferry::gateway
