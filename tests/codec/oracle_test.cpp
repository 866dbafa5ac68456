// attend against exact attention in double precision over what the bytes mean, on every
// instruction set: within the hard bound always, and with no more than 1.2 times the root mean
// square error that rounding q and p to 8 bits predicts.
#include "bench/oracle.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "bench/kv_data.h"
#include "kernels/isa.h"

namespace kvferry::codec {
namespace {

using namespace bench;  // NOLINT: made-up KV is what these tests are about

struct Case {
  std::string spec;
  std::uint32_t head_dim;
  std::uint32_t tokens;
  std::uint32_t gqa;
  Kind kind;
  float query_scale = 1.0f;
  bool check_mean = true;  // the root mean square error too
};

std::string describe(const Case& c, kernels::Isa isa) {
  return std::string(kernels::isa_name(isa)) + " " + c.spec + " head_dim " +
         std::to_string(c.head_dim) + " tokens " + std::to_string(c.tokens) + " gqa " +
         std::to_string(c.gqa) + " " + std::string(name_of(c.kind));
}

struct Errors {
  double square = 0.0, predicted = 0.0, slop = 0.0;
  std::size_t count = 0;

  void expect_as_predicted(double factor) const {
    const auto rms = [this](double sum) { return std::sqrt(sum / static_cast<double>(count)); };
    EXPECT_LE(rms(square), factor * rms(predicted) + rms(slop));
  }
};

// Whether the bound holds for every value; adds up the errors.
void check_bound(const std::vector<float>& got, const OracleAnswer& want, Errors& errors) {
  double worst = 0.0;
  std::size_t worst_at = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(got[i] - want.output[i]);
    ASSERT_TRUE(std::isfinite(got[i])) << "value " << i;
    const double excess = error - want.bound[i];
    if (i == 0 || excess > worst) {
      worst = excess;
      worst_at = i;
    }
    errors.square += error * error;
    errors.predicted += want.predicted_square[i];
    errors.slop += want.float_slop[i] * want.float_slop[i];
    ++errors.count;
  }
  EXPECT_LE(worst, 0.0) << "value " << worst_at << " is " << got[worst_at] << ", exact "
                        << want.output[worst_at] << " +- " << want.bound[worst_at];
}

void run_case(const Case& c) {
  const KvGeometry geometry{1, 2, 2 * c.gqa, c.head_dim};
  const std::uint64_t seed = 17 * c.head_dim + c.tokens + 31 * c.gqa;
  const auto made = encode_sequence(c.spec, geometry, c.tokens, c.kind, seed);
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  const EncodedSequence& sequence = *made;
  const std::uint32_t rows = std::max(c.gqa, 3u);
  std::vector<Errors> errors(kernels::available_isas().size());
  for (std::uint32_t h = 0; h < geometry.kv_heads; ++h) {
    std::vector<float> queries = make_queries(seed + 7 + h, rows, c.head_dim);
    for (float& q : queries) q *= c.query_scale;
    const DecodedHead head = decode_head(sequence.kv(), 0, h);
    const OracleAnswer want = oracle(head, queries, seed + h);
    for (std::size_t i = 0; i < errors.size(); ++i) {
      const kernels::Isa isa = kernels::available_isas()[i];
      SCOPED_TRACE(describe(c, isa));
      ASSERT_TRUE(kernels::force_isa(isa));
      check_bound(attend_sequence(sequence.kv(), 0, h, queries), want, errors[i]);
    }
  }
  for (std::size_t i = 0; c.check_mean && i < errors.size(); ++i) {
    SCOPED_TRACE(describe(c, kernels::available_isas()[i]));
    errors[i].expect_as_predicted(1.2);
  }
}

class Oracle : public ::testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(kernels::force_isa(kernels::available_isas().back())); }
};

std::string hack(std::uint32_t k, std::uint32_t v) {
  return "hack(k=" + std::to_string(k) + ",v=" + std::to_string(v) + ")";
}

TEST_F(Oracle, EveryPairOfBitsAndHeadDim) {
  for (const std::uint32_t head_dim : {64u, 128u, 256u}) {
    for (const std::uint32_t k : {2u, 4u, 8u}) {
      for (const std::uint32_t v : {2u, 4u, 8u}) {
        run_case({hack(k, v), head_dim, 192, 4, Kind::kGaussian});
      }
    }
  }
}

TEST_F(Oracle, EveryNumberOfBits) {
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    run_case({hack(bits, 9 - bits), 128, 192, 4, Kind::kGaussian});
    run_case({hack(bits, bits), 64, 192, 2, Kind::kGaussian});
  }
}

TEST_F(Oracle, EveryGroupAndFactorAndFirstTile) {
  for (const std::uint32_t head_dim : {64u, 128u, 256u}) {
    for (const char* group : {"32", "64", "128"}) {
      for (const char* rest :
           {"", ",balance=dual", ",balance=dual,first_bits=none", ",first_bits=16"}) {
        const std::string spec = std::string("hack(k=3,v=2,group=") + group + rest + ")";
        run_case({spec, head_dim, 300, 2, Kind::kGaussian});
      }
    }
  }
  for (const Kind kind : kKinds) {
    run_case({"hack(k=2,v=2,group=128,balance=dual,first_bits=none)", 128, 384, 4, kind});
    run_case({"hack(k=4,v=2,group=32,balance=dual,first_bits=none)", 64, 200, 2, kind});
  }
}

