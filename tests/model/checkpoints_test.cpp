// The tiny checkpoints of tests/golden/checkpoints, one for each architecture and option, against
// the logits that transformers computes from them (tests/golden/make_checkpoints.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/model/model_fixture.h"
#include "tests/model/npy.h"

namespace kvferry::model {
namespace {

namespace json = boost::json;

struct Golden {
  std::vector<std::size_t> positions;
  std::vector<float> logits;  // [positions][vocab]
  std::size_t tokens = 0;
  double bf16_rms = 0, largest = 0;
};

std::string directory_of(const std::string& name) {
  return source_path("tests/golden/checkpoints/" + name);
}

Golden read_golden(const std::string& name) {
  std::ifstream in(directory_of(name) + "/golden.json");
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const json::object object = json::parse(text).as_object();
  Golden golden;
  golden.tokens = static_cast<std::size_t>(object.at("tokens").as_int64());
  golden.bf16_rms = object.at("bf16_rms").as_double();
  for (const auto& p : object.at("positions").as_array()) {
    golden.positions.push_back(static_cast<std::size_t>(p.as_int64()));
  }
  golden.logits = read_npy(directory_of(name) + "/golden.npy");
  for (float x : golden.logits) {
    golden.largest = std::max(golden.largest, static_cast<double>(std::abs(x)));
  }
  return golden;
}

// Our logits at the golden's positions.
std::vector<float> logits_of(const std::string& name, const Golden& golden, Compute compute,
                             const std::string& spec) {
  LoadedModel model(directory_of(name), compute, 2);
  const std::size_t vocab = model->config().vocab;
  EXPECT_EQ(golden.logits.size(), golden.positions.size() * vocab);
  const auto ids = test_ids(golden.tokens, model->config().vocab);
  const Answer answer = run_chunked(*model.model, codec_of(spec), ids, {100, 60});
  std::vector<float> rows;
  for (std::size_t position : golden.positions) {
    const auto row = answer.logits.begin() + static_cast<std::ptrdiff_t>(position * vocab);
    rows.insert(rows.end(), row, row + static_cast<std::ptrdiff_t>(vocab));
  }
  return rows;
}

class Checkpoints : public testing::TestWithParam<const char*> {};

TEST_P(Checkpoints, F32IsThatOfTransformers) {
  const Golden golden = read_golden(GetParam());
  const auto got = logits_of(GetParam(), golden, Compute::kF32, "");
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    worst = std::max(worst, static_cast<double>(std::abs(got[i] - golden.logits[i])));
  }
  RecordProperty("worst", std::to_string(worst / golden.largest));
  EXPECT_LE(worst, 5e-4 * golden.largest);
  EXPECT_GT(golden.largest, 1.0);
}

// No further from float32 than 1.5 times what transformers' own bfloat16 run is, and the same
// argmax wherever that could not hide it. (Where the CPU has no bf16 products, kAuto is f32.)
TEST_P(Checkpoints, Bf16IsAsCloseAsThatOfTransformers) {
  const Golden golden = read_golden(GetParam());
  const auto got = logits_of(GetParam(), golden, Compute::kAuto, "raw");
  double square = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    square += std::pow(static_cast<double>(got[i]) - golden.logits[i], 2);
  }
  const double rms = std::sqrt(square / static_cast<double>(got.size()));
  RecordProperty("rms_of_transformers", std::to_string(rms / golden.bf16_rms));
  EXPECT_LE(rms, 1.5 * golden.bf16_rms);
  const std::size_t vocab = got.size() / golden.positions.size();
  std::size_t compared = 0;
  for (std::size_t row = 0; row < golden.positions.size(); ++row) {
    const auto from = golden.logits.begin() + static_cast<std::ptrdiff_t>(row * vocab);
    std::vector<float> sorted(from, from + static_cast<std::ptrdiff_t>(vocab));
    const auto best = std::max_element(sorted.begin(), sorted.end()) - sorted.begin();
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    if (sorted[0] - sorted[1] <= 4 * golden.bf16_rms) continue;
    const auto ours = got.begin() + static_cast<std::ptrdiff_t>(row * vocab);
    EXPECT_EQ(std::max_element(ours, ours + static_cast<std::ptrdiff_t>(vocab)) - ours, best);
    ++compared;
  }
  EXPECT_GT(compared, golden.positions.size() / 2);
}

TEST(CheckpointConfigs, SayWhatTheArchitectureIs) {
  const auto config = [](const std::string& name) { return *load_config(directory_of(name)); };
  EXPECT_EQ(config("llama3").eos_ids, (std::vector<std::int32_t>{2, 5, 9}));
  EXPECT_EQ(config("llama3").rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(config("llama3").rope_scaling.original_context, 64);
  EXPECT_TRUE(config("llama3").tied_embeddings);
  EXPECT_EQ(config("llama-linear").rope_scaling.factor, 4);
  EXPECT_TRUE(config("llama-linear").qkv_bias && config("llama-linear").output_bias);
  EXPECT_EQ(config("llama2").head_dim, 16u);  // not in the file
  EXPECT_EQ(config("mistral").architecture, Architecture::kMistral);
  EXPECT_TRUE(config("qwen2").qkv_bias && !config("qwen2").output_bias);
  EXPECT_TRUE(config("qwen3").qk_norm && !config("qwen3").qkv_bias);
}

INSTANTIATE_TEST_SUITE_P(All, Checkpoints,
                         testing::Values("llama2", "llama3", "llama-linear", "mistral", "qwen2",
                                         "qwen3"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace kvferry::model
