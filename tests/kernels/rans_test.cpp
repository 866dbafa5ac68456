// rANS: what goes in comes out on every instruction set, models are what they say, and no stream,
// however damaged, makes decoding leave its buffers or pass for whole.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/rans_kernels.h"

namespace kvferry::kernels {
namespace {

using Bytes = std::vector<std::byte>;

struct CodedRun {
  RansModel model;
  Bytes bytes;
};

RansModel model_of(const Bytes& bytes) {
  std::uint32_t counts[kRansSymbols] = {};
  rans_count(bytes.data(), bytes.size(), counts);
  const std::vector<std::uint64_t> weights(std::begin(counts), std::end(counts));
  RansModel model{};
  rans_fit(weights, model.freq);
  return model;
}

// n bytes, symbol s with a probability that falls by `ratio` from one to the next.
CodedRun geometric_run(std::mt19937& random, std::size_t n, double ratio) {
  Bytes bytes(n);
  std::geometric_distribution<int> draw(1.0 - ratio);
  for (std::byte& b : bytes) b = static_cast<std::byte>(std::min(draw(random), 255) * 37);
  if (n == 0) return {model_of({std::byte{1}}), bytes};
  return {model_of(bytes), bytes};
}

Bytes encode_with(Isa isa, const std::vector<CodedRun>& runs, std::uint32_t lanes) {
  std::size_t room = 0;
  for (const CodedRun& run : runs) room += 2 * run.bytes.size() + 2 * kRansLanes;
  Bytes words(room);
  RansEncoder encoder;
  rans_start(encoder, lanes, words.data(), words.data() + words.size());
  static RansEncodeTable table;
  for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
    rans_encode_table(run->model, table);
    EXPECT_TRUE(rans_kernels(isa).encode(table, encoder, run->bytes.data(), run->bytes.size()));
  }
  const auto word_bytes = static_cast<std::size_t>(words.data() + words.size() - encoder.next);
  Bytes stream(rans_state_bytes(lanes) + word_bytes);
  std::memcpy(stream.data(), encoder.state, rans_state_bytes(lanes));
  std::memcpy(stream.data() + rans_state_bytes(lanes), encoder.next, word_bytes);
  return stream;
}

Bytes encode(const std::vector<CodedRun>& runs, std::uint32_t lanes) {
  const Bytes stream = encode_with(Isa::kScalar, runs, lanes);
  for (const Isa isa : available_isas()) {
    EXPECT_EQ(encode_with(isa, runs, lanes), stream) << isa_name(isa);
  }
  return stream;
}

// Decodes runs of the models and lengths of `runs` into `out`; whether the stream was whole.
bool decode(Isa isa, const std::vector<CodedRun>& runs, std::uint32_t lanes, const Bytes& stream,
            std::vector<Bytes>& out) {
  out.clear();
  RansDecoder decoder;
  if (!rans_open(decoder, lanes, stream)) return false;
  static RansDecodeTable table;
  for (const CodedRun& run : runs) {
    rans_kernels(isa).decode_table(run.model, table);
    out.emplace_back(run.bytes.size());
    if (!rans_kernels(isa).decode(table, decoder, out.back().data(), run.bytes.size())) {
      return false;
    }
  }
  return rans_closed(decoder);
}

bool is_whole(Isa isa, const std::vector<CodedRun>& runs, std::uint32_t lanes,
              const Bytes& stream) {
  std::vector<Bytes> out;
  if (!decode(isa, runs, lanes, stream, out)) return false;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (out[i] != runs[i].bytes) return false;
  }
  return true;
}

// By the number of states.
class Rans : public testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Lanes, Rans, testing::Values(kRansFewLanes, kRansLanes));

TEST_P(Rans, ComesBackOnEveryInstructionSet) {
  std::mt19937 random(1);
  for (const double ratio : {0.01, 0.5, 0.9, 0.99}) {
    for (const std::size_t n : {0, 1, 63, 64, 65, 127, 128, 1000, 4096, 20000}) {
      const std::vector<CodedRun> runs = {geometric_run(random, n, ratio)};
      const Bytes stream = encode(runs, GetParam());
      for (const Isa isa : available_isas()) {
        EXPECT_TRUE(is_whole(isa, runs, GetParam(), stream))
            << isa_name(isa) << " n=" << n << " r=" << ratio;
      }
    }
  }
}

TEST_P(Rans, RunsOfManyModelsShareAStream) {
  std::mt19937 random(2);
  std::vector<CodedRun> runs;
  for (int i = 0; i < 40; ++i) {
    runs.push_back(geometric_run(random, random() % 700, 0.05 + 0.02 * i));
  }
  const Bytes stream = encode(runs, GetParam());
  for (const Isa isa : available_isas()) {
    EXPECT_TRUE(is_whole(isa, runs, GetParam(), stream)) << isa_name(isa);
  }
}

