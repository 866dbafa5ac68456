#include "manager_harness.h"

namespace kvferry::gateway {
namespace {

class UsageTest : public ManagerTest {
 protected:
  // What workers say from now on: a prompt of that many values in so many bits each.
  void usage(std::uint64_t values, double bits_per_value, double prefill_ms) {
    usage_.set_values(values);
    usage_.set_raw_bytes(values * 2);
    usage_.set_sent_bytes(
        static_cast<std::uint64_t>(static_cast<double>(values) * bits_per_value / 8));
    usage_.set_bits_per_value(bits_per_value);
    usage_.set_prefill_ms(prefill_ms);
  }
  bool has(const std::string& sample) const {
    return registry_.serialize().find("\n" + sample + "\n") != std::string::npos;
  }
  double kv_bytes(const char* kind) {
    return registry_
        .counter("kvferry_gateway_kv_bytes_total",
                 "KV of the prompts of finished requests: raw in bf16, sent with all headers.",
                 {{"codec", "raw"}, {"kind", kind}})
        .value();
  }
};

TEST_F(UsageTest, AttemptsThatGaveTokensAddUp) {
  up(kD1);
  Seen seen;
  submit(generation(), seen);
  usage(1000, 8, 3);
  token(kD1, order().plan(), 0, 34);
  failed(kD1, order().plan(), Code::kUnavailable);
  // The second attempt ends before a token and so says nothing.
  failed(kD1, order().plan(), Code::kUnavailable);
  timers_.advance(kSecond);
  usage(3000, 4, 7);
  token(kD1, order().plan(), 0, 35);
  finished(kD1, order().plan(), "stop");
  ASSERT_EQ(seen.dones, 1);
  const GenerationUsage& all = seen.outcome->usage;
  EXPECT_EQ(all.attempts, 3u);
  EXPECT_EQ(all.values, 4000u);
  EXPECT_EQ(all.raw_bytes, 8000u);
  EXPECT_EQ(all.sent_bytes, 2500u);
  EXPECT_DOUBLE_EQ(all.bits_per_value, 5);
  EXPECT_DOUBLE_EQ(all.prefill_ms, 7);
  EXPECT_DOUBLE_EQ(kv_bytes("raw"), 8000);
  EXPECT_DOUBLE_EQ(kv_bytes("sent"), 2500);
}

TEST_F(UsageTest, WhatAnAttemptSaysTwiceCountsOnce) {
  up(kD1);
  Seen seen;
  submit(generation(), seen);
  usage(1000, 8, 3);
  say(kD1, order().plan(), " a red ball");
  finished(kD1, order().plan(), "stop");
  ASSERT_EQ(seen.dones, 1);
  EXPECT_EQ(seen.outcome->usage.values, 1000u);
  EXPECT_EQ(seen.outcome->usage.sent_bytes, 1000u);
  EXPECT_DOUBLE_EQ(seen.outcome->usage.bits_per_value, 8);
}

TEST_F(UsageTest, StagesAreObservedOnceForARequestThatHadThem) {
  up(kD1);
  Seen local, remote, failing;
  usage(1000, 8, 3);
  usage_.set_queue_ms(5);
  submit(generation(), local);
  timers_.advance(20 * kMillisecond);
  token(kD1, order().plan(), 0, 34);
  finished(kD1, order().plan(), "stop");
  ASSERT_EQ(local.dones, 1);
  const auto count = [](const std::string& stage, int value) {
    return "kvferry_gateway_stage_seconds_count{stage=\"" + stage + "\"} " + std::to_string(value);
  };
  const auto sum = [](const std::string& stage, const std::string& value) {
    return "kvferry_gateway_stage_seconds_sum{stage=\"" + stage + "\"} " + value;
  };
  for (const char* stage : {"queue", "prefill", "encode"}) EXPECT_TRUE(has(count(stage, 1)));
  for (const char* stage : {"transfer", "first_decode"}) EXPECT_TRUE(has(count(stage, 0)));
  EXPECT_TRUE(has(sum("queue", "0.005")));
  EXPECT_TRUE(has(sum("prefill", "0.003")));

  usage_.set_remote_prefill(true);
  usage_.set_transfer_ms(250);
  usage_.set_first_decode_ms(500);
  submit(generation(), remote);
  token(kD1, order().plan(), 0, 34);
  finished(kD1, order().plan(), "stop");
  submit(generation(), failing);
  token(kD1, order().plan(), 0, 34);
  failed(kD1, order().plan(), Code::kInvalidArgument);
  ASSERT_EQ(failing.dones, 1);
  for (const char* stage : {"queue", "prefill", "encode"}) EXPECT_TRUE(has(count(stage, 2)));
  for (const char* stage : {"transfer", "first_decode"}) EXPECT_TRUE(has(count(stage, 1)));
  EXPECT_TRUE(has(sum("transfer", "0.25")));
  EXPECT_TRUE(has(sum("first_decode", "0.5")));
}

TEST_F(UsageTest, TheEndOfAnEmptyAnswerIsItsFirstToken) {
  up(kD1);
  Seen seen;
  submit(generation(), seen);
  timers_.advance(30 * kMillisecond);
  finished(kD1, order().plan(), "stop");
  ASSERT_EQ(seen.dones, 1);
  EXPECT_EQ(seen.outcome->usage.completion_tokens, 0u);
  EXPECT_DOUBLE_EQ(seen.outcome->usage.ttft_ms, 30);
  EXPECT_TRUE(has("kvferry_gateway_ttft_seconds_count 1"));
}

}  // namespace
}  // namespace kvferry::gateway
