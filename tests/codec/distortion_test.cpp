// How much encoding loses: mean squared error over variance in two-sided windows (too good is as
// suspicious as too bad), what search and Hadamard buy, and the domain's inverse.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "bench/kv_data.h"
#include "kernels/isa.h"

namespace kvferry::codec {
namespace {

using namespace bench;  // NOLINT: made-up KV is what these tests are about

constexpr std::uint32_t kDim = 128;
constexpr std::uint32_t kHeads = 4;
constexpr KvGeometry kGeometry{1, kHeads, kHeads, kDim};
constexpr std::uint32_t kTiles = 8;

using Source = double (*)(std::uint64_t seed, std::uint64_t index);

double laplace(std::uint64_t seed, std::uint64_t index) {  // of variance 1
  const double u = uniform(seed, index) - 0.5;
  return -std::copysign(std::sqrt(0.5), u) * std::log1p(-2.0 * std::fabs(u));
}
// One value in 64 is 16 times larger.
double outliers(std::uint64_t seed, std::uint64_t index) {
  return gaussian(seed, index) * (uniform(seed + 99, index) < 1.0 / 64 ? 16.0 : 1.0);
}
// Twelve channels of 128, spread irregularly, have 20 times the deviation of the others.
double outlier_channels(std::uint64_t seed, std::uint64_t index) {
  return gaussian(seed, index) * (index % kDim * 37 % kDim < 12 ? 20.0 : 1.0);
}
// Every eighth token has 8 times the deviation of the others.
double outlier_tokens(std::uint64_t seed, std::uint64_t index) {
  return gaussian(seed, index) * (index / kDim % 8 == 0 ? 8.0 : 1.0);
}
double constant(std::uint64_t seed, std::uint64_t index) {
  return 1.0 + gaussian(seed, index % kDim);
}

// Every eighth channel holds a constant of deviation 20 beside its noise of deviation 1.
double offset_channels(std::uint64_t seed, std::uint64_t index) {
  const std::uint64_t channel = index % kDim;
  return gaussian(seed, index) + (channel % 8 == 3 ? 20.0 * gaussian(7, channel) : 0.0);
}

struct Loss {
  double k = 0.0, v = 0.0;  // squared error over the squares of the values' deviation from 0
};

// Encodes tiles behind the first of values in the codec's domain, as a worker would, and compares
// what comes back.
Loss loss_of(const std::string& spec, Source source) {
  const auto codec = *make_codec(spec);
  const std::uint32_t tokens = codec->tile_tokens();
  const std::size_t n = std::size_t{kHeads} * tokens * kDim;
  std::vector<float> k(n), v(n), k_back(n), v_back(n);
  std::vector<std::uint16_t> k_open(n), v_open(n);
  std::vector<std::byte> segment(codec->segment_bytes(kGeometry, 0, 1, tokens));
  double k_error = 0.0, v_error = 0.0, k_square = 0.0, v_square = 0.0;
  for (std::uint32_t tile = 1; tile <= kTiles; ++tile) {
    for (std::size_t i = 0; i < n; ++i) {
      k[i] = static_cast<float>(source(2 * tile, i));
      v[i] = static_cast<float>(source(2 * tile + 1, i));
    }
    codec->to_domain_k(k.data(), kHeads * tokens, kDim);
    codec->to_domain_v(v.data(), kHeads * tokens, kDim);
    for (std::size_t i = 0; i < n; ++i) {
      k_open[i] = kernels::bf16_from_f32(k[i]);
      v_open[i] = kernels::bf16_from_f32(v[i]);
    }
    const OpenTile open{reinterpret_cast<std::byte*>(k_open.data()),
                        reinterpret_cast<std::byte*>(v_open.data())};
    const Status status = codec->encode(kGeometry, 0, tile, tokens, open, segment);
    EXPECT_TRUE(status.ok()) << status.to_string();
    for (std::uint32_t h = 0; h < kHeads; ++h) {
      const std::size_t head = std::size_t{h} * tokens * kDim;
      codec->reconstruct(kGeometry, segment, h, k_back.data() + head, v_back.data() + head);
    }
    for (std::size_t i = 0; i < n; ++i) {
      k_error += std::pow(k_back[i] - k[i], 2.0);
      v_error += std::pow(v_back[i] - v[i], 2.0);
      k_square += std::pow(k[i], 2.0);
      v_square += std::pow(v[i], 2.0);
    }
  }
  return {k_error / k_square, v_error / v_square};
}

struct Window {
  const char* source_name;
  Source source;
  const char* spec;
  double low, high;  // of K and of V
};

TEST(Distortion, LiesInItsWindow) {
  const Window windows[] = {
      // Known figures for Gaussian groups of 64: 0.203 min-max and 0.111 search at 2 bits.
      {"gaussian", gaussian, "hack(k=2,v=2,range=minmax)", 0.196, 0.210},
      {"gaussian", gaussian, "hack(k=2,v=2)", 0.108, 0.114},
      {"gaussian", gaussian, "hack(k=4,v=4)", 0.0076, 0.0084},
      {"gaussian", gaussian, "hack(k=4,v=4,range=search)", 0.0071, 0.0079},
      {"gaussian", gaussian, "hack(k=8,v=8)", 0.000027, 0.000034},
      {"gaussian", gaussian, "raw", 1e-7, 4e-6},
      {"gaussian", gaussian, "hack(k=2,v=2,layout=paper)", 0.195, 0.213},
      {"gaussian", gaussian, "hack(k=2,v=2,layout=paper,group=32)", 0.145, 0.165},
      {"gaussian", gaussian, "hack(k=4,v=4,layout=paper)", 0.0076, 0.0084},
      {"gaussian", gaussian, "hack(k=2,v=2,layout=paper,rounding=stochastic)", 0.390, 0.425},
      {"gaussian", gaussian, "fp8(e4m3)", 0.00069, 0.00073},
      {"gaussian", gaussian, "fp8(e5m2)", 0.00273, 0.00287},
      {"gaussian", gaussian, "int8", 0.000045, 0.000051},
      {"gaussian", gaussian, "int(k=2,v=2)", 0.196, 0.210},
      {"gaussian", gaussian, "int(k=3,v=3,group=32)", 0.0274, 0.0293},
      {"gaussian", gaussian, "int(k=4,v=4,group=128)", 0.0096, 0.0105},
      {"laplace", laplace, "fp8(e4m3)", 0.00069, 0.00073},
      {"laplace", laplace, "int8", 0.000083, 0.000091},
      {"outliers", outliers, "fp8(e4m3)", 0.00069, 0.00074},
      {"outliers", outliers, "int8", 0.00037, 0.00044},
      {"outliers", outliers, "int(k=2,v=2)", 0.58, 0.66},
      {"laplace", laplace, "hack(k=2,v=2,range=minmax)", 0.300, 0.330},
      {"laplace", laplace, "hack(k=2,v=2)", 0.157, 0.171},
      {"laplace", laplace, "hack(k=4,v=4)", 0.0115, 0.0133},
      {"laplace", laplace, "hack(k=4,v=4,range=search)", 0.0108, 0.0123},
      {"outliers", outliers, "hack(k=2,v=2,range=minmax)", 0.58, 0.66},
      {"outliers", outliers, "hack(k=2,v=2)", 0.15, 0.17},
      {"gaussian", gaussian, "hack(k=2,v=2,group=32)", 0.096, 0.100},
      {"gaussian", gaussian, "hack(k=2,v=2,group=128)", 0.116, 0.121},
      {"gaussian", gaussian, "hack(k=2,v=2,balance=dual)", 0.107, 0.112},
      {"gaussian", gaussian, "hack(k=1,v=1)", 0.495, 0.515},
      {"gaussian", gaussian, "hack(k=1,v=1,range=lsq)", 0.343, 0.356},
      {"gaussian", gaussian, "hack(k=2,v=2,range=lsq)", 0.104, 0.11},
      {"gaussian", gaussian, "hack(k=3,v=3)", 0.0292, 0.0305},
      {"gaussian", gaussian, "hack(k=3,v=3,range=lsq)", 0.0281, 0.0293},
      {"gaussian", gaussian, "hack(k=4,v=4,range=lsq)", 0.0069, 0.0073},
      {"gaussian", gaussian, "hack(k=5,v=5)", 0.00185, 0.00200},
      {"gaussian", gaussian, "hack(k=6,v=6)", 0.00045, 0.00050},
      {"gaussian", gaussian, "hack(k=7,v=7)", 0.00011, 0.00013},
      {"laplace", laplace, "hack(k=1,v=1,range=lsq)", 0.449, 0.469},
      {"laplace", laplace, "hack(k=2,v=2,range=lsq)", 0.152, 0.16},
      {"laplace", laplace, "hack(k=3,v=3,range=lsq)", 0.043, 0.0451},
      {"laplace", laplace, "hack(k=4,v=4,range=lsq)", 0.0106, 0.0112},
      {"outliers", outliers, "hack(k=2,v=2,range=lsq)", 0.11, 0.124},
  };
  for (const Window& w : windows) {
    const Loss loss = loss_of(w.spec, w.source);
    for (const double value : {loss.k, loss.v}) {
      EXPECT_GE(value, w.low) << w.spec << " on " << w.source_name;
      EXPECT_LE(value, w.high) << w.spec << " on " << w.source_name;
    }
  }
}

// K shares a scale along a channel, so channels of one value cost nothing; V along a token does
// not.
TEST(Distortion, ConstantChannelsOfKAreFree) {
  for (const char* spec : {"hack(k=2,v=2)", "hack(k=2,v=2,range=minmax)", "hack(k=2,v=2,range=lsq)",
                           "hack(k=1,v=3)"}) {
    const Loss loss = loss_of(spec, constant);
    EXPECT_LT(loss.k, 4e-6) << spec;  // rounding to bf16
    EXPECT_GT(loss.v, 0.01) << spec;
  }
}

// Outlier channels: per-channel scales save K without help; V has them within its groups, and
// Hadamard spreads them.
TEST(Distortion, HadamardTamesOutlierChannels) {
  const Loss plain = loss_of("hack(k=2,v=2)", outlier_channels);
  const Loss rotated = loss_of("hadamard | hack(k=2,v=2)", outlier_channels);
  EXPECT_LT(rotated.v, 0.8 * plain.v);
  EXPECT_GE(rotated.v, 0.08);
  EXPECT_LE(rotated.v, 0.112);  // what Gaussian values lose
  EXPECT_LE(plain.k, 0.12);
}

// The published layout shares K's scale among the channels of a token: outlier channels cost there
// what they cost V here, and Hadamard spreads them.
TEST(Distortion, PublishedLayoutSuffersFromOutlierChannelsOfK) {
  const Loss channel = loss_of("hack(k=2,v=2,range=minmax)", outlier_channels);
  const Loss paper = loss_of("hack(k=2,v=2,layout=paper)", outlier_channels);
  const Loss rotated = loss_of("hadamard | hack(k=2,v=2,layout=paper)", outlier_channels);
  EXPECT_GT(paper.k, 1.5 * channel.k);
  EXPECT_LT(rotated.k, 0.8 * paper.k);
  EXPECT_GT(loss_of("hack(k=2,v=2,layout=paper)", constant).k, 0.01);
  EXPECT_LT(loss_of("hack(k=2,v=2,layout=paper)", constant).v, 4e-6);
}

// Rows and columns of a tile take what scales along the other axis cannot, without Hadamard too:
// tokens of K and channels of V lose what plain Gaussian values do.
TEST(Distortion, BalanceTamesOutlierTokensOfKAndChannelsOfV) {
  const std::string group_64 = "hack(k=2,v=2", group_128 = "hack(k=2,v=2,group=128";
  for (const std::string& spec : {group_64, group_128}) {
    EXPECT_GT(loss_of(spec + ")", outlier_tokens).k, 0.22) << spec;
    EXPECT_GT(loss_of(spec + ")", outlier_channels).v, 0.19) << spec;
    EXPECT_LT(loss_of(spec + ",balance=dual)", outlier_tokens).k, 0.119) << spec;
    EXPECT_LT(loss_of(spec + ",balance=dual)", outlier_channels).v, 0.119) << spec;
  }
}

// What is constant in a channel spoils the groups that run across channels: all of int's, V's of
// hack and K's of layout=paper. Its mean apart costs 0.25 bits a value. Hadamard alone spreads it
// over all channels, where it still stands in the way.
TEST(Distortion, MeanTakesConstantChannelsAway) {
  const auto loss = [](const char* spec) { return loss_of(spec, offset_channels); };
  const Loss plain = loss("int(k=2,v=2)"), centred = loss("mean | int(k=2,v=2)");
  const Loss rotated = loss("hadamard | int(k=2,v=2)");
  const Loss both = loss("hadamard | mean | int(k=2,v=2)");
  const Loss paper = loss("hack(k=2,v=2,layout=paper)");
  const Loss paper_centred = loss("mean(of=k) | hack(k=2,v=2,layout=paper)");
  const Loss hack = loss("hack(k=2,v=2)"), hack_centred = loss("mean(of=v) | hack(k=2,v=2)");
  for (const auto part : {&Loss::k, &Loss::v}) {
    EXPECT_GE(plain.*part, 0.9);
    EXPECT_LE(centred.*part, 0.0031);
    EXPECT_GE(rotated.*part, 0.16);
    EXPECT_LE(rotated.*part, 0.19);
    EXPECT_LE(both.*part, 0.0031);
  }
  EXPECT_GE(paper.k, 0.9);
  EXPECT_LE(paper_centred.k, 0.0031);
  EXPECT_EQ(paper_centred.v, paper.v);
  EXPECT_LE(hack.k, 0.0017);  // its minima hold the constants
  EXPECT_EQ(hack_centred.k, hack.k);
  EXPECT_GE(hack.v, 0.22);
  EXPECT_LE(hack_centred.v, 0.0017);
}

// The other way round: channels of large deviation about zero. A mean is of no use, Hadamard makes
// int lose less than plain Gaussian values do, which is 0.203.
TEST(Distortion, HadamardHelpsIntWithOutlierChannels) {
  const Loss plain = loss_of("int(k=2,v=2)", outlier_channels);
  const Loss rotated = loss_of("hadamard | int(k=2,v=2)", outlier_channels);
  const Loss centred = loss_of("mean | int(k=2,v=2)", outlier_channels);
  for (const auto part : {&Loss::k, &Loss::v}) {
    EXPECT_GE(plain.*part, 0.62);
    EXPECT_GE(centred.*part, 0.62);
    EXPECT_GE(rotated.*part, 0.15);
    EXPECT_LE(rotated.*part, 0.17);
  }
}

TEST(Distortion, DomainRoundTripAndScores) {
  for (const kernels::Isa isa : kernels::available_isas()) {
    ASSERT_TRUE(kernels::force_isa(isa));
    for (const char* spec : {"raw", "hack(k=4,v=2)", "hadamard | hack(k=4,v=2)"}) {
      const auto codec = *make_codec(spec);
      const bool rotates = std::string(spec).starts_with("hadamard");
      for (const std::size_t dim : {64u, 128u, 256u}) {
        std::vector<float> q(2 * dim), k(2 * dim), v(2 * dim);
        for (std::size_t i = 0; i < 2 * dim; ++i) {
          q[i] = static_cast<float>(gaussian(1, i));
          k[i] = static_cast<float>(gaussian(2, i));
          v[i] = static_cast<float>(gaussian(3, i));
        }
        const auto dot = [dim](const std::vector<float>& a, const std::vector<float>& b) {
          double sum = 0.0;
          for (std::size_t d = 0; d < dim; ++d) sum += double{a[d]} * b[d];
          return sum;
        };
        const std::vector<float> v_before = v;
        const double score = dot(q, k);
        codec->to_domain_q(q.data(), 2, dim);
        codec->to_domain_k(k.data(), 2, dim);
        codec->to_domain_v(v.data(), 2, dim);
        EXPECT_NEAR(dot(q, k), score, 1e-4) << spec;
        EXPECT_EQ(v != v_before, rotates) << spec;
        codec->from_domain_o(v.data(), 2, dim);
        for (std::size_t i = 0; i < 2 * dim; ++i) EXPECT_NEAR(v[i], v_before[i], 2e-6) << spec;
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::codec