TEST_F(Oracle, EveryKindOfData) {
  for (const Kind kind : kKinds) {
    for (const std::string& spec : {hack(2, 2), hack(4, 2), hack(8, 8)}) {
      run_case({spec, 128, 192, 2, kind});
    }
  }
}

TEST_F(Oracle, EveryLengthAroundATile) {
  for (const std::uint32_t tokens : {1u, 2u, 63u, 64u, 65u, 127u, 128u, 129u, 300u}) {
    run_case({hack(4, 2), 64, tokens, 4, Kind::kGaussian});
  }
}

TEST_F(Oracle, EveryGqaRatio) {
  for (std::uint32_t gqa = 1; gqa <= 8; ++gqa) {
    run_case({hack(2, 2), 64, 128, gqa, Kind::kGaussian});
  }
}

// Large queries make the softmax sharp, and the rounding of q the greater error. Many rows, because
// where two tokens almost tie, one row may err by much more than the others.
TEST_F(Oracle, SharpSoftmax) {
  for (const std::uint32_t head_dim : {64u, 128u}) {
    for (const float scale : {2.0f, 4.0f, 8.0f}) {
      for (const std::string& spec : {hack(2, 2), hack(4, 2), hack(4, 8)}) {
        run_case({spec, head_dim, 256, 24, Kind::kGaussian, scale});
      }
    }
  }
}

std::string paper(std::uint32_t k, std::uint32_t v, std::uint32_t group, const char* more = "") {
  return "hack(k=" + std::to_string(k) + ",v=" + std::to_string(v) +
         ",layout=paper,group=" + std::to_string(group) + more + ")";
}

// Many rows, because a row's q is rounded once for all tiles.
TEST_F(Oracle, PaperEveryPartition) {
  for (const std::uint32_t head_dim : {64u, 128u, 256u}) {
    for (const std::uint32_t group : {32u, 64u, 128u}) {
      run_case({paper(2, 2, group), head_dim, 256, 16, Kind::kGaussian});
      run_case({paper(4, 3, group, ",first_bits=8"), head_dim, 300, 16, Kind::kGaussian, 4.0f});
    }
  }
}

TEST_F(Oracle, PaperEveryNumberOfBits) {
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    run_case({paper(bits, 9 - bits, 64), 64, 192, 16, Kind::kGaussian});
    run_case({paper(bits, bits, 128, ",se=off"), 128, 300, 16, Kind::kGaussian});
  }
}

// Where channels or tokens stand out, rounding q from its least value moves the largest weight to
// another token in some rows and not in others: the mean of a few draws says nothing then.
TEST_F(Oracle, PaperEveryKindOfData) {
  for (const Kind kind : kKinds) {
    const bool even = kind == Kind::kGaussian || kind == Kind::kUniform;
    run_case({paper(2, 2, 64), 128, 192, 16, kind, 1.0f, even});
    run_case({paper(4, 8, 32, ",rounding=stochastic,seed=3"), 64, 130, 16, kind, 1.0f, even});
  }
}

TEST_F(Oracle, Dequantized) {
  for (const Kind kind : kKinds) {
    for (const std::string& spec : {hack(2, 2), hack(5, 8), paper(4, 2, 64), std::string("raw")}) {
      run_case({"dequantize | " + spec, 64, 130, 3, kind});
    }
  }
  for (const std::uint32_t head_dim : {128u, 256u}) {
    run_case({"dequantize | " + paper(2, 3, 128), head_dim, 300, 4, Kind::kGaussian, 4.0f});
  }
}

// Codecs that are attended to as bf16.
TEST_F(Oracle, Reconstructed) {
  for (const Kind kind : kKinds) {
    for (const char* spec : {"fp8(e4m3)", "fp8(e5m2)", "int8", "int(k=2,v=4,group=32)"}) {
      run_case({spec, 64, 130, 3, kind});
    }
  }
  for (const std::uint32_t head_dim : {128u, 256u}) {
    for (const char* spec : {"fp8(e4m3)", "fp8(e5m2)", "int8"}) {
      run_case({spec, head_dim, 192, 4, Kind::kGaussian, 4.0f});
    }
  }
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    const std::string spec = "int(k=" + std::to_string(bits) + ",v=" + std::to_string(9 - bits);
    run_case({spec + ")", 128, 192, 2, Kind::kGaussian});
    run_case({spec + ",group=128)", 256, 65, 2, Kind::kUniform});
  }
}

TEST_F(Oracle, Raw) {
  for (const Kind kind : kKinds) run_case({"raw", 64, 130, 3, kind});
}

TEST_F(Oracle, HeadDimsThatAreNoMultipleOf64) {
  for (const char* spec : {"raw", "fp8(e4m3)", "int8", "int(k=4,v=2,group=32)"}) {
    run_case({spec, 96, 130, 3, Kind::kGaussian});
  }
  run_case({"mean | int8", 80, 130, 3, Kind::kGaussian});
}

}  // namespace
}  // namespace kvferry::codec
