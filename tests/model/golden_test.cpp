// Logits of the bundled model against an independent NumPy forward pass (golden/make_golden.py).
#include <cmath>

#include "tests/model/model_fixture.h"
#include "tests/model/npy.h"

namespace kvferry::model {
namespace {

constexpr std::size_t kTokens = 200;
constexpr std::size_t kPositions[] = {0, 1, 62, 63, 64, 65, 127, 128, 199};

// Largest difference over the golden's positions, as a share of the largest golden logit.
double worst_difference(Compute compute, const std::string& spec) {
  const auto golden = read_npy(source_path("tests/model/golden/mini_logits.npy"));
  LoadedModel model(mini_path(), compute, 2);
  const std::size_t vocab = model->config().vocab;
  EXPECT_EQ(golden.size(), std::size(kPositions) * vocab);
  const auto ids = test_ids(kTokens, model->config().vocab);
  const auto answer = run_chunked(*model.model, codec_of(spec), ids, {kTokens});
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < golden.size(); ++i) {
    const double got = answer.logits[kPositions[i / vocab] * vocab + i % vocab];
    worst = std::max(worst, std::abs(got - golden[i]));
    largest = std::max(largest, static_cast<double>(std::abs(golden[i])));
  }
  return worst / largest;
}

TEST(Golden, ExactKvInF32) { EXPECT_LE(worst_difference(Compute::kF32, ""), 5e-6); }

// Windows on both sides: a codec that suddenly costs nothing is not being used.
TEST(Golden, CodecsCostWhatTheyShould) {
  const double raw = worst_difference(Compute::kF32, "raw");
  EXPECT_LE(raw, 2e-2);
  EXPECT_GE(raw, 1e-4);
  const double four_two = worst_difference(Compute::kF32, "hadamard | hack(k=4,v=2)");
  EXPECT_LE(four_two, 0.6);
  EXPECT_GE(four_two, raw);
}

TEST(Golden, AutoComputeIsClose) { EXPECT_LE(worst_difference(Compute::kAuto, "raw"), 4e-2); }

}  // namespace
}  // namespace kvferry::model
