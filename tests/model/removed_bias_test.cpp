// Biases that codecs leave out of K and V: what it buys on a model with large biases, and that what
// is left out comes back.
#include "model/removed_bias.h"

#include <cmath>

#include "model/rope.h"
#include "tests/model/model_fixture.h"

namespace kvferry::model {
namespace {

// A codec that does not ask for biases to be left out, and is another one in everything else.
class KeepsBias final : public codec::Codec {
 public:
  explicit KeepsBias(std::shared_ptr<const codec::Codec> inner)
      : Codec(without_removal(inner->traits()), inner->spec()), inner_(std::move(inner)) {}

  Status supports(const codec::KvGeometry& geometry) const override {
    return inner_->supports(geometry);
  }
  void to_domain_q(float* x, std::size_t heads, std::size_t head_dim) const override {
    inner_->to_domain_q(x, heads, head_dim);
  }
  void to_domain_k(float* x, std::size_t heads, std::size_t head_dim) const override {
    inner_->to_domain_k(x, heads, head_dim);
  }
  void to_domain_v(float* x, std::size_t heads, std::size_t head_dim) const override {
    inner_->to_domain_v(x, heads, head_dim);
  }
  void from_domain_o(float* x, std::size_t heads, std::size_t head_dim) const override {
    inner_->from_domain_o(x, heads, head_dim);
  }
  std::size_t segment_bytes(const codec::KvGeometry& geometry, std::uint32_t layer,
                            std::uint32_t tile, std::uint32_t tokens) const override {
    return inner_->segment_bytes(geometry, layer, tile, tokens);
  }
  Status encode(const codec::KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                std::uint32_t tokens, const codec::OpenTile& input,
                std::span<std::byte> out) const override {
    return inner_->encode(geometry, layer, tile, tokens, input, out);
  }
  Status validate(const codec::KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                  std::uint32_t tokens, std::span<const std::byte> segment) const override {
    return inner_->validate(geometry, layer, tile, tokens, segment);
  }
  void attend_all(const codec::KvGeometry& geometry,
                  std::span<const codec::AttendWork> works) const override {
    inner_->attend_all(geometry, works);
  }
  void reconstruct(const codec::KvGeometry& geometry, std::span<const std::byte> segment,
                   std::uint32_t kv_head, float* k, float* v) const override {
    inner_->reconstruct(geometry, segment, kv_head, k, v);
  }
  void load_open(const codec::KvGeometry& geometry, std::span<const std::byte> segment,
                 const codec::OpenTile& out) const override {
    inner_->load_open(geometry, segment, out);
  }

