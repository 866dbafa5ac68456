#include "model/config.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <iterator>
#include <string>

#include "kernels/dense_kernels.h"

namespace kvferry::model {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kMaxConfigBytes = 1 << 20;

Result<json::object> parse_object(std::string_view text, std::string_view file) {
  boost::system::error_code error;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error);
  if (error || !value.is_object()) {
    return invalid_argument(std::string(file) + " is not a JSON object" +
                            (error ? ": " + error.message() : ""));
  }
  return std::move(value.get_object());
}

bool present(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && !value->is_null();
}

Status wrong(std::string_view key, std::string_view expected) {
  return invalid_argument("config.json: " + std::string(key) + " is missing or not " +
                          std::string(expected));
}

// A whole number in [1, limit].
Status read_size(const json::object& object, std::string_view key, std::uint64_t limit,
                 std::uint32_t& out) {
  const json::value* value = object.if_contains(key);
  const std::string range = "a whole number from 1 to " + std::to_string(limit);
  if (value == nullptr || !value->is_int64()) return wrong(key, range);
  const std::int64_t n = value->get_int64();
  if (n < 1 || static_cast<std::uint64_t>(n) > limit) return wrong(key, range);
  out = static_cast<std::uint32_t>(n);
  return ok_status();
}

Status read_float(const json::object& object, std::string_view key, double low, double high,
                  float& out) {
  if (!present(object, key)) return ok_status();
  const json::value& value = object.at(key);
  const double x = value.is_number() ? value.to_number<double>() : NAN;
  if (!(x >= low && x <= high)) return wrong(key, "a number in its range");
  out = static_cast<float>(x);
  return ok_status();
}

Status read_bool(const json::object& object, std::string_view key, bool& out) {
  if (!present(object, key)) return ok_status();
  if (!object.at(key).is_bool()) return wrong(key, "true or false");
  out = object.at(key).get_bool();
  return ok_status();
}

Status add_token_id(const json::value& value, std::string_view key,
                    std::vector<std::int32_t>& ids) {
  if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > INT32_MAX) {
    return wrong(key, "a token id or a list of them");
  }
  const auto id = static_cast<std::int32_t>(value.get_int64());
  if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  return ok_status();
}

Status add_eos_ids(const json::object& object, std::vector<std::int32_t>& ids) {
  constexpr std::string_view kKey = "eos_token_id";
  if (!present(object, kKey)) return ok_status();
  const json::value& value = object.at(kKey);
  if (!value.is_array()) return add_token_id(value, kKey, ids);
  for (const auto& id : value.get_array()) KVF_RETURN_IF_ERROR(add_token_id(id, kKey, ids));
  return ok_status();
}

// What this version does not compute, by the key that asks for it.
Status refuse_unsupported(const json::object& object) {
  const json::value* architectures = object.if_contains("architectures");
  const bool llama = architectures != nullptr && architectures->is_array() &&
                     architectures->get_array().size() == 1 &&
                     architectures->get_array()[0] == "LlamaForCausalLM";
  if (!llama) {
    return unsupported("config.json: architectures is " +
                       (architectures != nullptr ? json::serialize(*architectures) : "missing") +
                       "; only [\"LlamaForCausalLM\"] is supported");
  }
  for (const char* key : {"rope_scaling", "rope_parameters", "quantization_config"}) {
    if (present(object, key)) {
      return unsupported(std::string("config.json: ") + key + " is " +
                         json::serialize(object.at(key)) +
                         "; only models without it are supported");
    }
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    bool bias = false;
    KVF_RETURN_IF_ERROR(read_bool(object, key, bias));
    if (bias) return unsupported(std::string("config.json: ") + key + " is true; not supported");
  }
  if (present(object, "hidden_act") && object.at("hidden_act") != "silu") {
    return unsupported("config.json: hidden_act is " + json::serialize(object.at("hidden_act")) +
                       "; only \"silu\" is supported");
  }
  return ok_status();
}

