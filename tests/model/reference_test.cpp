// A checkpoint of awkward sizes and mixed dtypes against a naive forward pass in double: no size is
// a multiple of a panel or a vector, the head is its own matrix, and 5 query heads share one KV
// head.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/hash.h"
#include "kernels/dense_kernels.h"
#include "tests/model/model_fixture.h"

namespace kvferry::model {
namespace {

namespace fs = std::filesystem;

constexpr int kHidden = 83, kInner = 203, kHeads = 5, kHeadDim = 16, kVocab = 333, kLayers = 2;
constexpr double kEps = 1e-5, kTheta = 10000.0;
using Vector = std::vector<double>;

class Checkpoint {
 public:
  Checkpoint() {
    add("model.embed_tokens.weight", kVocab, kHidden, "F32");
    add("lm_head.weight", kVocab, kHidden, "F16");
    add("model.norm.weight", 0, kHidden, "F32");
    for (int i = 0; i < kLayers; ++i) {
      const std::string p = "model.layers." + std::to_string(i) + ".";
      add(p + "input_layernorm.weight", 0, kHidden, "BF16");
      add(p + "post_attention_layernorm.weight", 0, kHidden, "F32");
      add(p + "self_attn.q_proj.weight", kHeads * kHeadDim, kHidden, "F32");
      add(p + "self_attn.k_proj.weight", kHeadDim, kHidden, "BF16");
      add(p + "self_attn.v_proj.weight", kHeadDim, kHidden, "F16");
      add(p + "self_attn.o_proj.weight", kHidden, kHeads * kHeadDim, "F32");
      add(p + "mlp.gate_proj.weight", kInner, kHidden, "F32");
      add(p + "mlp.up_proj.weight", kInner, kHidden, "BF16");
      add(p + "mlp.down_proj.weight", kHidden, kInner, "F32");
    }
  }