 private:
  static codec::CodecTraits without_removal(codec::CodecTraits traits) {
    EXPECT_TRUE(traits.removes_bias);
    traits.removes_bias = false;
    return traits;
  }
  std::shared_ptr<const codec::Codec> inner_;
};

constexpr std::size_t kTokens = 400;

std::string biased_model() { return source_path("tests/golden/checkpoints/qwen2"); }

// Root mean square difference of all logits behind the first tile, over that of the logits
// themselves.
double logits_error(Model& model, std::shared_ptr<const codec::Codec> codec,
                    const std::vector<float>& exact) {
  const auto ids = test_ids(kTokens, model.config().vocab);
  const Answer answer = run_chunked(model, std::move(codec), ids, {kTokens});
  double error = 0, square = 0;
  for (std::size_t i = 64 * model.config().vocab; i < exact.size(); ++i) {
    error += std::pow(static_cast<double>(answer.logits[i]) - exact[i], 2);
    square += std::pow(exact[i], 2);
  }
  return std::sqrt(error / square);
}

TEST(RemovedBias, CostsLessErrorThanKeepingIt) {
  LoadedModel model(biased_model(), Compute::kF32, 2);
  const auto ids = test_ids(kTokens, model->config().vocab);
  const auto exact = run_chunked(*model.model, codec_of(""), ids, {kTokens}).logits;
  const struct {
    const char* spec;
    double gain, at_most;
  } cases[] = {{"hadamard | hack(k=4,v=2)", 1.05, 0.25},
               {"hadamard | hack(k=2,v=2)", 1.3, 0.35},
               {"hack(k=4,v=4)", 1.2, 0.1},
               {"hadamard | hack(k=4,v=8)", 1.5, 0.1},
               {"hadamard | hack(k=8,v=8)", 1.2, 0.03}};
  for (const auto& c : cases) {
    const double removed = logits_error(*model.model, codec_of(c.spec), exact);
    const double kept =
        logits_error(*model.model, std::make_shared<KeepsBias>(codec_of(c.spec)), exact);
    RecordProperty(c.spec, std::to_string(removed) + " against " + std::to_string(kept));
    EXPECT_LT(c.gain * removed, kept) << c.spec;
    EXPECT_LT(removed, c.at_most) << c.spec;
  }
}

// Which pairs, and that the id says so.
TEST(RemovedBias, LargeBiasesOfFastPairsAreLeftOut) {
  ModelConfig config;
  config.q_heads = 2, config.kv_heads = 2, config.head_dim = 16, config.layers = 1;
  config.rope_theta = 1e6f;
  const auto frequencies = rope_frequencies(config);  // pairs 0..2 turn within 512 tokens
  std::vector<float> bias(32, 0.1f), deviation(32, 1.0f), none;
  bias[0] = 0.6f;                      // pair 0 of head 0: over half a deviation
  bias[16 + 2 + 8] = -9.0f;            // pair 2 of head 1, by its second channel
  bias[16 + 5] = 100.0f;               // too slow
  deviation[1] = deviation[9] = 0.1f;  // pair 1 of head 0: large against what it deviates
  const RemovedBias::Layer layer{bias, none, deviation};
  const RemovedBias removed(config, frequencies, std::span(&layer, 1));
  EXPECT_EQ(removed.pairs(0, 0), 2u);
  EXPECT_EQ(removed.pairs(0, 1), 1u);
  EXPECT_EQ(removed.most_pairs(), 2u);
  EXPECT_NE(removed.id(), 0u);
  std::vector<float> kept = bias;
  for (std::size_t at : {0, 8, 1, 9, 18, 26}) kept[at] = 0.0f;
  EXPECT_EQ(removed.kept_k(0), kept);

  deviation[1] = deviation[9] = 1.0f;
  const RemovedBias other(config, frequencies, std::span(&layer, 1));
  EXPECT_EQ(other.pairs(0, 0), 1u);
  EXPECT_NE(other.id(), removed.id());

  config.qk_norm = true;
  const RemovedBias normed(config, frequencies, std::span(&layer, 1));
  EXPECT_EQ(normed.most_pairs(), 0u);
  EXPECT_EQ(normed.kept_k(0), bias);
  EXPECT_EQ(normed.id(), 0u);
  const RemovedBias::Layer with_v{bias, bias, deviation};
  EXPECT_NE(RemovedBias(config, frequencies, std::span(&with_v, 1)).id(), 0u);
}

// q . RoPE_t(b) in double, at positions as far as contexts go.
TEST(RemovedBias, ScoresComeBackExactly) {
  ModelConfig config;
  config.q_heads = config.kv_heads = 1, config.head_dim = 16, config.layers = 1;
  config.rope_theta = 1e6f;
  const auto frequencies = rope_frequencies(config);
  std::vector<float> bias(16, 0.0f), deviation(16, 1.0f), q(16);
  for (std::size_t i = 0; i < 16; ++i) q[i] = std::sin(static_cast<float>(3 * i + 1));
  for (std::size_t pair : {0, 1, 2}) {
    bias[pair] = 10.0f + static_cast<float>(pair);
    bias[pair + 8] = -7.0f;
  }
  const RemovedBias::Layer layer{bias, {}, deviation};
  RemovedBias removed(config, frequencies, std::span(&layer, 1));
  ASSERT_EQ(removed.pairs(0, 0), 3u);
  removed.reserve(2001);
  std::vector<float> terms(6), out(64);
  removed.query_terms(0, 0, q.data(), 0.25f, terms.data());
  for (std::uint32_t tile : {0u, 1u, 17u, 2000u}) {
    removed.add_scores(0, 0, tile, terms.data(), 1, out.data());
    for (std::uint32_t t = 0; t < 64; ++t) {
      double want = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        const double angle = (64.0 * tile + t) * frequencies[i];
        want += q[i] * (bias[i] * std::cos(angle) - bias[i + 8] * std::sin(angle));
        want += q[i + 8] * (bias[i + 8] * std::cos(angle) + bias[i] * std::sin(angle));
      }
      ASSERT_NEAR(out[t], 0.25 * want, 1e-5) << tile << " " << t;
    }
  }
}

TEST(RemovedBias, IsInTheGeometryOfALoadedModel) {
  LoadedModel biased(biased_model(), Compute::kF32, 1);
  EXPECT_NE(biased->config().kv_geometry().removed_bias, 0u);
  LoadedModel plain(source_path("tests/golden/checkpoints/llama3"), Compute::kF32, 1);
  EXPECT_EQ(plain->config().kv_geometry().removed_bias, 0u);
}

}  // namespace
}  // namespace kvferry::model
