// Data and bit comparisons for the tests of the dense kernels.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/all.h"

namespace kvferry::kernels {

inline std::vector<float> normal_values(std::size_t n, std::uint32_t seed, float deviation = 1.0f) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> distribution(0.0f, deviation);
  std::vector<float> values(n);
  for (float& value : values) value = distribution(engine);
  return values;
}

inline std::vector<std::uint16_t> bf16_of(std::span<const float> values) {
  std::vector<std::uint16_t> out;
  for (float value : values) out.push_back(bf16_from_f32(value));
  return out;
}

inline std::vector<float> f32_of(std::span<const std::uint16_t> values) {
  std::vector<float> out;
  for (std::uint16_t value : values) out.push_back(f32_from_bf16(value));
  return out;
}

inline std::vector<std::uint32_t> bits_of(std::span<const float> values) {
  std::vector<std::uint32_t> out;
  for (float value : values) out.push_back(std::bit_cast<std::uint32_t>(value));
  return out;
}

class EachIsa : public testing::TestWithParam<Isa> {
 protected:
  const DenseKernels& kernels() const { return dense_kernels(GetParam()); }
};

inline std::string isa_test_name(const testing::TestParamInfo<Isa>& info) {
  return std::string(isa_name(info.param));
}

}  // namespace kvferry::kernels
