// What `kvferry codec measure` counts, against the formulas of bench/layer_errors.h and
// bench/codec_measure.h written out, and on the bundled model.
#include "bench/codec_measure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "bench/kv_data.h"
#include "bench/layer_errors.h"
#include "kernels/dense_kernels.h"

namespace kvferry::bench {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

std::string source_path(const std::string& path) {
  const char* root = std::getenv("KVFERRY_SOURCE_DIR");
  return (root != nullptr ? std::string(root) + "/" : "") + path;
}

CodecMeasureOptions mini() {
  CodecMeasureOptions options;
  options.model = source_path("models/mini");
  options.text = source_path("bench/mini.txt");
  options.codecs = {"raw", "hadamard | hack(k=8,v=8)", "hack(k=2,v=4)"};
  options.window = 320;
  options.passages = 3;
  return options;
}

TEST(Divergence, IsWhatItsFormulasSay) {
  // Probabilities 1/2, 1/4, 1/4 against 1/4, 1/2, 1/4, then equal ones.
  Passage passage;
  passage.ids = {7, 1, 0, 0};
  passage.measured = {0, 1};
  passage.answers = {{0, 1}, {1, 2}, {0, 2}};
  const float two = std::log(2.0f);
  const std::vector<float> raw = {two, 0, 0, 3, 0, 0}, codec = {0, two, 0, 3, 0, 0};
  ComputePool pool(1);
  const Divergence d = divergence(passage, raw, codec, 3, pool);
  const double kl = 0.5 * std::log(2.0) - 0.25 * std::log(2.0);
  EXPECT_NEAR(d.kl_sum, kl, 1e-6);
  const double second = std::log(std::exp(3.0) + 2.0) - 3.0;
  EXPECT_NEAR(d.nll_sum, std::log(2.0) + second, 1e-6);
  EXPECT_EQ(d.positions, 2u);
  EXPECT_EQ(d.agreed, 1u);
  EXPECT_EQ(d.answers, 3u);
  EXPECT_EQ(d.exact, 3u);  // 1, 0
  passage.ids[2] = 2;
  EXPECT_EQ(divergence(passage, raw, codec, 3, pool).exact, 1u);
}

// One layer, one KV head of 64 with two query heads, 150 tokens: made-up K, V and queries, encoded.
class OneHead : public testing::Test {
 protected:
  static constexpr std::uint32_t kTokens = 150, kDim = 64;
  const codec::KvGeometry geometry_{1, 1, 2, kDim};
  const std::vector<std::uint32_t> positions_ = {10, 64, 149};

  void SetUp() override {
    auto encoded = encode_sequence("hack(k=2,v=2)", geometry_, kTokens, Kind::kGaussian, 5);
    ASSERT_TRUE(encoded.ok());
    sequence_ = std::move(*encoded);
    queries_ = make_queries(6, 2 * kTokens, kDim);
    trace_ = std::make_unique<AttentionTrace>(geometry_, kTokens, positions_);
    record(0, 100);
    record(100, 50);
  }

  // As the model would tell it: the tiles of positions [start, start + rows) as they lie open.
  void record(std::uint32_t start, std::uint32_t rows) {
    model::AttentionInputs inputs;
    inputs.start = start;
    inputs.rows = rows;
    inputs.q = queries_.data() + start * 2 * kDim;
    inputs.q_stride = 2 * kDim;
    std::vector<std::vector<std::uint16_t>> tiles;
    inputs.dense_tile = [&](std::uint32_t tile) {
      const auto cut = [&](const std::vector<std::uint16_t>& from) {
        std::vector<std::uint16_t> part(64 * kDim, 0);
        const std::size_t n = std::min<std::size_t>(part.size(), from.size() - tile * part.size());
        std::copy_n(from.begin() + tile * part.size(), n, part.begin());
        tiles.push_back(std::move(part));
        return reinterpret_cast<std::byte*>(tiles.back().data());
      };
      return codec::OpenTile{cut(sequence_.k[0]), cut(sequence_.v[0])};
    };
    trace_->record(inputs, *sequence_.kv().codec);
  }

