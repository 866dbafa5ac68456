#include "model/sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "base/hash.h"

namespace kvferry::model {
namespace {

// exp of anything lower is below half a unit in the last place of any sum that holds the maximum's
// 1, even over 2^22 tokens; leaving those out spares sorting most of a vocabulary.
constexpr double kNegligibleNats = 60.0;

struct Candidate {
  std::uint32_t key;  // ascending keys: descending logits
  std::int32_t id;
};

// Order-preserving bits of a float, inverted: a larger logit has a smaller key.
std::uint32_t descending_key(float logit) {
  const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);  // -0 becomes +0: they are a tie
  const std::uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

// Stable, so that equal logits keep the order of their ids. Linear in the number of candidates.
void radix_sort(std::vector<Candidate>& candidates) {
  constexpr int kBits = 11;
  std::vector<Candidate> sorted(candidates.size());
  for (int shift = 0; shift < 32; shift += kBits) {
    std::array<std::size_t, (1 << kBits) + 1> start{};
    const auto bucket = [shift](const Candidate& c) {
      return (c.key >> shift) & ((1u << kBits) - 1);
    };
    for (const auto& c : candidates) ++start[bucket(c) + 1];
    for (std::size_t i = 1; i < start.size(); ++i) start[i] += start[i - 1];
    for (const auto& c : candidates) sorted[start[bucket(c)]++] = c;
    candidates.swap(sorted);
  }
}

// NaN counts as minus infinity; a row of nothing else gives id 0.
std::int32_t argmax(std::span<const float> logits) {
  std::size_t best = 0;
  float highest = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > highest) {
      highest = logits[i];
      best = i;
    }
  }
  return static_cast<std::int32_t>(best);
}

// [0, 1), of 53 bits.
double uniform(const SamplingParams& params, std::uint32_t position) {
  const std::uint64_t key = counter_random(params.seed, params.choice);
  return static_cast<double>(counter_random(key, position) >> 11) * 0x1p-53;
}

}  // namespace

std::int32_t sample(std::span<const float> logits, const SamplingParams& params,
                    std::uint32_t position) {
  const std::int32_t best = argmax(logits);
  if (!(params.temperature > 0.0f) || params.top_k == 1) return best;
  const double highest = logits[best], temperature = params.temperature;
  if (!std::isfinite(highest)) return best;

  // Without min_p its logarithm is minus infinity.
  const double least = std::max(-kNegligibleNats, std::log(static_cast<double>(params.min_p)));
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if ((logits[i] - highest) / temperature >= least) {
      candidates.push_back({descending_key(logits[i]), static_cast<std::int32_t>(i)});
    }
  }
  radix_sort(candidates);
  if (params.top_k != 0 && candidates.size() > params.top_k) candidates.resize(params.top_k);

  // cumulative[i]: the sum of the first i + 1 weights, in this order.
  std::vector<double> cumulative;
  cumulative.reserve(candidates.size());
  double sum = 0.0;
  for (const auto& candidate : candidates) {
    sum += std::exp((logits[candidate.id] - highest) / temperature);
    cumulative.push_back(sum);
  }
  // The fewest candidates whose share reaches top_p.
  const auto cut = std::lower_bound(cumulative.begin(), cumulative.end(),
                                    static_cast<double>(params.top_p) * sum);
  const std::size_t kept = std::min<std::size_t>(cut - cumulative.begin() + 1, cumulative.size());
  const double draw = uniform(params, position) * cumulative[kept - 1];
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.begin() + kept, draw);
  const std::size_t index = std::min<std::size_t>(chosen - cumulative.begin(), kept - 1);
  return candidates[index].id;
}

namespace {

// What is subtracted from a logit to make it a log-probability.
double log_sum_exp(std::span<const float> logits) {
  const double highest = logits[argmax(logits)];
  double sum = 0.0;
  for (const float logit : logits) {
    if (!std::isnan(logit)) sum += std::exp(logit - highest);
  }
  return highest + std::log(sum);
}

}  // namespace

float logprob(std::span<const float> logits, std::int32_t id) {
  return static_cast<float>(logits[id] - log_sum_exp(logits));
}

std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::uint32_t count) {
  if (count == 0) return {};
  std::vector<TokenLogprob> top;  // logits at first, descending; few enough to insert by moving
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i];
    if (std::isnan(logit) || (top.size() == count && logit <= top.back().logprob)) continue;
    if (top.size() == count) top.pop_back();
    const auto at = std::find_if(top.begin(), top.end(),
                                 [&](const TokenLogprob& other) { return other.logprob < logit; });
    top.insert(at, {static_cast<std::int32_t>(i), logit});
  }
  const double total = log_sum_exp(logits);
  for (TokenLogprob& token : top) token.logprob = static_cast<float>(token.logprob - total);
  return top;
}

}  // namespace kvferry::model