  void write(const fs::path& directory) const {
    fs::create_directories(directory);
    std::ofstream(directory / "config.json")
        << "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":" << kHidden
        << ",\"intermediate_size\":" << kInner << ",\"num_hidden_layers\":" << kLayers
        << ",\"num_attention_heads\":" << kHeads
        << ",\"num_key_value_heads\":1,\"head_dim\":" << kHeadDim << ",\"vocab_size\":" << kVocab
        << ",\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"max_position_embeddings\":512}";
    const std::string header = "{" + header_ + "}";
    const std::uint64_t n = header.size();
    std::ofstream out(directory / "model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&n), 8);
    out << header << data_;
  }
  const Vector& operator[](const std::string& name) const { return values_.at(name); }

 private:
  // Values of +-2 / sqrt(columns) on a grid of 1/64, so that every dtype holds them nearly.
  void add(const std::string& name, int rows, int columns, const std::string& dtype) {
    const int count = std::max(rows, 1) * columns;
    const double scale = rows == 0 ? 1.0 : 2.0 / std::sqrt(columns);
    const std::size_t begin = data_.size();
    Vector& values = values_[name];
    for (int i = 0; i < count; ++i) {
      const auto draw = counter_random(hash64(std::string_view(name)), i) % 129;
      const float x = static_cast<float>((static_cast<double>(draw) / 64 - 1) * scale);
      values.push_back(append(x, dtype));
    }
    header_ += (header_.empty() ? "" : ",") + ("\"" + name) + "\":{\"dtype\":\"" + dtype +
               "\",\"shape\":[" + (rows == 0 ? "" : std::to_string(rows) + ",") +
               std::to_string(columns) + "],\"data_offsets\":[" + std::to_string(begin) + "," +
               std::to_string(data_.size()) + "]}";
  }
  double append(float x, const std::string& dtype) {
    if (dtype == "F32") {
      data_.append(reinterpret_cast<const char*>(&x), 4);
      return x;
    }
    std::uint16_t half = kernels::bf16_from_f32(x);
    float stored = kernels::f32_from_bf16(half);
    if (dtype == "F16") {  // normal numbers only, cut to 10 bits
      std::uint32_t bits;
      std::memcpy(&bits, &x, 4);
      bits &= ~0x1fffu;
      const bool small = std::abs(x) < 0x1p-14f;
      half = small ? 0
                   : static_cast<std::uint16_t>((bits >> 16 & 0x8000u) |
                                                ((bits >> 13 & 0x3ffffu) - (112u << 10)));
      std::memcpy(&stored, &bits, 4);
      if (small) stored = 0;
    }
    data_.append(reinterpret_cast<const char*>(&half), 2);
    return stored;
  }

  std::string header_, data_;
  std::map<std::string, Vector> values_;
};

Vector product(const Vector& w, const Vector& x) {
  Vector y(w.size() / x.size(), 0.0);
  for (std::size_t i = 0; i < w.size(); ++i) y[i / x.size()] += w[i] * x[i % x.size()];
  return y;
}

Vector norm(const Vector& x, const Vector& weight) {
  double sum = 0;
  for (double value : x) sum += value * value;
  Vector y = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] *= weight[i] / std::sqrt(sum / static_cast<double>(x.size()) + kEps);
  }
  return y;
}

void rotate(double* x, int position) {
  for (int i = 0; i < kHeadDim / 2; ++i) {
    const double angle = position * std::pow(kTheta, -2.0 * i / kHeadDim);
    const double a = x[i], b = x[i + kHeadDim / 2];
    x[i] = a * std::cos(angle) - b * std::sin(angle);
    x[i + kHeadDim / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
}

// Attention of one head's query over all keys so far.
void attend(const double* q, const std::vector<Vector>& keys, const std::vector<Vector>& values,
            double* out) {
  double sum = 0;
  for (std::size_t t = 0; t < keys.size(); ++t) {
    double score = 0;
    for (int i = 0; i < kHeadDim; ++i) score += q[i] * keys[t][i] / std::sqrt(kHeadDim);
    sum += std::exp(score);
    for (int i = 0; i < kHeadDim; ++i) out[i] += std::exp(score) * values[t][i];
  }
  for (int i = 0; i < kHeadDim; ++i) out[i] /= sum;
}

std::vector<Vector> reference_logits(const Checkpoint& w, const std::vector<std::int32_t>& ids) {
  std::vector<std::vector<Vector>> keys(kLayers), values(kLayers);
  std::vector<Vector> logits;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const auto embedding = w["model.embed_tokens.weight"].begin() + ids[t] * kHidden;
    Vector x(embedding, embedding + kHidden);
    const auto add = [&](const Vector& y) {
      for (int i = 0; i < kHidden; ++i) x[i] += y[i];
    };
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::string p = "model.layers." + std::to_string(layer) + ".";
      Vector h = norm(x, w[p + "input_layernorm.weight"]);
      Vector q = product(w[p + "self_attn.q_proj.weight"], h);
      Vector k = product(w[p + "self_attn.k_proj.weight"], h);
      for (int head = 0; head < kHeads; ++head) {
        rotate(q.data() + head * kHeadDim, static_cast<int>(t));
      }
      rotate(k.data(), static_cast<int>(t));
      keys[layer].push_back(k);
      values[layer].push_back(product(w[p + "self_attn.v_proj.weight"], h));
      Vector o(kHeads * kHeadDim, 0.0);
      for (int head = 0; head < kHeads; ++head) {
        attend(q.data() + head * kHeadDim, keys[layer], values[layer], o.data() + head * kHeadDim);
      }
      add(product(w[p + "self_attn.o_proj.weight"], o));
      h = norm(x, w[p + "post_attention_layernorm.weight"]);
      Vector gate = product(w[p + "mlp.gate_proj.weight"], h);
      const Vector up = product(w[p + "mlp.up_proj.weight"], h);
      for (int i = 0; i < kInner; ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      add(product(w[p + "mlp.down_proj.weight"], gate));
    }
    logits.push_back(product(w["lm_head.weight"], norm(x, w["model.norm.weight"])));
  }
  return logits;
}

TEST(Reference, AwkwardSizesAndDtypes) {
  const fs::path directory = fs::path(testing::TempDir()) / "kvferry_reference";
  const Checkpoint checkpoint;
  checkpoint.write(directory);
  const auto ids = test_ids(150, kVocab);
  const auto want = reference_logits(checkpoint, ids);
  LoadedModel model(directory.string(), Compute::kF32, 2);
  const auto got = run_chunked(*model.model, codec_of(""), ids, {ids.size()});
  ASSERT_EQ(got.logits.size(), ids.size() * kVocab);
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < got.logits.size(); ++i) {
    const double expected = want[i / kVocab][i % kVocab];
    largest = std::max(largest, std::abs(expected));
    worst = std::max(worst, std::abs(got.logits[i] - expected));
  }
  EXPECT_LE(worst, 1e-5 * largest);
  EXPECT_GT(largest, 1.0);
  expect_same(got, run_chunked(*model.model, codec_of(""), ids, {33, 1}), kVocab, "33, then 1");
  fs::remove_all(directory);
}

}  // namespace
}  // namespace kvferry::model
