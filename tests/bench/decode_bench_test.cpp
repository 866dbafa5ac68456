// What `kvferry bench decode` counts; its speed is nobody's business here.
#include "bench/decode_bench.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace kvferry::bench {
namespace {

DecodeBenchOptions small() {
  DecodeBenchOptions options;
  options.model = "random:tiny";
  options.context = 190;  // two tiles are closed, a third one closes in the run
  options.batch = 3;
  options.codec = "hack(k=2,v=2)";
  options.steps = 3;
  options.threads = 2;
  return options;
}

TEST(DecodeBench, CountsAndAddsUp) {
  const auto report = run_decode_bench(small());
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  const auto config = model::load_config("random:tiny");
  ASSERT_TRUE(config.ok());
  // Of each head a tile of 8 bits and one of 2: 8 D (8 + 8 + 1) and 8 D (2 + 2 + 1) bytes.
  const std::uint64_t head = 8 * config->head_dim * (17 + 5);
  EXPECT_EQ(report->kv_bytes, 3 * config->layers * (config->kv_heads * head + 2 * 64));
  EXPECT_GT(report->weight_bytes, 0u);
  EXPECT_GT(report->tokens_per_second, 0.0);
  EXPECT_NEAR(report->attention_share + report->gemm_share + report->other_share, 1.0, 1e-9);
  EXPECT_NEAR(report->tokens_per_second, 3 / report->step_ms.median * 1e3, 1e-6);
  EXPECT_EQ(to_json(*report).at("batch").as_uint64(), 3u);
  EXPECT_NE(to_text(*report).find("hack(k=2,v=2)"), std::string::npos);
}

TEST(DecodeBench, RefusesWhatItCannotRun) {
  DecodeBenchOptions options = small();
  options.context = 1 << 20;
  EXPECT_EQ(run_decode_bench(options).status().code(), Code::kInvalidArgument);
  options = small();
  options.batch = 0;
  EXPECT_EQ(run_decode_bench(options).status().code(), Code::kInvalidArgument);
  options = small();
  options.codec = "nonsense";
  EXPECT_EQ(run_decode_bench(options).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace kvferry::bench
