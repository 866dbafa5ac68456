// Penalties, biases and cuts against a reference in double, written from their definitions:
// presence and frequency as OpenAI's API reference has them (mu_j - c_j * frequency - [c_j > 0] *
// presence), repetition as in CTRL (Keskar et al. 2019, 4.1) with the sign rule of transformers and
// vLLM, min_p as Nguyen et al. 2024.
#include "model/choice_sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "base/hash.h"

namespace kvferry::model {
namespace {

constexpr int kVocab = 300;

std::vector<float> random_logits(std::uint64_t key) {
  std::vector<float> logits(kVocab);
  for (int i = 0; i < kVocab; ++i) {
    logits[i] = static_cast<float>(counter_random(key, i) % 20011) * 0.001f - 10.0f;
  }
  return logits;
}
std::vector<std::int32_t> random_ids(std::uint64_t key, std::size_t count) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<std::int32_t>(counter_random(key, i) % kVocab));
  }
  return ids;
}

// Logits as the definitions have them, before the temperature.
std::vector<double> reference_logits(const std::vector<float>& raw, const SamplingParams& p,
                                     const std::vector<std::int32_t>& ids, std::size_t prompt) {
  std::vector<double> logits(raw.begin(), raw.end());
  if (ids.size() - prompt < p.min_tokens) {
    for (const std::int32_t id : p.stop_ids) logits[id] = -INFINITY;
  }
  for (const LogitBias& bias : p.logit_bias) logits[bias.id] += bias.bias;
  const std::set<std::int32_t> present(ids.begin(), ids.end());
  for (const std::int32_t id : present) {
    logits[id] =
        logits[id] > 0 ? logits[id] / p.repetition_penalty : logits[id] * p.repetition_penalty;
  }
  for (std::int32_t id = 0; id < kVocab; ++id) {
    const auto times = std::count(ids.begin() + static_cast<std::ptrdiff_t>(prompt), ids.end(), id);
    logits[id] -= static_cast<double>(times) * p.frequency_penalty;
    if (times > 0) logits[id] -= p.presence_penalty;
  }
  return logits;
}

// The probabilities that the token is drawn with.
std::vector<double> reference_distribution(std::vector<double> logits, const SamplingParams& p) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  const double highest = logits[order[0]];
  std::vector<double> weight(logits.size(), 0.0);
  for (const int id : order) weight[id] = std::exp((logits[id] - highest) / p.temperature);
  for (double& w : weight) w = w < p.min_p ? 0 : w;
  if (p.top_k > 0) {
    for (std::size_t i = p.top_k; i < order.size(); ++i) weight[order[i]] = 0;
  }
  double sum = std::accumulate(weight.begin(), weight.end(), 0.0), kept = 0;
  for (const int id : order) {
    if (kept >= p.top_p * sum) weight[id] = 0;
    kept += weight[id];
  }
  sum = std::accumulate(weight.begin(), weight.end(), 0.0);
  for (double& w : weight) w /= sum;
  return weight;
}

SamplingParams with(void (*change)(SamplingParams&)) {
  SamplingParams params;
  change(params);
  return params;
}

const std::vector<SamplingParams>& kinds() {
  static const std::vector<SamplingParams> list = {
      with([](SamplingParams& p) { p.presence_penalty = 1.5f; }),
      with([](SamplingParams& p) { p.presence_penalty = -2.0f; }),
      with([](SamplingParams& p) { p.frequency_penalty = 0.8f; }),
      with([](SamplingParams& p) { p.frequency_penalty = -0.6f; }),
      with([](SamplingParams& p) { p.repetition_penalty = 1.4f; }),
      with([](SamplingParams& p) { p.repetition_penalty = 0.6f; }),
      with([](SamplingParams& p) {
        p.logit_bias = {{7, 15.0f}, {0, -100.0f}, {299, 12.5f}};
      }),
      with([](SamplingParams& p) {
        p.min_tokens = 50;
        for (std::int32_t id = 0; id < 200; ++id) p.stop_ids.push_back(id);
      }),
      with([](SamplingParams& p) {
        p.presence_penalty = 0.5f;
        p.frequency_penalty = 0.5f;
        p.repetition_penalty = 1.2f;
        p.logit_bias = {{3, 8.0f}, {4, 9.0f}};
        p.min_tokens = 45;
        p.stop_ids = {4, 5, 6};
      })};
  return list;
}

// Greedy, which shows the largest logit, at many places of many sequences.
TEST(ChoiceSampler, AdjustsLogitsByTheDefinitions) {
  int changed = 0;
  for (std::size_t kind = 0; kind < kinds().size(); ++kind) {
    for (std::uint64_t key = 0; key < 40; ++key) {
      const std::vector<std::int32_t> ids = random_ids(key, 40 + 10 * key);
      const std::size_t prompt = 1 + counter_random(key, 999) % 40;
      const std::vector<float> raw = random_logits(1000 + key);
      const std::vector<double> wanted = reference_logits(raw, kinds()[kind], ids, prompt);
      const ChoiceSampler sampler(kinds()[kind], ids, static_cast<std::uint32_t>(prompt));
      std::vector<float> scratch;
      const std::int32_t id = sampler.choose(raw, scratch);
      const double highest = *std::max_element(wanted.begin(), wanted.end());
      EXPECT_NEAR(wanted[id], highest, 1e-5) << "kind " << kind << ", key " << key;
      changed += wanted[sample(raw, {}, 0)] < highest - 1e-5;
    }
  }
  EXPECT_GT(changed, 100) << "the adjustments decide too little for this to be a test";
}