Status read_shape(const json::object& object, ModelConfig& config) {
  KVF_RETURN_IF_ERROR(read_size(object, "hidden_size", 65536, config.hidden));
  KVF_RETURN_IF_ERROR(read_size(object, "intermediate_size", 1 << 20, config.intermediate));
  KVF_RETURN_IF_ERROR(read_size(object, "num_hidden_layers", 1024, config.layers));
  KVF_RETURN_IF_ERROR(read_size(object, "num_attention_heads", 1024, config.q_heads));
  config.kv_heads = config.q_heads;
  if (present(object, "num_key_value_heads")) {
    KVF_RETURN_IF_ERROR(read_size(object, "num_key_value_heads", 1024, config.kv_heads));
  }
  if (present(object, "head_dim")) {
    KVF_RETURN_IF_ERROR(read_size(object, "head_dim", kernels::kMaxHeadDim, config.head_dim));
  } else if (config.hidden % config.q_heads != 0) {
    return invalid_argument(
        "config.json: hidden_size is no multiple of num_attention_heads, and "
        "there is no head_dim");
  } else {
    config.head_dim = config.hidden / config.q_heads;
  }
  KVF_RETURN_IF_ERROR(read_size(object, "vocab_size", 1 << 22, config.vocab));
  return read_size(object, "max_position_embeddings", 1 << 24, config.context);
}

Result<std::string> read_text(const std::filesystem::path& path) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) return not_found("cannot read " + path.string() + ": " + error.message());
  if (bytes > kMaxConfigBytes) return invalid_argument(path.string() + " is over 1 MiB long");
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() && !in.eof()) return not_found("cannot read " + path.string());
  return text;
}

}  // namespace

Status check_config(const ModelConfig& config) {
  if (config.kv_heads == 0 || config.q_heads % config.kv_heads != 0) {
    return invalid_argument(
        "config.json: num_attention_heads is no multiple of "
        "num_key_value_heads");
  }
  if (config.head_dim % 16 != 0 || config.head_dim > kernels::kMaxHeadDim) {
    return unsupported("config.json: head_dim " + std::to_string(config.head_dim) +
                       "; supported are multiples of 16 up to 256");
  }
  for (auto id : config.eos_ids) {
    if (static_cast<std::uint32_t>(id) >= config.vocab) {
      return invalid_argument("eos_token_id " + std::to_string(id) + " is outside the vocabulary");
    }
  }
  return ok_status();
}

Result<ModelConfig> parse_config(std::string_view text, std::string_view name) {
  KVF_ASSIGN_OR_RETURN(const json::object object, parse_object(text, "config.json"));
  KVF_RETURN_IF_ERROR(refuse_unsupported(object));
  ModelConfig config;
  config.name = name;
  KVF_RETURN_IF_ERROR(read_shape(object, config));
  config.rms_eps = 1e-6f;  // what transformers assumes where the key is missing
  KVF_RETURN_IF_ERROR(read_float(object, "rms_norm_eps", 0.0, 1.0, config.rms_eps));
  KVF_RETURN_IF_ERROR(read_float(object, "rope_theta", 1.0, 1e12, config.rope_theta));
  KVF_RETURN_IF_ERROR(read_bool(object, "tie_word_embeddings", config.tied_embeddings));
  if (present(object, "bos_token_id")) {
    std::vector<std::int32_t> ids;
    KVF_RETURN_IF_ERROR(add_token_id(object.at("bos_token_id"), "bos_token_id", ids));
    config.bos_id = ids[0];
  }
  KVF_RETURN_IF_ERROR(add_eos_ids(object, config.eos_ids));
  KVF_RETURN_IF_ERROR(check_config(config));
  return config;
}

Status add_generation_config(std::string_view text, ModelConfig& config) {
  KVF_ASSIGN_OR_RETURN(const json::object object, parse_object(text, "generation_config.json"));
  KVF_RETURN_IF_ERROR(add_eos_ids(object, config.eos_ids));
  return check_config(config);
}

Result<ModelConfig> read_config(const std::filesystem::path& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return not_found("no model directory " + directory.string() +
                     "; give a Hugging Face directory or random:NAME");
  }
  const auto named = directory.filename().empty() ? directory.parent_path() : directory;
  KVF_ASSIGN_OR_RETURN(const std::string text, read_text(directory / "config.json"));
  auto config = parse_config(text, named.filename().string());
  if (!config.ok()) return config.status().with_context(directory.string());
  const auto generation = directory / "generation_config.json";
  if (std::filesystem::exists(generation, error)) {
    KVF_ASSIGN_OR_RETURN(const std::string more, read_text(generation));
    Status status = add_generation_config(more, *config);
    if (!status.ok()) return status.with_context(directory.string());
  }
  return config;
}

}  // namespace kvferry::model