  EncodedSequence sequence_;
  std::vector<float> queries_;
  std::unique_ptr<AttentionTrace> trace_;
};

TEST_F(OneHead, ErrorsAreWhatTheirFormulasSay) {
  ComputePool pool(2);
  const auto exact = exact_attention(*trace_, pool);
  const auto errors = layer_errors(*trace_, exact, *trace_, sequence_.kv(), pool);
  ASSERT_EQ(errors.size(), 1u);

  std::vector<float> decoded_k(kTokens * kDim, 0.0f), decoded_v = decoded_k;
  for (std::uint32_t tile = 0; tile < 2; ++tile) {
    sequence_.kv().codec->reconstruct(geometry_, sequence_.kv().segment(0, tile), 0,
                                      decoded_k.data() + tile * 64 * kDim,
                                      decoded_v.data() + tile * 64 * kDim);
  }
  const auto value = [](std::uint16_t bits) { return double{kernels::f32_from_bf16(bits)}; };
  double score_error = 0, spread = 0, output_error = 0, output_square = 0;
  for (const std::uint32_t p : positions_) {
    for (std::uint32_t h = 0; h < 2; ++h) {
      const float* q = queries_.data() + (p * 2 + h) * kDim;
      std::vector<double> s(p + 1), e(p + 1, 0.0);
      for (std::uint32_t t = 0; t <= p; ++t) {
        for (std::uint32_t d = 0; d < kDim; ++d) {
          const double k = value(sequence_.k[0][t * kDim + d]);
          s[t] += q[d] * k / 8;
          if (t < p / 64 * 64) e[t] += q[d] * (decoded_k[t * kDim + d] - k) / 8;
        }
      }
      double s_mean = 0, e_mean = 0, sum = 0;
      for (std::uint32_t t = 0; t <= p; ++t) {
        s_mean += s[t] / (p + 1);
        e_mean += e[t] / (p + 1);
        sum += std::exp(s[t]);
      }
      for (std::uint32_t t = 0; t <= p; ++t) {
        spread += (s[t] - s_mean) * (s[t] - s_mean);
        score_error += (e[t] - e_mean) * (e[t] - e_mean);
      }
      for (std::uint32_t d = 0; d < kDim; ++d) {
        double output = 0, error = 0;
        for (std::uint32_t t = 0; t <= p; ++t) {
          const double v = value(sequence_.v[0][t * kDim + d]), w = std::exp(s[t]) / sum;
          output += w * v;
          if (t < p / 64 * 64) error += w * (decoded_v[t * kDim + d] - v);
        }
        output_square += output * output;
        output_error += error * error;
      }
    }
  }
  EXPECT_NEAR(errors[0].k(), std::sqrt(score_error / spread), 1e-5);
  EXPECT_NEAR(errors[0].v(), std::sqrt(output_error / output_square), 1e-5);
  EXPECT_GT(errors[0].k(), 0.01);
}

TEST_F(OneHead, SumsOfSequencesAddUp) {
  ComputePool pool(1);
  const auto exact = exact_attention(*trace_, pool);
  const auto errors = layer_errors(*trace_, exact, *trace_, sequence_.kv(), pool);
  LayerErrors twice = errors[0];
  twice.add(errors[0]);
  EXPECT_DOUBLE_EQ(twice.k(), errors[0].k());
  EXPECT_EQ(LayerErrors().k(), 0.0);
}

TEST(CodecMeasure, MoreBitsCostLessAndRawNothing) {
  const auto report = run_codec_measure(mini());
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->passages, 3u);
  ASSERT_EQ(report->codecs.size(), 3u);
  const CodecQuality &raw = report->codecs[0], &eight = report->codecs[1], &two = report->codecs[2];
  EXPECT_EQ(raw.kl, 0.0);
  EXPECT_EQ(raw.top1_agreement, 1.0);
  EXPECT_EQ(raw.perplexity, report->raw_perplexity);
  EXPECT_LT(eight.kl, two.kl / 10);
  EXPECT_GT(eight.top1_agreement, two.top1_agreement);
  ASSERT_EQ(two.layers.size(), 4u);
  for (std::size_t layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(raw.layers[layer].k_score_error, 0.0);
    EXPECT_EQ(raw.layers[layer].v_output_error, 0.0);
    EXPECT_LT(eight.layers[layer].k_score_error, 0.01);
    EXPECT_GT(two.layers[layer].k_score_error, 0.1);
    EXPECT_LT(two.layers[layer].k_score_error, 0.5);
  }
  EXPECT_EQ(two.closed_bits_per_value, 3.5);
  EXPECT_GT(two.bits_per_value, 3.5);  // headers, the first tile, the open one

