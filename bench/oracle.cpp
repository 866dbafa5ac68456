#include "bench/oracle.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "bench/kv_data.h"

namespace kvferry::bench {
namespace {

// What tiny q~ and p~ leave out, and subnormal results that f32 rounds.
constexpr double kTinySlop = 1e-29;
constexpr int kDraws = 8;

// One query row's passage through the oracle.
struct Row {
  const DecodedHead& head;
  const float* q;
  std::size_t dim, tokens;

  double folded(std::size_t t, std::size_t d) const { return q[d] * head.k_scale[t * dim + d]; }

  // Those that share a step of q~ with d; the last ones may be fewer.
  std::pair<std::size_t, std::size_t> channels_with(std::size_t d) const {
    const std::size_t first = d / head.rounding.channels * head.rounding.channels;
    return {first, std::min<std::size_t>(first + head.rounding.channels, dim)};
  }
  // The groups of tokens that share a step of p~; the last one may have fewer.
  std::size_t token_groups() const {
    return (tokens + head.rounding.tokens - 1) / head.rounding.tokens;
  }
  std::pair<std::size_t, std::size_t> tokens_of(std::size_t group) const {
    const std::size_t n = head.rounding.tokens;
    return {group * n, std::min((group + 1) * n, tokens)};
  }
  // The step of q~ of a token and the group of channels that d is in.
  double q_step(std::size_t t, std::size_t d) const {
    const auto [first, end] = channels_with(d);
    double least = folded(t, first), largest = least, size = 0.0;
    for (std::size_t i = first; i < end; ++i) {
      least = std::min(least, folded(t, i));
      largest = std::max(largest, folded(t, i));
      size = std::max(size, std::fabs(folded(t, i)));
    }
    return head.rounding.asymmetric ? (largest - least) / 255.0 : size / 127.0;
  }
  // What f32 sums of q for channel d: itself, or a minimum and steps of its group.
  double q_size(std::size_t d) const {
    if (!head.rounding.asymmetric) return std::fabs(q[d]);
    const auto [first, end] = channels_with(d);
    double size = 0.0;
    for (std::size_t i = first; i < end; ++i) {
      size = std::max(size, 3.0 * std::fabs(double{q[i]}));
    }
    return size;
  }
};

// log(SUM exp(x)).
double log_sum(const std::vector<double>& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0.0;
  for (const double value : x) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

std::vector<double> softmax(const std::vector<double>& scores) {
  const double whole = log_sum(scores);
  std::vector<double> weights(scores.size());
  for (std::size_t t = 0; t < scores.size(); ++t) weights[t] = std::exp(scores[t] - whole);
  return weights;
}

// Scores, and by how much the integer dot and f32 may move each.
void exact_scores(const Row& row, std::vector<double>& scores, std::vector<double>& moved,
                  std::vector<double>& slop) {
  std::vector<double> sizes(row.dim);
  for (std::size_t d = 0; d < row.dim; ++d) sizes[d] = row.q_size(d);
  for (std::size_t t = 0; t < row.tokens; ++t) {
    double magnitude = 0.0;
    double step = 0.0;
    for (std::size_t d = 0; d < row.dim; ++d) {
      const std::size_t at = t * row.dim + d;
      scores[t] += row.q[d] * row.head.k[at];
      magnitude += sizes[d] * row.head.k_size[at];
      if (d % row.head.rounding.channels == 0) step = row.q_step(t, d);
      moved[t] += step / 2.0 * std::fabs(row.head.k_code[at]);
    }
    slop[t] = row.head.rounding.float_slop * magnitude + kTinySlop;
  }
}

// Of the p~ of a group of tokens, for the 64 channels that d is in: the largest.
double largest_folded(const Row& row, const std::vector<double>& weights, std::size_t group,
                      std::size_t d) {
  const auto [first, end] = row.tokens_of(group);
  double largest = 0.0;
  for (std::size_t t = first; t < end; ++t) {
    largest = std::max(largest, weights[t] * row.head.v_scale[t * row.dim + d]);
  }
  return largest;
}
// The step of p~; a range from the least p~ of an asymmetric group.
double p_step(const Row& row, const std::vector<double>& weights, std::size_t group,
              std::size_t d) {
  const double largest = largest_folded(row, weights, group, d);
  if (!row.head.rounding.asymmetric) return largest / 255.0;
  const auto [first, end] = row.tokens_of(group);
  double least = largest;
  for (std::size_t t = first; t < end; ++t) {
    least = std::min(least, weights[t] * row.head.v_scale[t * row.dim + d]);
  }
  return (largest - least) / 255.0;
}

// v_step: 1 when p~ is rounded too, 0 for the part that f32 alone may move.
void bound_row(const Row& row, const std::vector<double>& scores, const std::vector<double>& moved,
               const double* output, double v_step, double* bound) {
  const std::vector<double> weights = softmax(scores);
  std::vector<double> raised = scores;
  for (std::size_t t = 0; t < row.tokens; ++t) raised[t] += moved[t];
  // The normaliser moves by at most the weighted mean of exp(moved), in either direction.
  const double whole = log_sum(scores);
  const double normaliser = log_sum(raised) - whole;
  std::vector<double> high(row.tokens);
  for (std::size_t t = 0; t < row.tokens; ++t) {
    high[t] = std::exp(std::min(0.0, raised[t] - whole + normaliser));
  }
  std::vector<double> lost(row.tokens);
  for (std::size_t t = 0; t < row.tokens; ++t) {
    lost[t] = -weights[t] * std::expm1(-moved[t] - normaliser);
  }
  const std::size_t groups = row.token_groups();
  for (std::size_t d = 0; d < row.dim; ++d) {
    double sum = 0.0;
    double magnitude = 0.0;
    for (std::size_t t = 0; t < row.tokens; ++t) {
      const std::size_t at = t * row.dim + d;
      const double moves = std::max(high[t] - weights[t], lost[t]);
      sum += moves * std::fabs(row.head.v[at] - output[d]);
      magnitude += high[t] * row.head.v_size[at];
    }
    for (std::size_t group = 0; group < groups; ++group) {
      const double largest = largest_folded(row, high, group, d);
      double codes = 0.0;
      double sizes = 0.0;
      const auto [first, end] = row.tokens_of(group);
      for (std::size_t t = first; t < end; ++t) {
        codes += std::fabs(row.head.v_code[t * row.dim + d]);
        sizes += row.head.v_size[t * row.dim + d];
      }
      sum += v_step * largest / 255.0 / 2.0 * codes;
      if (row.head.rounding.asymmetric) magnitude += 3.0 * largest * sizes;
    }
    bound[d] = sum + row.head.rounding.float_slop * magnitude + kTinySlop;
  }
}

// One draw of rounding errors, uniform and independent, through the whole softmax.
void add_draw(const Row& row, const std::vector<double>& scores, const double* output,
              std::uint64_t seed, double* square) {
  std::uint64_t counter = 0;
  std::vector<double> moved_scores = scores;
  const std::size_t key_tokens = row.head.rounding.key_tokens;
  for (std::size_t first = 0; first < row.tokens; first += key_tokens) {
    // Asymmetric q is rounded alike for every tile.
    if (row.head.rounding.asymmetric) counter = 0;
    double step = 0.0;
    for (std::size_t d = 0; d < row.dim; ++d) {
      if (d % row.head.rounding.channels == 0) step = row.q_step(first, d);
      const double error = step * (uniform(seed, counter++) - 0.5);
      for (std::size_t t = first; t < std::min(first + key_tokens, row.tokens); ++t) {
        moved_scores[t] += error * row.head.k_code[t * row.dim + d];
      }
    }
  }
  const std::vector<double> weights = softmax(moved_scores);
  std::vector<double> moved(row.dim, 0.0);
  for (std::size_t t = 0; t < row.tokens; ++t) {
    for (std::size_t d = 0; d < row.dim; ++d) {
      moved[d] += weights[t] * row.head.v[t * row.dim + d];
    }
  }
  const std::size_t value_channels = row.head.rounding.value_channels;
  for (std::size_t group = 0; group < row.token_groups(); ++group) {
    const auto [first_token, end_token] = row.tokens_of(group);
    for (std::size_t first = 0; first < row.dim; first += value_channels) {
      const double step = p_step(row, weights, group, first);
      for (std::size_t t = first_token; t < end_token; ++t) {
        const double error = step * (uniform(seed, counter++) - 0.5);
        for (std::size_t d = first; d < std::min(first + value_channels, row.dim); ++d) {
          moved[d] += error * row.head.v_code[t * row.dim + d];
        }
      }
    }
  }
  for (std::size_t d = 0; d < row.dim; ++d) {
    square[d] += (moved[d] - output[d]) * (moved[d] - output[d]) / kDraws;
  }
}

OracleAnswer answer_with_draws(const DecodedHead& head, const std::vector<float>& queries,
                               std::uint64_t seed, int draws) {
  OracleAnswer answer;
  for (auto* values :
       {&answer.output, &answer.bound, &answer.predicted_square, &answer.float_slop}) {
    values->assign(queries.size(), 0.0);
  }
  for (std::size_t r = 0; r * head.head_dim < queries.size(); ++r) {
    const std::size_t at = r * head.head_dim;
    const Row row{head, queries.data() + at, head.head_dim, head.tokens};
    std::vector<double> scores(row.tokens, 0.0), moved(row.tokens, 0.0), slop(row.tokens, 0.0);
    exact_scores(row, scores, moved, slop);
    const std::vector<double> weights = softmax(scores);
    for (std::size_t t = 0; t < row.tokens; ++t) {
      for (std::size_t d = 0; d < row.dim; ++d) {
        answer.output[at + d] += weights[t] * head.v[t * row.dim + d];
      }
      moved[t] += slop[t];
    }
    bound_row(row, scores, slop, &answer.output[at], 0.0, &answer.float_slop[at]);
    bound_row(row, scores, moved, &answer.output[at], 1.0, &answer.bound[at]);
    for (int draw = 0; draw < draws; ++draw) {
      add_draw(row, scores, &answer.output[at], seed + 97 * r + 7919 * draw,
               &answer.predicted_square[at]);
    }
  }
  return answer;
}

}  // namespace

OracleAnswer oracle(const DecodedHead& head, const std::vector<float>& queries,
                    std::uint64_t seed) {
  return answer_with_draws(head, queries, seed, kDraws);
}

OracleAnswer oracle_bounds(const DecodedHead& head, const std::vector<float>& queries) {
  return answer_with_draws(head, queries, 0, 0);
}

}  // namespace kvferry::bench
