#include "model/architecture.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <string>

#include "model/config_reader.h"

namespace kvferry::model {
namespace {

namespace json = boost::json;

struct ArchitectureName {
  std::string_view name;
  Architecture architecture;
};
constexpr ArchitectureName kArchitectures[] = {{"LlamaForCausalLM", Architecture::kLlama},
                                               {"MistralForCausalLM", Architecture::kMistral},
                                               {"Qwen2ForCausalLM", Architecture::kQwen2},
                                               {"Qwen3ForCausalLM", Architecture::kQwen3}};

std::string supported_names() {
  std::string names;
  for (const auto& entry : kArchitectures) {
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names;
}

Status find_architecture(const json::object& object, ModelConfig& config) {
  // Mixtures of experts that go by the name of a dense architecture, too.
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    if (present(object, key)) {
      return unsupported(
          "config.json: " + std::string(key) + " is " + shown(object.at(key)) +
          "; models with experts are not supported, dense ones are: " + supported_names());
    }
  }
  const json::value* list = object.if_contains("architectures");
  if (list != nullptr && list->is_array() && list->get_array().size() == 1) {
    for (const auto& entry : kArchitectures) {
      if (const auto* name = list->get_array()[0].if_string();
          name != nullptr && *name == entry.name) {
        config.architecture = entry.architecture;
        return ok_status();
      }
    }
  }
  return unsupported("config.json: architectures is " +
                     (list != nullptr ? shown(*list) : "missing") +
                     "; one of these is supported: " + supported_names());
}

constexpr std::string_view kWindowHelp =
    "sliding windows are not supported. To serve the part of the context in which they change "
    "nothing, lower max_position_embeddings to the window";

Result<bool> all_layers_full(const json::value& types) {
  if (!types.is_array()) return wrong_field("layer_types", "a list");
  return std::all_of(types.get_array().begin(), types.get_array().end(),
                     [](const json::value& type) { return type == "full_attention"; });
}

}  // namespace

Status read_architecture(const json::object& object, ModelConfig& config) {
  KVF_RETURN_IF_ERROR(find_architecture(object, config));
  if (present(object, "quantization_config")) {
    return unsupported("config.json: quantization_config is " +
                       shown(object.at("quantization_config")) +
                       "; only weights in BF16, F16 or F32 are supported, so use the model's "
                       "unquantized checkpoint");
  }
  bool attention_bias = false, mlp_bias = false;
  KVF_RETURN_IF_ERROR(read_bool(object, "attention_bias", attention_bias));
  KVF_RETURN_IF_ERROR(read_bool(object, "mlp_bias", mlp_bias));
  if (mlp_bias) return unsupported("config.json: mlp_bias is true; not supported");
  switch (config.architecture) {
    case Architecture::kMistral:
      break;  // has no biases, whatever the file says
    case Architecture::kQwen2:
      config.qkv_bias = true;
      break;
    case Architecture::kQwen3:
      config.qk_norm = true;
      [[fallthrough]];
    case Architecture::kLlama:
      config.qkv_bias = config.output_bias = attention_bias;
      break;
  }
  if (present(object, "hidden_act") && object.at("hidden_act") != "silu") {
    return unsupported("config.json: hidden_act is " + shown(object.at("hidden_act")) +
                       "; only \"silu\" is supported");
  }
  return ok_status();
}

Status refuse_sliding_window(const json::object& object, const ModelConfig& config) {
  const bool qwen =
      config.architecture == Architecture::kQwen2 || config.architecture == Architecture::kQwen3;
  bool used = config.architecture == Architecture::kMistral;
  if (qwen) KVF_RETURN_IF_ERROR(read_bool(object, "use_sliding_window", used));
  std::uint32_t window = config.context;
  // What transformers assumes for Mistral where nothing is said; null is none.
  if (used && !qwen && !object.contains("sliding_window")) window = 4096;
  if (used && present(object, "sliding_window")) {
    KVF_RETURN_IF_ERROR(read_size(object, "sliding_window", 1 << 24, window));
  }
  // Qwen's layers have the window by layer_types, or from max_window_layers on.
  if (present(object, "layer_types")) {
    KVF_ASSIGN_OR_RETURN(const bool all_full, all_layers_full(object.at("layer_types")));
    if (!all_full && !(used && window >= config.context)) {
      return unsupported("config.json: layer_types has layers other than full_attention; " +
                         std::string(kWindowHelp));
    }
    if (all_full && qwen) return ok_status();
  } else if (qwen) {
    double first = 28;  // what transformers assumes
    KVF_RETURN_IF_ERROR(read_number(object, "max_window_layers", 0, 1 << 24, first));
    if (first >= config.layers) return ok_status();
  }
  if (window >= config.context) return ok_status();
  return unsupported("config.json: sliding_window " + std::to_string(window) +
                     " is shorter than the context of " + std::to_string(config.context) + "; " +
                     std::string(kWindowHelp));
}

std::uint32_t default_head_dim(const ModelConfig& config) {
  if (config.architecture == Architecture::kQwen3) return 128;
  return config.hidden % config.q_heads == 0 ? config.hidden / config.q_heads : 0;
}

std::uint32_t default_kv_heads(const ModelConfig& config) {
  return config.architecture == Architecture::kLlama ? config.q_heads : 0;
}

}  // namespace kvferry::model
