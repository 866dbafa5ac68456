// Models of rANS: integer arithmetic only, so that both ends of a wire compute the same.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "kernels/rans_kernels.h"

namespace kvferry::kernels {
namespace {

// -log2(freq / 4096) in 1/65536 bits, truncated.
using CostTable = std::array<std::uint32_t, kRansTotal>;
constexpr std::uint32_t kCostOne = 1u << 16;
constexpr CostTable make_costs() {
  CostTable costs{};
  costs[0] = 64 * kCostOne;  // what the model excludes
  for (std::uint32_t freq = 1; freq < kRansTotal; ++freq) {
    const int whole = std::bit_width(freq) - 1;
    // y in [1, 2) with 31 fractional bits; squaring it gives the logarithm's bits one by one.
    std::uint64_t y = std::uint64_t{freq} << (31 - whole);
    std::uint32_t log = static_cast<std::uint32_t>(whole) << 16;
    for (std::uint32_t bit = kCostOne / 2; bit != 0; bit /= 2) {
      y = (y * y) >> 31;
      if (y >> 32 != 0) {
        y >>= 1;
        log += bit;
      }
    }
    costs[freq] = kRansBits * kCostOne - log;
  }
  return costs;
}
constexpr CostTable kCosts = make_costs();

}  // namespace

bool rans_model_valid(const RansModel& model) {
  std::uint32_t sum = 0;
  for (const std::uint16_t freq : model.freq) {
    if (freq >= kRansTotal) return false;
    sum += freq;
  }
  return sum == kRansTotal;
}

// Weights worth less than 1.5 get 1; the rest is shared out by rounding running sums, so that it
// adds up and nobody is more than 1 off. The others are worth enough to get at least 1 that way:
// at most 255 of 4096 go to the small ones.
void rans_fit(std::span<const std::uint64_t> weights, std::uint16_t* freq) {
  std::uint64_t total = 0, large = 0;
  for (const std::uint64_t weight : weights) total += weight;
  const auto is_small = [&](std::uint64_t weight) { return 2 * kRansTotal * weight < 3 * total; };
  std::uint32_t left = kRansTotal;
  std::size_t last = 0;  // that is not small
  for (std::size_t i = 0; i < weights.size(); ++i) {
    freq[i] = 0;
    if (weights[i] == 0) continue;
    if (is_small(weights[i])) {
      freq[i] = 1;
      --left;
    } else {
      large += weights[i];
      last = i;
    }
  }
  if (large == total && total == weights[last]) {  // one symbol: leave room for a second
    freq[(last + 1) % weights.size()] = 1;
    --left;
  }
  // left <= 2^12 and large > 2^24 / 256 of a total of at most 2^32: 2^20 keeps 64 bits enough.
  const std::uint64_t scale = (std::uint64_t{left} << 32) / large;
  std::uint64_t sum = 0;
  std::uint32_t given = 0;
  for (std::size_t i = 0; i <= last; ++i) {
    if (weights[i] == 0 || is_small(weights[i])) continue;
    sum += weights[i];
    const auto until = i == last ? left : static_cast<std::uint32_t>((sum * scale) >> 32);
    freq[i] = static_cast<std::uint16_t>(until - given);
    given = until;
  }
}

bool rans_product_model(std::span<const std::uint16_t> code_freq, RansModel& model) {
  const auto codes = static_cast<std::uint32_t>(code_freq.size());
  if (codes != 2 && codes != 4 && codes != 16 && codes != kRansSymbols) return false;
  std::uint32_t total = 0;
  for (const std::uint16_t freq : code_freq) {
    if (freq >= kRansTotal) return false;
    total += freq;
  }
  if (total != kRansTotal) return false;
  if (codes == kRansSymbols) {
    std::copy(code_freq.begin(), code_freq.end(), model.freq);
    return true;
  }
  // Products as parts of 2^32, field by field, the lowest first; what is possible stays above 0.
  std::array<std::uint64_t, kRansSymbols> weight;
  weight[0] = std::uint64_t{1} << 32;
  for (std::uint32_t known = 1; known < kRansSymbols; known *= codes) {
    for (std::uint32_t code = codes; code-- > 0;) {
      for (std::uint32_t low = 0; low < known; ++low) {
        const std::uint64_t product = (weight[low] * code_freq[code]) >> kRansBits;
        weight[code * known + low] =
            code_freq[code] == 0 || weight[low] == 0 ? 0 : std::max<std::uint64_t>(product, 1);
      }
    }
  }
  rans_fit(weight, model.freq);
  return true;
}

std::uint64_t rans_cost_bits(const RansModel& model, const std::uint32_t* counts) {
  std::uint64_t cost = 0;
  for (std::uint32_t s = 0; s < kRansSymbols; ++s) {
    cost += std::uint64_t{counts[s]} * kCosts[model.freq[s]];
  }
  return (cost + kCostOne - 1) / kCostOne;
}

// Eight bytes at a time into four tables: adding to one counter twice in a row waits for the store.
void rans_count(const std::byte* in, std::size_t n, std::uint32_t* counts) {
  std::uint32_t part[4][kRansSymbols] = {};
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    std::uint64_t eight;
    std::memcpy(&eight, in + i, sizeof(eight));
    ++part[0][eight & 0xff];
    ++part[1][eight >> 8 & 0xff];
    ++part[2][eight >> 16 & 0xff];
    ++part[3][eight >> 24 & 0xff];
    ++part[0][eight >> 32 & 0xff];
    ++part[1][eight >> 40 & 0xff];
    ++part[2][eight >> 48 & 0xff];
    ++part[3][eight >> 56];
  }
  for (; i < n; ++i) ++part[0][static_cast<std::uint8_t>(in[i])];
  for (std::uint32_t s = 0; s < kRansSymbols; ++s) {
    counts[s] += part[0][s] + part[1][s] + part[2][s] + part[3][s];
  }
}

void rans_encode_table(const RansModel& model, RansEncodeTable& table) {
  std::uint32_t start = 0;
  for (std::uint32_t s = 0; s < kRansSymbols; ++s) {
    const std::uint32_t freq = model.freq[s];
    table.inverse[s] = 1.0 / (freq == 0 ? 1 : freq);
    table.interval[s] = freq | start << 16;
    start += freq;
  }
}

void rans_start(RansEncoder& encoder, std::uint32_t lanes, std::byte* begin, std::byte* end) {
  std::fill_n(encoder.state, lanes, kRansLow);
  encoder.lanes = lanes;
  encoder.begin = begin;
  encoder.next = end;
}

bool rans_open(RansDecoder& decoder, std::uint32_t lanes, std::span<const std::byte> stream) {
  const std::size_t state_bytes = rans_state_bytes(lanes);
  if (stream.size() < state_bytes) return false;
  std::memcpy(decoder.state, stream.data(), state_bytes);
  decoder.lanes = lanes;
  decoder.next = stream.data() + state_bytes;
  decoder.end = stream.data() + stream.size();
  return true;
}

bool rans_closed(const RansDecoder& decoder) {
  return decoder.next == decoder.end &&
         std::all_of(decoder.state, decoder.state + decoder.lanes,
                     [](std::uint32_t state) { return state == kRansLow; });
}

}  // namespace kvferry::kernels
