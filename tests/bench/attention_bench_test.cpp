// The benchmark's bookkeeping; its speed is nobody's business here.
#include "bench/attention_bench.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>

#include "codec/artifacts.h"

namespace kvferry::bench {
namespace {

AttentionBenchOptions small() {
  AttentionBenchOptions options;
  options.tokens = 256;
  options.kv_heads = 2;
  options.head_dim = 64;
  options.runs = 1;
  options.least_working_set = 1 << 20;
  return options;
}

TEST(AttentionBench, CountsAndAddsUp) {
  const auto report = run_attention_bench(small());
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  // Of each head: three tiles of 8 * 64 * (2 + 2 + 1) bytes behind one of 8 * 64 * 17, and of each
  // tile a header of 64 bytes for two heads.
  const double layer = 2 * (3 * 2560 + 8704) + 4 * 64;
  EXPECT_DOUBLE_EQ(report->bytes_per_token_kv_head, layer / 256 / 2);
  EXPECT_GE(report->working_set_bytes, 1u << 20);
  EXPECT_LT(report->working_set_bytes, (1u << 20) + layer);
  EXPECT_EQ(report->tokens_attended, 257.0);
  const double operations = 2.0 * 2 * 4 * 64;
  const double dots = report->dot_ceiling_gops.median,
               floats = report->bf16_dot_ceiling_gops.median;
  const double read = report->read_ceiling_gbyte_s.median;
  EXPECT_DOUBLE_EQ(report->roofline_ns,
                   std::max(layer / 257 / 2 / read, operations * (256 / dots + 1 / floats) / 257));
  EXPECT_DOUBLE_EQ(report->over_roofline,
                   report->ns_per_token_kv_head.median / report->roofline_ns);
  EXPECT_DOUBLE_EQ(report->bf16_over_roofline,
                   report->bf16_ns_per_token_kv_head.median / report->bf16_roofline_ns);
  EXPECT_GE(report->bf16_roofline_ns, 0.999 * operations / floats);
  EXPECT_GE(report->bf16_roofline_ns, 4.0 * 64 * 256 / 257 / read);
  EXPECT_GT(report->rms_error, 0.0);
  EXPECT_LE(report->max_error, report->error_bound);
  EXPECT_EQ(to_json(*report).at("codec").as_string(), "hack(k=2,v=2)");
  EXPECT_NE(to_text(*report).find("hack(k=2,v=2)"), std::string::npos);
}

TEST(AttentionBench, SeveralQueriesReadTheBytesOnce) {
  AttentionBenchOptions options = small();
  options.queries = 3;
  options.threads = 2;
  const auto report = run_attention_bench(options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->tokens_attended, 258.0);
  EXPECT_DOUBLE_EQ(report->read_gbyte_s, report->bytes_per_token_kv_head * 256 / (3 * 258) /
                                             report->ns_per_token_kv_head.median);
}

// Tiles that queries close are attended to by those behind them: a query reads what another left.
TEST(AttentionBench, QueriesMayFillTiles) {
  AttentionBenchOptions options = small();
  options.tokens = 128;
  options.queries = 150;
  const auto report = run_attention_bench(options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->tokens_attended, 128 + 151 / 2.0);
  // Two tiles more, like those behind the first, of 2560 bytes a head.
  const double bytes = 2 * (3 * 2560 + 8704) + 4 * 64;
  EXPECT_DOUBLE_EQ(report->read_gbyte_s, bytes / 2 / (150 * report->tokens_attended) /
                                             report->ns_per_token_kv_head.median);
}

// Every way through attention is held to the oracle before it is timed.
TEST(AttentionBench, ChecksWhatItTimes) {
  AttentionBenchOptions options = small();
  options.tokens = 2176;  // three cells, whose states are merged, by two threads
  options.threads = 2;
  for (const char* codec :
       {"hadamard | hack(k=4,v=2)", "dequantize | kvarn(k=2,v=2)", "hack(k=2,v=2,layout=paper)"}) {
    options.codec = codec;
    for (const std::uint32_t queries : {1u, 64u}) {
      options.queries = queries;
      const auto report = run_attention_bench(options);
      ASSERT_TRUE(report.ok()) << codec << ": " << report.status().to_string();
      EXPECT_GT(report->rms_error, 0.0) << codec;
      EXPECT_LE(report->max_error, report->error_bound) << codec;
    }
  }
}

TEST(AttentionBench, DoubtsTimesBelowTheirCeilings) {
  AttentionBenchReport report;
  report.codec = "hack";
  report.over_roofline = report.bf16_over_roofline = 1.2;
  EXPECT_EQ(doubts(report), "");
  report.over_roofline = 0.9;
  EXPECT_NE(doubts(report).find("hack came out at 0.90"), std::string::npos);
}

TEST(Spread, MedianOfAnEvenNumberIsTheMeanOfTheMiddle) {
  EXPECT_EQ(spread_of({4.0, 1.0, 2.0, 9.0}).median, 3.0);
  EXPECT_EQ(spread_of({4.0, 1.0, 9.0}).median, 4.0);
  EXPECT_EQ(median_ratio({2.0, 9.0, 4.0}, {1.0, 3.0, 4.0}), 2.0);
}

TEST(AttentionBench, MeasuresTheCostOfAKBias) {
  AttentionBenchOptions options = small();
  options.k_bias = true;
  options.queries = 70;  // of two tiles
  const auto report = run_attention_bench(options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  // Pairs i of 32 with 2 pi 10^(6 i / 32) < 512.
  EXPECT_EQ(report->k_bias_pairs, 11u);
  EXPECT_DOUBLE_EQ(report->k_bias_cost, report->k_bias_ns_per_token_kv_head.median /
                                            report->ns_per_token_kv_head.median);
  options.codec = "raw";
  EXPECT_EQ(run_attention_bench(options).status().code(), Code::kInvalidArgument);
}

// A layer of each storage that the profile names, and then its default's.
TEST(AttentionBench, ReadsEveryLayerOfAProfile) {
  const auto bytes_of = [](const std::string& content) -> Result<AttentionBenchReport> {
    AttentionBenchOptions options = small();
    KVF_ASSIGN_OR_RETURN(const std::string digest, codec::add_artifact(content));
    options.codec = "profile(" + digest + ")";
    return run_attention_bench(options);
  };
  const double coarse = 2 * (3 * 2560 + 8704) + 4 * 64, dense = 4 * (64 + 2 * 64 * 64 * 4);
  const auto report = bytes_of("default: hack(k=2,v=2)\n1: raw\n");
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  const double layers = 2 + std::ceil(((1 << 20) - coarse - dense) / coarse);
  EXPECT_DOUBLE_EQ(report->working_set_bytes, dense + (layers - 1) * coarse);
  EXPECT_DOUBLE_EQ(report->bytes_per_token_kv_head,
                   (dense + (layers - 1) * coarse) / layers / 256 / 2);
  const auto exact = bytes_of("0-7: raw\n");  // 8 * 131328 bytes
  ASSERT_TRUE(exact.ok()) << exact.status().to_string();
  EXPECT_DOUBLE_EQ(exact->working_set_bytes, 8 * dense);
  const auto small_one = bytes_of("0-6: raw\n");
  EXPECT_EQ(small_one.status().code(), Code::kInvalidArgument);
  EXPECT_NE(small_one.status().message().find("give more tokens"), std::string::npos);
}

TEST(AttentionBench, RefusesWhatItCannotRun) {
  AttentionBenchOptions options = small();
  options.tokens = 100;
  EXPECT_EQ(run_attention_bench(options).status().code(), Code::kInvalidArgument);
  options = small();
  options.codec = "nonsense";
  EXPECT_FALSE(run_attention_bench(options).ok());
  options = small();
  options.head_dim = 80;  // not of hack
  EXPECT_FALSE(run_attention_bench(options).ok());
}

}  // namespace
}  // namespace kvferry::bench