TEST_P(Rans, LengthIsTheEntropy) {
  std::mt19937 random(3);
  const std::vector<CodedRun> runs = {geometric_run(random, 1 << 16, 0.8)};
  std::uint32_t counts[kRansSymbols] = {};
  rans_count(runs[0].bytes.data(), runs[0].bytes.size(), counts);
  double entropy_bits = 0.0;
  for (const std::uint32_t count : counts) {
    if (count != 0) entropy_bits -= count * std::log2(count / 65536.0);
  }
  const double bits = 8.0 * static_cast<double>(encode(runs, GetParam()).size());
  EXPECT_GT(bits, entropy_bits);
  // Above it are the states, half of which say something, and frequencies of 12 bits.
  EXPECT_LT(bits, entropy_bits * 1.002 + 8 * rans_state_bytes(GetParam()));
  const auto cost = static_cast<double>(rans_cost_bits(runs[0].model, counts));
  EXPECT_NEAR(bits, cost + 8 * rans_state_bytes(GetParam()) * 0.6,
              8 * rans_state_bytes(GetParam()) * 0.4);
}

// The bytes of a stream never change: both ends of a wire may be of different versions.
TEST_P(Rans, GoldenStream) {
  Bytes bytes(2000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * i % 7);
  const std::vector<CodedRun> runs = {{model_of(bytes), bytes}};
  const Bytes stream = encode(runs, GetParam());
  std::uint32_t sum = 0;
  for (const std::byte b : stream) sum = sum * 31 + static_cast<std::uint8_t>(b);
  const bool few = GetParam() == kRansFewLanes;
  EXPECT_EQ(stream.size(), few ? 544u : 640u);
  EXPECT_EQ(sum, few ? 1169434435u : 1866174214u);
}

TEST_P(Rans, RefusesEveryTruncation) {
  std::mt19937 random(4);
  const std::vector<CodedRun> runs = {geometric_run(random, 300, 0.7),
                                      geometric_run(random, 500, 0.9)};
  const Bytes stream = encode(runs, GetParam());
  for (const Isa isa : available_isas()) {
    for (std::size_t n = 0; n < stream.size(); ++n) {
      const Bytes cut(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(n));
      std::vector<Bytes> out;
      EXPECT_FALSE(decode(isa, runs, GetParam(), cut, out)) << isa_name(isa) << " " << n;
    }
    Bytes longer = stream;
    longer.resize(longer.size() + 2);
    EXPECT_FALSE(is_whole(isa, runs, GetParam(), longer));
  }
}

// Every byte of the stream inverted in turn: decoding ends, within its buffers (the sanitizers look
// on), and either says no or gives something; what it gives is the same everywhere.
TEST_P(Rans, SurvivesDamageAlikeEverywhere) {
  std::mt19937 random(5);
  const std::vector<CodedRun> runs = {geometric_run(random, 1000, 0.9),
                                      geometric_run(random, 77, 0.5)};
  const Bytes stream = encode(runs, GetParam());
  std::size_t passed = 0;
  for (std::size_t at = 0; at < stream.size(); ++at) {
    Bytes damaged = stream;
    damaged[at] ^= std::byte{0xff};
    std::vector<Bytes> expected, got;
    const bool whole = decode(Isa::kScalar, runs, GetParam(), damaged, expected);
    passed += whole ? 1 : 0;
    for (const Isa isa : available_isas()) {
      ASSERT_EQ(decode(isa, runs, GetParam(), damaged, got), whole) << isa_name(isa) << " " << at;
      if (whole) {
        ASSERT_EQ(got, expected);
      }
    }
  }
  EXPECT_EQ(passed, 0u);
}

TEST_P(Rans, SurvivesAnyStates) {
  std::mt19937 random(6);
  const std::vector<CodedRun> runs = {geometric_run(random, 5000, 0.9)};
  for (int round = 0; round < 50; ++round) {
    Bytes stream(rans_state_bytes(GetParam()) + random() % 8000);
    for (std::byte& b : stream) b = static_cast<std::byte>(random());
    if (round == 0) std::fill(stream.begin(), stream.end(), std::byte{0});
    if (round == 1) std::fill(stream.begin(), stream.end(), std::byte{0xff});
    for (const Isa isa : available_isas()) {
      std::vector<Bytes> out;
      EXPECT_FALSE(decode(isa, runs, GetParam(), stream, out));
    }
  }
}

TEST_P(Rans, EncodingStopsWhereRoomEnds) {
  std::mt19937 random(7);
  const CodedRun run = geometric_run(random, 4096, 0.99);
  static RansEncodeTable table;
  rans_encode_table(run.model, table);
  for (const Isa isa : available_isas()) {
    Bytes words(8 + 1000 + 8, std::byte{0x5a});
    RansEncoder encoder;
    rans_start(encoder, GetParam(), words.data() + 8, words.data() + 1008);
    EXPECT_FALSE(rans_kernels(isa).encode(table, encoder, run.bytes.data(), run.bytes.size()));
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(words[i], std::byte{0x5a}) << isa_name(isa);
      EXPECT_EQ(words[1008 + i], std::byte{0x5a}) << isa_name(isa);
    }
  }
}

