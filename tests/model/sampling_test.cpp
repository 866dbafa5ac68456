#include "model/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <vector>

#include "base/hash.h"

namespace kvferry::model {
namespace {

std::vector<float> random_logits(std::size_t count, std::uint64_t key) {
  std::vector<float> logits(count);
  for (std::size_t i = 0; i < count; ++i) {
    logits[i] = static_cast<float>(counter_random(key, i) % 2001) * 0.01f - 10.0f;
  }
  return logits;
}

TEST(Sampling, GreedyTiesGoToTheLowestId) {
  const std::vector<float> logits{1, 3, 2, 3, 3};
  EXPECT_EQ(sample(logits, {}, 0), 1);
  SamplingParams one;
  one.temperature = 1.0f;
  one.top_k = 1;
  EXPECT_EQ(sample(logits, one, 7), 1);
  const std::vector<float> zeros{-0.0f, 0.0f};
  EXPECT_EQ(sample(zeros, {}, 0), 0);
}

TEST(Sampling, NanIsNeverChosen) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits{nan, 1, nan, 0.5f};
  EXPECT_EQ(sample(logits, {}, 0), 1);
  SamplingParams params;
  params.temperature = 2.0f;
  for (std::uint32_t position = 0; position < 200; ++position) {
    EXPECT_EQ(sample(logits, params, position) % 2, 1);
  }
}

TEST(Sampling, SameCounterSameDraw) {
  const auto logits = random_logits(1000, 1);
  SamplingParams params;
  params.temperature = 1.5f;
  params.seed = 99;
  std::vector<std::int32_t> drawn, again, other_choice, other_seed;
  for (std::uint32_t position = 0; position < 64; ++position) {
    drawn.push_back(sample(logits, params, position));
  }
  for (std::uint32_t position = 64; position-- > 0;) {  // in another order
    again.insert(again.begin(), sample(logits, params, position));
  }
  EXPECT_EQ(drawn, again);
  params.choice = 1;
  for (std::uint32_t p = 0; p < 64; ++p) other_choice.push_back(sample(logits, params, p));
  params.choice = 0;
  params.seed = 100;
  for (std::uint32_t p = 0; p < 64; ++p) other_seed.push_back(sample(logits, params, p));
  EXPECT_NE(drawn, other_choice);
  EXPECT_NE(drawn, other_seed);
}

TEST(Sampling, TopKCutsTiesByTheLowerId) {
  const std::vector<float> logits{0, 2, 1, 2, 2};  // order: 1, 3, 4, 2, 0
  SamplingParams params;
  params.temperature = 1.0f;
  params.top_k = 2;
  std::map<std::int32_t, int> seen;
  for (std::uint32_t position = 0; position < 500; ++position) {
    ++seen[sample(logits, params, position)];
  }
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_GT(seen[1], 150);
  EXPECT_GT(seen[3], 150);
}

TEST(Sampling, TopPKeepsTheFewestThatReachIt) {
  // Probabilities 0.5, 0.25, 0.125, 0.125 for ids 2, 0, 1, 3.
  const std::vector<float> logits{std::log(2.0f), 0.0f, std::log(4.0f), 0.0f};
  SamplingParams params;
  params.temperature = 1.0f;
  const auto kept = [&](float top_p, std::uint32_t top_k) {
    params.top_p = top_p;
    params.top_k = top_k;
    std::map<std::int32_t, int> seen;
    for (std::uint32_t p = 0; p < 400; ++p) ++seen[sample(logits, params, p)];
    std::vector<std::int32_t> ids;
    for (const auto& [id, count] : seen) ids.push_back(id);
    return ids;
  };
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(kept(0.45f, 0), (Ids{2}));
  EXPECT_EQ(kept(0.55f, 0), (Ids{0, 2}));
  EXPECT_EQ(kept(0.80f, 0), (Ids{0, 1, 2}));  // of the tie the lower id
  EXPECT_EQ(kept(1.0f, 0), (Ids{0, 1, 2, 3}));
  // After top_k = 2 the shares are 2/3 and 1/3: 0.6 needs one only.
  EXPECT_EQ(kept(0.6f, 2), (Ids{2}));
}

// Pearson's statistic over ids with expected counts >= 5, seeds fixed.
TEST(Sampling, DistributionIsSoftmaxAtTheTemperature) {
  const auto logits = random_logits(50, 3);
  SamplingParams params;
  params.temperature = 2.0f;
  constexpr int kDraws = 20000;
  std::vector<int> counts(logits.size());
  for (int i = 0; i < kDraws; ++i) {
    params.seed = static_cast<std::uint64_t>(i) / 100;  // over seeds and positions
    ++counts[sample(logits, params, static_cast<std::uint32_t>(i % 100))];
  }
  double sum = 0, statistic = 0;
  for (float logit : logits) sum += std::exp(logit / 2.0);
  int cells = 0;
  double rest_expected = kDraws, rest_seen = kDraws;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double expected = kDraws * std::exp(logits[i] / 2.0) / sum;
    if (expected < 5) continue;
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    rest_expected -= expected;
    rest_seen -= counts[i];
    ++cells;
  }
  if (rest_expected > 1) {
    statistic += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
  }
  ASSERT_GE(cells, 10);
  // Mean cells, standard deviation sqrt(2 cells): 4 deviations.
  EXPECT_LT(statistic, cells + 4 * std::sqrt(2.0 * cells));
}

TEST(Sampling, LogprobIsTheLogSoftmax) {
  const std::vector<float> logits{1, 2, 3};
  const double sum = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  for (int id = 0; id < 3; ++id) {
    EXPECT_NEAR(logprob(logits, id), logits[id] - std::log(sum), 1e-6);
  }
  const std::vector<float> far{0.0f, 10000.0f};
  EXPECT_EQ(logprob(far, 1), 0.0f);
  EXPECT_EQ(logprob(far, 0), -10000.0f);
}

// The radix sort against std::stable_sort, through what top_k keeps.
TEST(Sampling, OrderOverLargeVocabularies) {
  const auto logits = random_logits(5000, 17);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return logits[a] > logits[b]; });
  SamplingParams params;
  params.temperature = 2.0f;
  params.top_k = 8;
  std::map<std::int32_t, int> seen;
  for (std::uint32_t p = 0; p < 2000; ++p) ++seen[sample(logits, params, p)];
  std::vector<std::int32_t> ids;
  for (const auto& [id, count] : seen) ids.push_back(id);
  std::vector<std::int32_t> want(order.begin(), order.begin() + 8);
  std::sort(want.begin(), want.end());
  EXPECT_EQ(ids, want);
}

}  // namespace
}  // namespace kvferry::model
