#include "codec/describe.h"

#include <gtest/gtest.h>

#include <string>

#include "codec/segment.h"

namespace kvferry::codec {
namespace {

constexpr KvGeometry kLlama8b{32, 8, 32, 128};

CodecDescription describe(std::string_view spec, const std::vector<std::uint32_t>& tokens,
                          const TransferCost& cost = {}) {
  auto description = describe_codec(spec, kLlama8b, tokens, cost);
  EXPECT_TRUE(description.ok()) << description.status().to_string();
  return std::move(description).value();
}

TEST(Describe, TwoBitsAllIn) {
  const CodecDescription d = describe("hack(k=2,v=2)", {2048, 32768});
  EXPECT_EQ(d.points[0].closed_bits_per_value, 2.5);
  EXPECT_LE(d.points[0].bits_per_value, 2.75);
  EXPECT_GE(d.points[0].bits_per_value, 2.6875);  // 31 tiles at 2.5 and one at 8.5, no headers
  EXPECT_LE(d.points[1].bits_per_value, 2.6);
  EXPECT_GE(d.points[1].bits_per_value, 2.5);
}

TEST(Describe, OtherCodecs) {
  EXPECT_EQ(describe(kDefaultSpec, {64}).points[0].closed_bits_per_value, 3.5);
  EXPECT_EQ(describe("hack(k=8,v=8)", {64}).points[0].closed_bits_per_value, 8.5);
  EXPECT_EQ(describe("fp8(e5m2)", {64}).points[0].closed_bits_per_value, 8.0 + 4.0 / 128);
  EXPECT_EQ(describe("int8", {64}).points[0].closed_bits_per_value, 8.0 + 16.0 / 128);
  EXPECT_EQ(describe("int(k=2,v=2)", {64}).points[0].closed_bits_per_value, 2.5);
  EXPECT_EQ(describe("int(k=4,v=3,group=32)", {64}).points[0].closed_bits_per_value, 4.5);
  const CostPoint raw = describe("raw", {2048}).points[0];
  EXPECT_EQ(raw.closed_bits_per_value, 16.0);
  EXPECT_GT(raw.bits_per_value, 16.0);
  EXPECT_LT(raw.bits_per_value, 16.02);
}

// The parts add up to what segment_bytes says, plus frames.
TEST(Describe, EveryByteIsCounted) {
  for (const char* spec : {"raw", "hack(k=2,v=2)", "hadamard | hack(k=4,v=2)", "hack(k=8,v=8)",
                           "dequantize | hack", "fp8", "int8", "int(k=3,v=5,group=32)"}) {
    const auto codec = *make_codec(spec);
    for (const std::uint32_t tokens : {1u, 63u, 64u, 65u, 128u, 1000u}) {
      const CostPoint point = describe(spec, {tokens}).points[0];
      std::uint64_t segments = 0;
      for (std::uint32_t first = 0; first < tokens; first += kGridTokens) {
        segments += codec->segment_bytes(kLlama8b, 0, first / kGridTokens,
                                         std::min(kGridTokens, tokens - first));
      }
      EXPECT_EQ(point.bytes.total() - point.bytes.frame_headers - point.bytes.control_frames,
                kLlama8b.layers * segments)
          << spec << " " << tokens;
      EXPECT_EQ(point.values, std::uint64_t{tokens} * 2 * 32 * 8 * 128);
    }
  }
}

// A frame holds whole segments of one layer that closed in one chunk.
TEST(Describe, Frames) {
  const std::size_t segment = (*make_codec("raw"))->segment_bytes(kLlama8b, 0, 1, kGridTokens);
  const auto frames = [&](std::uint32_t tokens, std::size_t payload, std::uint32_t chunk = 4096) {
    const auto bytes = describe("raw", {tokens}, {100, payload, chunk, 7}).points[0].bytes;
    EXPECT_EQ(bytes.control_frames, bytes.frame_headers + 7 + 3);  // the spec's length
    return bytes.frame_headers / (100 * 32);
  };
  EXPECT_EQ(frames(64, segment), 1u);
  EXPECT_EQ(frames(4 * 64, 2 * segment), 2u);
  EXPECT_EQ(frames(5 * 64, 2 * segment + 1), 3u);
  EXPECT_EQ(frames(5 * 64, 100 * segment), 1u);
  EXPECT_EQ(frames(2 * 64, segment - 1), 2u);  // one that does not fit goes alone
  EXPECT_EQ(frames(63, 100 * segment), 1u);
  EXPECT_EQ(frames(5 * 64 + 1, 100 * segment), 2u);  // the open tile goes alone
  EXPECT_EQ(frames(16 * 64, 100 * segment, 512), 2u);
  EXPECT_EQ(frames(16 * 64, 100 * segment, 100), 11u);  // the chunks in which a tile closes
}

TEST(Describe, Errors) {
  EXPECT_EQ(describe_codec("hak", kLlama8b, {64}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(describe_codec("raw", kLlama8b, {0}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(describe_codec("hack", {32, 8, 32, 80}, {64}).status().code(), Code::kUnsupported);
  EXPECT_EQ(describe_codec("raw", kLlama8b, {64}, {128, 1 << 20, 0}).status().code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace kvferry::codec