TEST(RansModel, FitsAnyWeights) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::uint64_t> weights(round % 3 == 0 ? 256 : 2 + random() % 255);
    for (std::uint64_t& weight : weights) {
      weight = random() % 4 == 0 ? 0 : random() % (1 + (random() % (1u << (round % 24))));
    }
    if (std::accumulate(weights.begin(), weights.end(), std::uint64_t{0}) == 0) weights[1] = 1;
    RansModel model{};
    rans_fit(weights, model.freq);
    ASSERT_TRUE(rans_model_valid(model));
    const auto total =
        static_cast<double>(std::accumulate(weights.begin(), weights.end(), std::uint64_t{0}));
    const auto used = std::count_if(weights.begin(), weights.end(), [](auto w) { return w != 0; });
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double expected = static_cast<double>(weights[i]) / total * kRansTotal;
      if (weights[i] != 0) {
        ASSERT_GE(model.freq[i], 1u);
      }
      if (weights[i] == 0 && used > 1) {
        ASSERT_EQ(model.freq[i], 0u);
      }
      if (used > 1) {
        ASSERT_NEAR(model.freq[i], expected, 2.0 + expected / 16);
      }
    }
  }
}

TEST(RansModel, OneSymbolCostsNextToNothing) {
  const Bytes bytes(60000, std::byte{255});
  const std::vector<CodedRun> runs = {{model_of(bytes), bytes}};
  EXPECT_TRUE(rans_model_valid(runs[0].model));
  EXPECT_LT(encode(runs, kRansFewLanes).size(), rans_state_bytes(kRansFewLanes) + 8);
}

TEST(RansModel, ProductIsOfIndependentCodes) {
  const std::vector<std::uint16_t> codes = {1000, 96, 2000, 1000};
  RansModel model{};
  ASSERT_TRUE(rans_product_model(codes, model));
  ASSERT_TRUE(rans_model_valid(model));
  for (std::size_t byte = 0; byte < kRansSymbols; ++byte) {
    double expected = kRansTotal;
    for (int field = 0; field < 4; ++field) expected *= codes[byte >> (2 * field) & 3] / 4096.0;
    EXPECT_NEAR(model.freq[byte], expected, 1.5 + expected / 16) << byte;
    EXPECT_GE(model.freq[byte], 1u);
  }
  // A code that never occurs is in no byte; codes of one bit, whose products are the smallest.
  ASSERT_TRUE(rans_product_model(std::vector<std::uint16_t>{4095, 1, 0, 0}, model));
  EXPECT_EQ(model.freq[0b10], 0u);
  EXPECT_GE(model.freq[0b01], 1u);
  ASSERT_TRUE(rans_product_model(std::vector<std::uint16_t>{4095, 1}, model));
  EXPECT_GE(model.freq[255], 1u);
  EXPECT_TRUE(rans_model_valid(model));
}

TEST(RansModel, RefusesWhatIsNone) {
  RansModel model{};
  EXPECT_FALSE(rans_product_model(std::vector<std::uint16_t>{4096, 0}, model));
  EXPECT_FALSE(rans_product_model(std::vector<std::uint16_t>{2048, 2047}, model));
  EXPECT_FALSE(rans_product_model(std::vector<std::uint16_t>{2048, 2048, 0}, model));
  EXPECT_FALSE(rans_product_model(std::vector<std::uint16_t>{0xffff, 1, 0x1000, 0}, model));
  std::fill(std::begin(model.freq), std::end(model.freq), std::uint16_t{16});
  EXPECT_TRUE(rans_model_valid(model));
  model.freq[3] = 17;
  EXPECT_FALSE(rans_model_valid(model));
}

TEST(RansSplit, JoinsToTheSameBytes) {
  Bytes values(2 * 65536), back(2 * 65536);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto value = static_cast<std::uint16_t>(i * 40503u);
    std::memcpy(values.data() + 2 * i, &value, 2);
  }
  for (const Isa isa : available_isas()) {
    for (const std::size_t n : {1u, 15u, 32u, 100u, 65536u}) {
      Bytes exponent(n), rest(n);
      rans_kernels(isa).split_bf16(values.data(), n, exponent.data(), rest.data());
      std::fill(back.begin(), back.end(), std::byte{0});
      rans_kernels(isa).join_bf16(exponent.data(), rest.data(), n, back.data());
      EXPECT_TRUE(std::equal(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(2 * n),
                             back.begin()))
          << isa_name(isa) << " " << n;
    }
    const std::uint16_t minus_three = 0xc040;
    Bytes one(2);
    std::memcpy(one.data(), &minus_three, 2);
    std::byte exponent, rest;
    rans_kernels(isa).split_bf16(one.data(), 1, &exponent, &rest);
    EXPECT_EQ(exponent, std::byte{128});
    EXPECT_EQ(rest, std::byte{0xc0});
  }
}

}  // namespace
}  // namespace kvferry::kernels