TEST(ChoiceSampler, DrawsFromTheReferenceDistribution) {
  const std::vector<std::int32_t> ids = random_ids(5, 120);
  for (SamplingParams params : kinds()) {
    params.temperature = 1.7f;
    params.min_p = 0.003f;
    params.top_k = 40;
    params.top_p = 0.93f;
    const std::vector<float> raw = random_logits(77);
    const std::vector<double> wanted =
        reference_distribution(reference_logits(raw, params, ids, 60), params);
    constexpr int kDraws = 8000;
    std::vector<int> counts(kVocab);
    std::vector<float> scratch;
    for (int i = 0; i < kDraws; ++i) {
      params.seed = static_cast<std::uint64_t>(i);
      ++counts[ChoiceSampler(params, ids, 60).choose(raw, scratch)];
    }
    double statistic = 0;
    int cells = 0;
    for (int id = 0; id < kVocab; ++id) {
      if (wanted[id] == 0) {
        EXPECT_EQ(counts[id], 0) << id;
        continue;
      }
      const double expected = kDraws * wanted[id];
      if (expected < 5) continue;
      statistic += (counts[id] - expected) * (counts[id] - expected) / expected;
      ++cells;
    }
    ASSERT_GE(cells, 2);
    EXPECT_LT(statistic, cells + 4 * std::sqrt(2.0 * cells));
  }
}

TEST(ChoiceSampler, MinPKeepsWhatIsProbableEnough) {
  // 0.5, 0.25, 0.125, 0.125 at temperature 1.
  const std::vector<float> logits{0.0f, std::log(4.0f), 0.0f, std::log(2.0f)};
  const auto kept = [&](float min_p, float temperature) {
    SamplingParams params;
    params.temperature = temperature;
    params.min_p = min_p;
    std::set<std::int32_t> seen;
    for (std::uint32_t position = 0; position < 400; ++position) {
      seen.insert(sample(logits, params, position));
    }
    return seen;
  };
  using Ids = std::set<std::int32_t>;
  EXPECT_EQ(kept(0.0f, 1.0f), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept(0.2f, 1.0f), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept(0.3f, 1.0f), (Ids{1, 3}));
  EXPECT_EQ(kept(0.6f, 1.0f), (Ids{1}));
  EXPECT_EQ(kept(0.6f, 2.0f), (Ids{1, 3}));  // after the temperature: 1, 0.71, 0.5, 0.5
  EXPECT_EQ(kept(1.0f, 1.0f), (Ids{1}));
}

// What a worker that goes on with prompt and answer must find.
TEST(ChoiceSampler, IsAFunctionOfTheIds) {
  for (SamplingParams params : kinds()) {
    params.temperature = 1.3f;
    params.seed = 3;
    std::vector<std::int32_t> ids = random_ids(9, 30);
    const auto first = ChoiceSampler(params, ids, 30);
    ChoiceSampler going = first.for_choice(2);
    std::vector<float> scratch;
    params.choice = 2;
    for (std::uint64_t i = 0; i < 60; ++i) {
      const std::vector<float> logits = random_logits(i);
      const std::int32_t id = going.choose(logits, scratch);
      ASSERT_EQ(ChoiceSampler(params, ids, 30).choose(logits, scratch), id) << i;
      going.append(id);
      ids.push_back(id);
    }
  }
}

TEST(ChoiceSampler, IdsOutsideTheVocabularyAreNoMatter) {
  SamplingParams params;
  params.logit_bias = {{-1, 5.0f}, {3, 5.0f}};
  params.stop_ids = {-1, 3, 1 << 30};
  params.min_tokens = 2;
  params.repetition_penalty = 2.0f;
  const std::vector<std::int32_t> ids{-5, 3, 70000, 2};
  const std::vector<float> logits{1, 3, 2};
  std::vector<float> scratch;
  EXPECT_EQ(ChoiceSampler(params, ids, 2).choose(logits, scratch), 1);
}

TEST(Logprobs, TheMostProbableInOrder) {
  const std::vector<float> logits{1, 3, NAN, 2, 3, 0.5f};
  const auto top = top_logprobs(logits, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].id, 1);
  EXPECT_EQ(top[1].id, 4);  // of a tie the lower id first
  EXPECT_EQ(top[2].id, 3);
  for (const TokenLogprob& token : top) {
    EXPECT_EQ(token.logprob, logprob(logits, token.id));
    double sum = 0;
    for (const float logit : logits) sum += std::isnan(logit) ? 0 : std::exp(double{logit});
    EXPECT_NEAR(token.logprob, logits[token.id] - std::log(sum), 1e-6);
  }
  EXPECT_EQ(top_logprobs(logits, 100).size(), 5u);
  EXPECT_TRUE(top_logprobs(logits, 0).empty());
  const std::vector<float> many = random_logits(4);
  const auto all = top_logprobs(many, kVocab);
  for (std::size_t i = 1; i < all.size(); ++i) EXPECT_GE(all[i - 1].logprob, all[i].logprob);
}

}  // namespace
}  // namespace kvferry::model
