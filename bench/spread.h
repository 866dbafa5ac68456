// Median and range of repeated measurements.
// Thread contract: pure functions.
#pragma once

#include <algorithm>
#include <vector>

namespace kvferry::bench {

struct Spread {
  double median = 0.0, min = 0.0, max = 0.0;
};

// values: at least one.
inline Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

}  // namespace kvferry::bench
