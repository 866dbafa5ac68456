#include "model/random_model.h"

#include <cmath>
#include <cstring>
#include <mutex>

#include "base/hash.h"
#include "kernels/dense_kernels.h"

namespace kvferry::model {
namespace {

ModelConfig tiny() {
  ModelConfig c;
  c.hidden = 128, c.intermediate = 384, c.layers = 2;
  c.q_heads = 4, c.kv_heads = 2, c.head_dim = 64;
  c.vocab = 512, c.context = 4096;
  c.tied_embeddings = true;
  return c;
}

ModelConfig llama_3_2_1b() {
  ModelConfig c;
  c.hidden = 2048, c.intermediate = 8192, c.layers = 16;
  c.q_heads = 32, c.kv_heads = 8, c.head_dim = 64;
  c.vocab = 128256, c.context = 131072;
  c.rope_theta = 500000.0f;
  c.tied_embeddings = true;
  return c;
}

ModelConfig llama_3_1_8b_4layers() {
  ModelConfig c;
  c.hidden = 4096, c.intermediate = 14336, c.layers = 4;
  c.q_heads = 32, c.kv_heads = 8, c.head_dim = 128;
  c.vocab = 128256, c.context = 131072;
  c.rope_theta = 500000.0f;
  return c;
}

struct Shape {
  std::string_view name;
  ModelConfig (*config)();
};
constexpr Shape kShapes[] = {
    {"tiny", tiny}, {"llama-3.2-1b", llama_3_2_1b}, {"llama-3.1-8b-4layers", llama_3_1_8b_4layers}};

class RandomSource : public TensorSource {
 public:
  Result<TensorRef> find(const std::string& name, std::uint32_t rows,
                         std::uint32_t columns) const override {
    const std::lock_guard lock(mutex_);
    // A vector is a norm's weight.
    keys_.push_back({hash64(std::string_view(name)), rows == 0});
    return TensorRef{keys_.size() - 1, rows == 0 ? 1 : rows, columns};
  }

  std::vector<std::string> names() const override { return {}; }
  Status read_status() const override { return ok_status(); }

  void read_rows(const TensorRef& tensor, std::uint32_t row0, std::uint32_t count, Compute type,
                 std::byte* out) const override {
    Key key;
    {
      const std::lock_guard lock(mutex_);
      key = keys_[tensor.index];
    }
    const float scale =
        std::sqrt(3.0f / static_cast<float>(tensor.columns)) * 0x1p-15f;  // of a 16-bit integer
    const std::size_t first = std::size_t{row0} * tensor.columns;
    const std::size_t values = std::size_t{count} * tensor.columns;
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < values; ++i) {
      const std::size_t at = first + i;
      // Four values from one draw.
      if (i == 0 || at % 4 == 0) bits = counter_random(key.hash, at / 4);
      const auto draw = static_cast<std::int16_t>(bits >> (at % 4 * 16));
      const float value = key.ones ? 1.0f : (static_cast<float>(draw) + 0.5f) * scale;
      const std::uint16_t half = kernels::bf16_from_f32(value);
      if (type == Compute::kBf16) {
        std::memcpy(out + i * 2, &half, 2);
      } else {
        const float rounded = kernels::f32_from_bf16(half);
        std::memcpy(out + i * 4, &rounded, 4);
      }
    }
  }

 private:
  struct Key {
    std::uint64_t hash = 0;
    bool ones = false;
  };
  mutable std::mutex mutex_;
  mutable std::vector<Key> keys_;
};

}  // namespace

std::optional<std::string_view> random_model_name(std::string_view model) {
  constexpr std::string_view kPrefix = "random:";
  if (!model.starts_with(kPrefix)) return std::nullopt;
  return model.substr(kPrefix.size());
}

Result<ModelConfig> random_model_config(std::string_view name) {
  std::string names;
  for (const auto& shape : kShapes) {
    if (shape.name == name) {
      ModelConfig config = shape.config();
      config.name = "random:" + std::string(name);
      return config;
    }
    names += (names.empty() ? "" : ", ") + std::string(shape.name);
  }
  return not_found("no random model '" + std::string(name) + "'; there are " + names);
}

std::unique_ptr<TensorSource> make_random_source() { return std::make_unique<RandomSource>(); }

}  // namespace kvferry::model