  const auto json = to_json(*report);
  EXPECT_EQ(json.at("codecs").as_array()[1].at("spec").as_string(), "hadamard | hack(k=8,v=8)");
  EXPECT_EQ(json.at("codecs").as_array()[2].at("layers").as_array().size(), 4u);
  EXPECT_FALSE(json.contains("raw_exact_answers"));
  EXPECT_THAT(to_text(*report), HasSubstr("hack(k=2,v=4)"));
}

TEST(CodecMeasure, CountsExactAnswersOfQuestions) {
  CodecMeasureOptions options = mini();
  options.text.clear();
  options.questions = source_path("bench/mini_questions.jsonl");
  options.codecs = {"raw"};
  options.passages = 2;
  options.threads = 2;
  double fraction = 0.0;
  options.measuring = [&](double done) { fraction = done; };
  const auto report = run_codec_measure(options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->answers, 10u);
  EXPECT_GT(report->raw_exact_answers, 0.8);  // the model can do these
  EXPECT_EQ(report->codecs[0].exact_answers, report->raw_exact_answers);
  EXPECT_EQ(fraction, 1.0);
  EXPECT_TRUE(to_json(*report).contains("raw_exact_answers"));
}

TEST(CodecMeasure, AWireStageSparesBitsAndNothingElse) {
  CodecMeasureOptions options = mini();
  options.codecs = {"hack(k=2,v=2)", "hack(k=2,v=2) | rans"};
  options.passages = 1;
  const auto report = run_codec_measure(options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_LT(report->codecs[1].bits_per_value, report->codecs[0].bits_per_value);
  EXPECT_EQ(report->codecs[1].kl, report->codecs[0].kl);
}

// A preset stands beside what it stands for; one passage has no error of its mean.
TEST(CodecMeasure, RowsSayWhatWasGivenAndNoErrorOfOnePassage) {
  CodecMeasureOptions options = mini();
  options.codecs = {"kivi(k=2,v=2)", "raw"};
  options.passages = 1;
  const auto report = run_codec_measure(options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->codecs[0].given, "kivi(k=2,v=2)");
  EXPECT_FALSE(report->codecs[0].kl_standard_error.has_value());
  const std::string text = to_text(*report);
  EXPECT_THAT(text, HasSubstr("  kivi(k=2,v=2) = " + report->codecs[0].spec + "\n"));
  EXPECT_THAT(text, HasSubstr("  raw\n"));
  EXPECT_THAT(text, Not(HasSubstr("+-")));
  const auto json = to_json(*report);
  const auto& first = json.at("codecs").as_array()[0].as_object();
  EXPECT_EQ(first.at("given").as_string(), "kivi(k=2,v=2)");
  EXPECT_FALSE(first.contains("kl_standard_error"));
}

TEST(CodecMeasure, SaysOfWhichPassagesNothingIsEncoded) {
  const auto path = std::filesystem::path(testing::TempDir()) / "short_questions.jsonl";
  std::ofstream(path) << R"(["The pass key of Tom is 4. Which?", " 4\n"])"
                      << "\n";
  CodecMeasureOptions options = mini();
  options.text.clear();
  options.questions = path.string();
  options.codecs = {"hack(k=2,v=2)"};
  const auto report = run_codec_measure(options);
  std::filesystem::remove(path);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->codecs[0].passages_without_closed_tile, 1u);
  EXPECT_THAT(to_text(*report),
              HasSubstr("hack(k=2,v=2): 1 of 1 passages close no tile, so nothing is encoded"));
}

TEST(CodecMeasure, RefusesWhatItCannotRun) {
  const auto code = [](const CodecMeasureOptions& options) {
    return run_codec_measure(options).status().code();
  };
  CodecMeasureOptions options = mini();
  options.questions = options.text;
  EXPECT_EQ(code(options), Code::kInvalidArgument);
  options = mini();
  options.codecs = {"raw", "hakc"};
  EXPECT_EQ(code(options), Code::kInvalidArgument);
  EXPECT_THAT(run_codec_measure(options).status().message(), StartsWith("hakc: codec spec"));
  options.codecs.clear();
  EXPECT_EQ(code(options), Code::kInvalidArgument);
  options = mini();
  options.model = "random:tiny";
  EXPECT_THAT(run_codec_measure(options).status().message(), HasSubstr("has no tokenizer"));
  options = mini();
  options.text = "/no/such/file";
  EXPECT_EQ(code(options), Code::kNotFound);
}

}  // namespace
}  // namespace kvferry::bench
