// The benchmark's bookkeeping; its speed is nobody's business here.
#include "bench/prefill_bench.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <string>

namespace kvferry::bench {
namespace {

TEST(PrefillBench, CountsAndAddsUp) {
  PrefillBenchOptions options;
  options.model = "random:tiny";
  options.tokens = 100;
  options.compute = model::Compute::kF32;
  options.runs = 1;
  const auto report = run_prefill_bench(options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  // 2 layers of hidden 128, 256 q and 2 * 128 kv columns, inner 384; head of 512.
  const double linear = 2.0 * 100 * (128 * (256 + 256) + 256 * 128 + 3 * 128 * 384);
  const double attention = 4.0 * 100 * 100 / 2 * 256;
  EXPECT_NEAR(report->gflop * 1e9, 2 * (linear + attention) + 2.0 * 128 * 512, 1.0);
  EXPECT_EQ(report->codec, "raw");
  EXPECT_EQ(report->compute, "f32");
  EXPECT_GT(report->gemm_peak_gflops, 0.0);
  EXPECT_NEAR(report->ratio, report->achieved_gflops / report->gemm_peak_gflops, 1e-9);
  EXPECT_GT(report->encode_ms, 0.0);  // one tile closes
  EXPECT_NEAR(report->seconds * 1e3,
              report->gemm_ms + report->attention_ms + report->encode_ms + report->other_ms, 1e-6);
  const auto json = to_json(*report);
  EXPECT_EQ(json.at("tokens").to_number<int>(), 100);
  EXPECT_EQ(json.at("ratio").to_number<double>(), report->ratio);
  EXPECT_NE(to_text(*report).find("random:tiny"), std::string::npos);
}

TEST(PrefillBench, RefusesWhatItCannotRun) {
  PrefillBenchOptions options;
  options.model = "random:tiny";
  options.tokens = 0;
  EXPECT_EQ(run_prefill_bench(options).status().code(), Code::kInvalidArgument);
  options.tokens = 5000;  // tiny's context is 4096
  EXPECT_EQ(run_prefill_bench(options).status().code(), Code::kInvalidArgument);
  options.tokens = 10;
  options.codec = "nonsense";
  EXPECT_FALSE(run_prefill_bench(options).ok());
}

}  // namespace
}  // namespace kvferry::bench
