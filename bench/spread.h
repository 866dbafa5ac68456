// Median and range of repeated measurements. The median of an even number is the mean of the two in
// the middle.
// Thread contract: pure functions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace kvferry::bench {

struct Spread {
  double median = 0.0, min = 0.0, max = 0.0;
};

// values: at least one.
inline Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return {(values[(n - 1) / 2] + values[n / 2]) / 2.0, values.front(), values.back()};
}

// The median of a[i] / b[i], of measurements in turn: a slow spell hits both. As many of each.
inline double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  return spread_of(std::move(ratios)).median;
}

}  // namespace kvferry::bench
