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

// Whether the frequencies are what a model's must be. Looks at all of them, which needs no branch.
bool adds_up(std::span<const std::uint16_t> freq) {
  std::uint32_t sum = 0, too_large = 0;
  for (const std::uint16_t f : freq) {
    sum += f;
    too_large |= f / kRansTotal;
  }
  return too_large == 0 && sum == kRansTotal;
}

// Weights worth less than 1.5 get 1; the rest is shared out by rounding running sums, so that it
// adds up and nobody is more than 1 off. The others are worth enough to get at least 1 that way:
// at most 255 of 4096 go to the small ones. Without branches: which weights are small is not to be
// guessed.
template <class Weight>
void fit(std::span<const Weight> weights, std::uint16_t* freq) {
  std::uint64_t total = 0, large = 0;
  for (const Weight weight : weights) total += weight;
  const std::uint64_t least = (3 * total + 2 * kRansTotal - 1) / (2 * kRansTotal);
  const auto is_small = [&](Weight weight) { return weight < least; };
  std::uint32_t left = kRansTotal;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const bool small = is_small(weights[i]);
    freq[i] = small && weights[i] != 0 ? 1 : 0;
    left -= freq[i];
    large += small ? 0 : weights[i];
  }
  std::size_t last = weights.size() - 1;  // that is not small
  while (is_small(weights[last])) --last;
  if (total == weights[last]) {  // one symbol: leave room for a second
    freq[(last + 1) % weights.size()] = 1;
    --left;
  }
  // left <= 2^12 and large > 2^24 / 256 of a total of at most 2^32: 2^20 keeps 64 bits enough.
  const std::uint64_t scale = (std::uint64_t{left} << 32) / large;
  std::uint64_t sum = 0;
  std::uint32_t given = 0;
  for (std::size_t i = 0; i <= last; ++i) {
    sum += is_small(weights[i]) ? 0 : weights[i];
    const auto until = static_cast<std::uint32_t>((sum * scale) >> 32);
    freq[i] = static_cast<std::uint16_t>(freq[i] + (until - given));
    given = until;
  }
  freq[last] = static_cast<std::uint16_t>(freq[last] + (left - given));
}

}  // namespace

bool rans_model_valid(const RansModel& model) { return adds_up(model.freq); }

void rans_fit(std::span<const std::uint64_t> weights, std::uint16_t* freq) { fit(weights, freq); }

bool rans_product_model(std::span<const std::uint16_t> code_freq, RansModel& model) {
  const auto codes = static_cast<std::uint32_t>(code_freq.size());
  if (codes != 2 && codes != 4 && codes != 16 && codes != kRansSymbols) return false;
  if (!adds_up(code_freq)) return false;
  if (codes == kRansSymbols) {
    std::copy(code_freq.begin(), code_freq.end(), model.freq);
    return true;
  }
  // Products as parts of 2^32, field by field, the lowest first; what is possible stays above 0.
  std::array<std::uint32_t, kRansSymbols> weight;
  for (std::uint32_t code = 0; code < codes; ++code) {
    weight[code] = std::uint32_t{code_freq[code]} << (32 - kRansBits);
  }
  for (std::uint32_t known = codes; known < kRansSymbols; known *= codes) {
    for (std::uint32_t code = codes; code-- > 0;) {
      const std::uint32_t part = code_freq[code];
      for (std::uint32_t low = 0; low < known; ++low) {
        const auto product =
            static_cast<std::uint32_t>((std::uint64_t{weight[low]} * part) >> kRansBits);
        const bool lost = product == 0 && part != 0 && weight[low] != 0;
        weight[code * known + low] = product + (lost ? 1 : 0);
      }
    }
  }
  fit(std::span<const std::uint32_t>(weight), model.freq);
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
