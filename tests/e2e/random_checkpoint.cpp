#include "random_checkpoint.h"

#include <bit>
#include <boost/json.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/hash.h"
#include "cluster_fixture.h"
#include "kernels/dense_kernels.h"

namespace kvferry::e2e {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::uint32_t kHidden = 64, kIntermediate = 128, kLayers = 2, kVocab = 1024;
constexpr std::uint32_t kQHeads = 4, kKvHeads = 2, kHeadDim = 64;
// Of rope's 32 pairs: wavelengths of 6, 15, 23 and 84 tokens at a theta of 1,000,000, which codecs
// leave out, and of 35,000, which stays.
constexpr std::uint32_t kBiasedPairs[] = {0, 2, 3, 6, 20};

struct Kind {
  std::string name, architecture;
  json::object config;  // beside what all share
  std::string dtype;
  bool tied = false, qkv_bias = false, qk_norm = false;
};

Result<Kind> find_kind(const std::string& name) {
  const json::object llama3{{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 512}};
  const Kind kinds[] = {
      {"llama3", "LlamaForCausalLM", {{"rope_theta", 5e5}, {"rope_scaling", llama3}}, "BF16", true},
      {"llama2", "LlamaForCausalLM", {{"rope_theta", 1e4}}, "F16"},
      {"mistral", "MistralForCausalLM", {{"rope_theta", 1e6}, {"sliding_window", nullptr}}, "BF16"},
      {"qwen2", "Qwen2ForCausalLM", {{"rope_theta", 1e6}}, "BF16", false, true},
      {"qwen3", "Qwen3ForCausalLM", {{"rope_theta", 1e6}}, "F32", true, false, true},
  };
  for (const Kind& kind : kinds) {
    if (kind.name == name) return kind;
  }
  return not_found("no architecture " + name);
}

void write_config(const Kind& kind, const fs::path& path) {
  json::object config{{"architectures", {kind.architecture}},
                      {"hidden_size", kHidden},
                      {"intermediate_size", kIntermediate},
                      {"num_hidden_layers", kLayers},
                      {"num_attention_heads", kQHeads},
                      {"num_key_value_heads", kKvHeads},
                      {"head_dim", kHeadDim},
                      {"vocab_size", kVocab},
                      {"max_position_embeddings", 4096},
                      {"rms_norm_eps", 1e-5},
                      {"hidden_act", "silu"},
                      {"tie_word_embeddings", kind.tied},
                      {"bos_token_id", 1},
                      {"eos_token_id", 0}};
  for (const auto& [key, value] : kind.config) config[key] = value;
  std::ofstream(path) << json::serialize(config) << "\n";
}

// Deviation 1: the sum of four uniform numbers, without libm, so equal on every machine.
float noise(std::uint64_t key, std::uint64_t counter) {
  const std::uint64_t bits = counter_random(key, counter);
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>(bits >> (16 * i) & 0xffff);
  return (sum / 65536 - 2) * 1.7320508f;
}

struct Tensor {
  std::string name;
  std::vector<std::uint32_t> shape;
  float mean, deviation;
};

std::vector<Tensor> list_tensors(const Kind& kind) {
  const std::uint32_t q = kQHeads * kHeadDim, kv = kKvHeads * kHeadDim;
  std::vector<Tensor> tensors;
  const auto norm = [&](const std::string& name, std::uint32_t channels) {
    tensors.push_back({name + ".weight", {channels}, 1, 0.2f});
  };
  const auto linear = [&](const std::string& name, std::uint32_t rows, std::uint32_t columns,
                          float gain) {
    tensors.push_back({name + ".weight", {rows, columns}, 0, gain / std::sqrt(float(columns))});
  };
  tensors.push_back({"model.embed_tokens.weight", {kVocab, kHidden}, 0, 0.4f});
  norm("model.norm", kHidden);
  if (!kind.tied) linear("lm_head", kVocab, kHidden, 3);
  for (std::uint32_t i = 0; i < kLayers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm", kHidden);
    norm(layer + "post_attention_layernorm", kHidden);
    const std::string attention = layer + "self_attn.";
    linear(attention + "q_proj", q, kHidden, 1.5f);
    linear(attention + "k_proj", kv, kHidden, 1.5f);
    linear(attention + "v_proj", kv, kHidden, 2);
    linear(attention + "o_proj", kHidden, q, 2);
    linear(layer + "mlp.gate_proj", kIntermediate, kHidden, 1);
    linear(layer + "mlp.up_proj", kIntermediate, kHidden, 1);
    linear(layer + "mlp.down_proj", kHidden, kIntermediate, 1);
    if (kind.qkv_bias) {
      tensors.push_back({attention + "q_proj.bias", {q}, 0, 0.3f});
      tensors.push_back({attention + "k_proj.bias", {kv}, 0, 0.3f});
      tensors.push_back({attention + "v_proj.bias", {kv}, 0, 0.3f});
    }
    if (kind.qk_norm) {
      norm(attention + "q_norm", kHeadDim);
      norm(attention + "k_norm", kHeadDim);
    }
  }
  return tensors;
}

std::vector<float> draw(const Tensor& tensor) {
  std::size_t count = 1;
  for (const std::uint32_t n : tensor.shape) count *= n;
  std::vector<float> values(count);
  const std::uint64_t key = hash64(tensor.name);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = tensor.mean + tensor.deviation * noise(key, i);
  if (tensor.name.ends_with("k_proj.bias")) {
    for (std::uint32_t head = 0; head < kKvHeads; ++head) {
      for (const std::uint32_t pair : kBiasedPairs) {
        values[head * kHeadDim + pair] += 12;
        values[head * kHeadDim + pair + kHeadDim / 2] -= 8;
      }
    }
  }
  return values;
}

// The f16 next to a weight on the side of zero, which is zero below 2^-14. clang 14 has no
// _Float16.
std::uint16_t f16_below(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000, exponent = bits >> 23 & 0xff;
  if (exponent < 113) return static_cast<std::uint16_t>(sign);
  return static_cast<std::uint16_t>(sign | (exponent - 112) << 10 | (bits >> 13 & 0x3ff));
}

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string encode(const std::vector<float>& values, const std::string& dtype) {
  std::string bytes;
  for (const float value : values) {
    if (dtype == "F32") append(bytes, value);
    if (dtype == "F16") append(bytes, f16_below(value));
    if (dtype == "BF16") append(bytes, kernels::bf16_from_f32(value));
  }
  return bytes;
}

void write_weights(const Kind& kind, const fs::path& path) {
  json::object header;
  std::string data;
  for (const Tensor& tensor : list_tensors(kind)) {
    const std::size_t begin = data.size();
    data += encode(draw(tensor), kind.dtype);
    header[tensor.name] = {{"dtype", kind.dtype},
                           {"shape", json::array(tensor.shape.begin(), tensor.shape.end())},
                           {"data_offsets", {begin, data.size()}}};
  }
  std::string text = json::serialize(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string bytes;
  append(bytes, std::uint64_t{text.size()});
  std::ofstream(path, std::ios::binary) << bytes << text << data;
}

}  // namespace

Result<std::unique_ptr<RandomCheckpoint>> RandomCheckpoint::create(
    const std::string& architecture) {
  KVF_ASSIGN_OR_RETURN(const Kind kind, find_kind(architecture));
  std::unique_ptr<RandomCheckpoint> made(new RandomCheckpoint());
  std::string pattern = (fs::temp_directory_path() / "kvferry-checkpoint-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) return unavailable("mkdtemp");
  made->directory_ = pattern;
  write_config(kind, made->directory_ / "config.json");
  write_weights(kind, made->directory_ / "model.safetensors");
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
    std::error_code error;
    fs::copy_file(model_directory() / file, made->directory_ / file, error);
    if (error) return unavailable(std::string("copying ") + file + ": " + error.message());
  }
  return made;
}

RandomCheckpoint::~RandomCheckpoint() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

}  // namespace kvferry::e2e
