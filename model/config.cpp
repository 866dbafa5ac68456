#include "model/config.h"

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>
#include <iterator>
#include <string>

#include "base/checkpoint_name.h"
#include "kernels/dense_kernels.h"
#include "model/architecture.h"
#include "model/config_reader.h"
#include "model/rope.h"
#include "model/strict_json.h"

namespace kvferry::model {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kMaxConfigBytes = 1 << 20;

Status add_token_id(const json::value& value, std::string_view file, std::string_view key,
                    std::vector<std::int32_t>& ids) {
  if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > INT32_MAX) {
    return invalid_argument(std::string(file) + ": " + std::string(key) +
                            " is not a token id or a list of them");
  }
  const auto id = static_cast<std::int32_t>(value.get_int64());
  if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  return ok_status();
}

Status add_eos_ids(const json::object& object, std::string_view file,
                   std::vector<std::int32_t>& ids) {
  constexpr std::string_view kKey = "eos_token_id";
  if (!present(object, kKey)) return ok_status();
  const json::value& value = object.at(kKey);
  if (!value.is_array()) return add_token_id(value, file, kKey, ids);
  for (const auto& id : value.get_array()) KVF_RETURN_IF_ERROR(add_token_id(id, file, kKey, ids));
  return ok_status();
}

Status read_shape(const json::object& object, ModelConfig& config) {
  KVF_RETURN_IF_ERROR(read_size(object, "hidden_size", 65536, config.hidden));
  KVF_RETURN_IF_ERROR(read_size(object, "intermediate_size", 1 << 20, config.intermediate));
  KVF_RETURN_IF_ERROR(read_size(object, "num_hidden_layers", 1024, config.layers));
  KVF_RETURN_IF_ERROR(read_size(object, "num_attention_heads", 1024, config.q_heads));
  config.kv_heads = default_kv_heads(config);
  if (config.kv_heads == 0 || present(object, "num_key_value_heads")) {
    KVF_RETURN_IF_ERROR(read_size(object, "num_key_value_heads", 1024, config.kv_heads));
  }
  config.head_dim = default_head_dim(config);
  if (present(object, "head_dim")) {
    KVF_RETURN_IF_ERROR(read_size(object, "head_dim", kernels::kMaxHeadDim, config.head_dim));
  } else if (config.head_dim == 0) {
    return invalid_argument(
        "config.json: hidden_size is no multiple of num_attention_heads, and "
        "there is no head_dim");
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
  KVF_ASSIGN_OR_RETURN(const json::object object, parse_strict_object(text, "config.json"));
  ModelConfig config;
  config.name = name;
  KVF_RETURN_IF_ERROR(read_architecture(object, config));
  KVF_RETURN_IF_ERROR(read_shape(object, config));
  KVF_RETURN_IF_ERROR(refuse_sliding_window(object, config));
  double rms_eps = 1e-6;  // what transformers assumes where the key is missing
  KVF_RETURN_IF_ERROR(read_number(object, "rms_norm_eps", 0.0, 1.0, rms_eps));
  config.rms_eps = static_cast<float>(rms_eps);
  KVF_RETURN_IF_ERROR(read_rope(object, config));
  KVF_RETURN_IF_ERROR(read_bool(object, "tie_word_embeddings", config.tied_embeddings));
  if (present(object, "bos_token_id")) {
    std::vector<std::int32_t> ids;
    KVF_RETURN_IF_ERROR(
        add_token_id(object.at("bos_token_id"), "config.json", "bos_token_id", ids));
    config.bos_id = ids[0];
  }
  KVF_RETURN_IF_ERROR(add_eos_ids(object, "config.json", config.eos_ids));
  KVF_RETURN_IF_ERROR(check_config(config));
  return config;
}

Status add_generation_config(std::string_view text, ModelConfig& config) {
  KVF_ASSIGN_OR_RETURN(const json::object object,
                       parse_strict_object(text, "generation_config.json"));
  KVF_RETURN_IF_ERROR(add_eos_ids(object, "generation_config.json", config.eos_ids));
  return check_config(config);
}

Result<ModelConfig> read_config(const std::filesystem::path& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return not_found("no model directory " + directory.string() +
                     "; give a Hugging Face directory or random:NAME");
  }
  KVF_ASSIGN_OR_RETURN(const std::string text, read_text(directory / "config.json"));
  auto config = parse_config(text, checkpoint_name(directory));
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
