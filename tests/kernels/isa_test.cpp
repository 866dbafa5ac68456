#include "kernels/isa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr Isa kAll[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512};

TEST(Isa, NamesRoundTrip) {
  for (Isa isa : kAll) EXPECT_EQ(parse_isa(isa_name(isa)), isa);
  for (const char* name : {"", "AVX2", "avx", "avx512 ", "sse"}) {
    EXPECT_EQ(parse_isa(name), std::nullopt) << name;
  }
}

TEST(Isa, AvailableOnesAreThoseOfTheCpuLowestFirst) {
  const std::vector<Isa> isas = available_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::kScalar);
  EXPECT_TRUE(std::is_sorted(isas.begin(), isas.end()));
  for (Isa isa : kAll) {
    EXPECT_EQ(cpu_has(isa), std::find(isas.begin(), isas.end(), isa) != isas.end());
  }
}

TEST(Isa, RequestsAreResolvedOrRefused) {
  EXPECT_EQ(resolve_isa(""), available_isas().back());
  EXPECT_EQ(resolve_isa("neon"), std::nullopt);
  for (Isa isa : kAll) {
    const std::optional<Isa> resolved = resolve_isa(isa_name(isa));
    if (cpu_has(isa)) {
      EXPECT_EQ(resolved, isa);
    } else {
      EXPECT_EQ(resolved, std::nullopt);
    }
  }
}

TEST(Isa, ForcingChoosesTheTable) {
  const Isa before = active_isa();
  for (Isa isa : kAll) {
    const Isa active = active_isa();
    EXPECT_EQ(force_isa(isa), cpu_has(isa));
    EXPECT_EQ(active_isa(), cpu_has(isa) ? isa : active);
    EXPECT_EQ(&dense_kernels(), &dense_kernels(active_isa()));
  }
  ASSERT_TRUE(force_isa(before));
}

TEST(Isa, TablesDiffer) {
  EXPECT_NE(dense_kernels(Isa::kScalar).rms_norm, dense_kernels(Isa::kAvx2).rms_norm);
  EXPECT_NE(dense_kernels(Isa::kAvx2).rms_norm, dense_kernels(Isa::kAvx512).rms_norm);
}

TEST(Isa, FeaturesAgreeWithTheSets) {
  const std::string features = " " + cpu_features() + " ";
  const auto lists = [&](const char* name) {
    return features.find(std::string(" ") + name + " ") != std::string::npos;
  };
  EXPECT_EQ(cpu_has(Isa::kAvx2), lists("avx2") && lists("fma") && lists("f16c") && lists("bmi2"));
  EXPECT_EQ(cpu_has(Isa::kAvx512), cpu_has(Isa::kAvx2) && lists("avx512f") && lists("avx512bw") &&
                                       lists("avx512vl") && lists("avx512dq") &&
                                       lists("avx512_vnni") && lists("avx512_bf16"));
}

}  // namespace
}  // namespace kvferry::kernels
