// What `kvferry bench codec` counts; its speed is nobody's business here.
#include "bench/codec_bench.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>

#include "codec/artifacts.h"

namespace kvferry::bench {
namespace {

CodecBenchOptions small(const std::string& codec) {
  CodecBenchOptions options;
  options.codec = codec;
  options.kv_heads = 2;
  options.tiles = 2;
  options.runs = 1;
  return options;
}

double outlier_error(const std::string& codec) {
  const auto report = run_codec_bench(small(codec));
  EXPECT_TRUE(report.ok()) << report.status().to_string();
  return report.ok() ? report->rmse_outliers : 0.0;
}

TEST(CodecBench, CountsBitsAndErrors) {
  const auto report = run_codec_bench(small("hack(k=2,v=2,range=minmax)"));
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->input_bytes, 2u * 2 * 2 * 64 * 128 * 2);
  // 8 * 128 * 5 bytes a head and a header, for 2 * 64 * 128 values a head.
  EXPECT_DOUBLE_EQ(report->bits_per_value, 8.0 * (2 * 5120 + 64) / (2 * 2 * 64 * 128));
  EXPECT_NEAR(report->rmse_gaussian, std::sqrt(0.204), 0.01);  // docs/codecs.md
  EXPECT_GT(report->attend_error, 0.0);
  EXPECT_DOUBLE_EQ(report->encode_share_of_read,
                   report->encode_gbyte_s.median / report->read_ceiling_gbyte_s);
  EXPECT_EQ(to_json(*report).at("codec").as_string(), "hack(k=2,v=2,range=minmax)");
  EXPECT_NE(to_text(*report).find("2.516 bits"), std::string::npos);
}

TEST(CodecBench, OutliersAreWhatHadamardIsFor) {
  EXPECT_LT(outlier_error("hadamard | hack(k=2,v=2,range=minmax)"),
            0.8 * outlier_error("hack(k=2,v=2,range=minmax)"));
}

TEST(CodecBench, OnlyDomainStagesTakeTimeOfEncoding) {
  for (const char* codec : {"raw", "hack(k=2,v=2)", "kivi(k=2,v=2)", "hack(k=2,v=2) | rans"}) {
    const auto report = run_codec_bench(small(codec));
    ASSERT_TRUE(report.ok()) << report.status().to_string();
    EXPECT_EQ(report->domain_share_of_encode, 0.0) << codec;
    EXPECT_EQ(report->domain_ns_per_query_head, 0.0) << codec;
  }
  for (const char* codec : {"hadamard | raw", "kvarn(k=2,v=2)", "hadamard | hack(k=2,v=2)"}) {
    const auto report = run_codec_bench(small(codec));
    ASSERT_TRUE(report.ok()) << report.status().to_string();
    EXPECT_GT(report->domain_ns_per_query_head, 0.0) << codec;
    EXPECT_LT(report->domain_share_of_encode, 1.0) << codec;
  }
}

TEST(CodecBench, RawRoundsToBf16) {
  const auto report = run_codec_bench(small("raw"));
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_GT(report->rmse_gaussian, 0.0005);
  EXPECT_LT(report->rmse_gaussian, 0.004);  // half a step of 2^-8, at most
  EXPECT_LT(report->attend_error, 1e-5);
}

TEST(CodecBench, WireFormsStandBesideZstd) {
  const auto report = run_codec_bench(small("hack(k=2,v=2,range=minmax) | rans"));
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_LT(report->wire.bits_per_value, report->bits_per_value);
  EXPECT_LE(report->zstd.bits_per_value, report->bits_per_value);
  EXPECT_GT(report->zstd.bits_per_value, 0.0);
  EXPECT_GT(report->wire.unpack_gbyte_s, 0.0);
  EXPECT_TRUE(to_json(*report).contains("zstd_unpack_gbyte_s"));

  const auto plain = run_codec_bench(small("hack(k=2,v=2,range=minmax)"));
  ASSERT_TRUE(plain.ok()) << plain.status().to_string();
  EXPECT_EQ(plain->wire.bits_per_value, 0.0);
  EXPECT_FALSE(to_json(*plain).contains("wire_bits_per_value"));
}

TEST(CodecBench, RefusesWhatItCannotRun) {
  EXPECT_EQ(run_codec_bench(small("nonsense")).status().code(), Code::kInvalidArgument);
  CodecBenchOptions options = small("raw");
  options.tiles = 0;
  EXPECT_EQ(run_codec_bench(options).status().code(), Code::kInvalidArgument);
  options = small("hack");
  options.head_dim = 80;
  EXPECT_FALSE(run_codec_bench(options).ok());
  options = small("raw");
  options.kv_heads = 1024;
  options.head_dim = 256;
  options.tiles = 1u << 20;  // 384 TiB of values
  EXPECT_EQ(run_codec_bench(options).status().code(), Code::kResourceExhausted);
  const auto digest = codec::add_artifact("default: hack(k=2,v=2)\n");
  const auto profile = run_codec_bench(small("hadamard | profile(" + *digest + ")"));
  EXPECT_EQ(profile.status().code(), Code::kUnsupported);
}

}  // namespace
}  // namespace kvferry::bench
