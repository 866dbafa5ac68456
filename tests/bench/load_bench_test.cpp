// What `bench load` writes and measures; its speed is nobody's business here.
#include "bench/load_bench.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "bench/random_checkpoint.h"
#include "tests/model/model_fixture.h"

namespace kvferry::bench {
namespace {

namespace fs = std::filesystem;

// The file holds what the generator makes: the weights' hash and the shape are the same.
TEST(LoadBench, AWrittenRandomModelIsTheRandomModel) {
  const fs::path directory = fs::path(testing::TempDir()) / "kvferry_random_checkpoint";
  fs::create_directories(directory);
  ComputePool pool(2);
  const Status written = write_random_checkpoint("tiny", directory, pool);
  ASSERT_TRUE(written.ok()) << written.to_string();
  const model::LoadedModel read(directory.string(), model::Compute::kF32, 2);
  const model::LoadedModel made("random:tiny", model::Compute::kF32, 2);
  EXPECT_EQ(read->fingerprint(), made->fingerprint());
  fs::remove_all(directory);
  EXPECT_EQ(write_random_checkpoint("huge", directory, pool).code(), Code::kNotFound);
}

TEST(LoadBench, CountsAndCleansUp) {
  const fs::path here = fs::path(testing::TempDir()) / "kvferry_load_bench";
  fs::create_directories(here);
  setenv("TMPDIR", here.c_str(), 1);
  LoadBenchOptions options;
  options.model = "random:tiny";
  options.compute = model::Compute::kF32;
  std::vector<double> fractions;
  options.progress = [&](double fraction) { fractions.push_back(fraction); };
  const auto report = run_load_bench(options);
  unsetenv("TMPDIR");
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_TRUE(fs::is_empty(here));
  // 2 layers of hidden 128, 256 q and 2 * 128 kv columns, inner 384; embedding of 512; 5 norms.
  const std::uint64_t weights = 2 * (128 * 512 + 256 * 128 + 3 * 128 * 384) + 512 * 128 + 5 * 128;
  EXPECT_GE(report->bytes, 2 * weights);
  EXPECT_LE(report->bytes, 2 * weights + 4096);  // the header
  EXPECT_EQ(report->compute, "f32");
  EXPECT_LE(report->seconds_min, report->seconds);
  EXPECT_LE(report->seconds, report->seconds_max);
  EXPECT_GT(report->disk_gb_per_s, 0.0);
  EXPECT_GT(report->copy_gb_per_s, 0.0);
  // Of each load: two layers, then all.
  ASSERT_EQ(fractions.size(), 3u * 4);
  EXPECT_EQ(fractions[2], 1.0);
  EXPECT_LT(fractions[0], fractions[1]);
  EXPECT_EQ(to_json(*report).at("bytes").to_number<std::uint64_t>(), report->bytes);
  EXPECT_NE(to_text(*report).find("random:tiny"), std::string::npos);
  fs::remove_all(here);
}

TEST(LoadBench, RefusesWhatItCannotRun) {
  LoadBenchOptions options;
  options.model = "/no/such/model";
  EXPECT_EQ(run_load_bench(options).status().code(), Code::kNotFound);
  options.runs = 0;
  EXPECT_EQ(run_load_bench(options).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace kvferry::bench
