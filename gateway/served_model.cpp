#include "gateway/served_model.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <fstream>
#include <sstream>

#include "base/checkpoint_name.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr std::uintmax_t kMaxConfigBytes = 4u << 20;
constexpr std::int64_t kMaxContext = 1 << 24;

// An empty object when the file is missing and need not be there.
Result<json::object> read_object(const fs::path& file, bool required) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(file, error);
  if (error) {
    if (!required) return json::object{};
    return not_found(file.string() + ": " + error.message() +
                     "; a model is a Hugging Face directory with config.json, tokenizer.json and "
                     "model.safetensors");
  }
  if (size > kMaxConfigBytes) return invalid_argument(file.string() + " is too large");
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  json::error_code problem;
  json::value value = json::parse(text.str(), problem);
  if (problem) return invalid_argument(file.string() + " is not JSON: " + problem.message());
  if (!value.is_object()) return invalid_argument(file.string() + " is not a JSON object");
  return std::move(value.get_object());
}

const json::value* member(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<std::int64_t> integer(const json::object& object, const char* key, std::int64_t min,
                             std::int64_t max, const fs::path& file) {
  const json::value* value = member(object, key);
  if (value == nullptr || !value->is_int64() || value->get_int64() < min ||
      value->get_int64() > max) {
    return invalid_argument(file.string() + ": " + key + " must be a whole number from " +
                            std::to_string(min) + " to " + std::to_string(max));
  }
  return value->get_int64();
}

// eos_token_id is a number or a list of numbers.
std::vector<std::int32_t> ids_of(const json::value* value) {
  std::vector<std::int32_t> ids;
  const auto add = [&](const json::value& id) {
    if (id.is_int64() && id.get_int64() >= 0 && id.get_int64() <= INT32_MAX) {
      ids.push_back(static_cast<std::int32_t>(id.get_int64()));
    }
  };
  if (value == nullptr) return ids;
  if (value->is_array()) {
    for (const json::value& id : value->get_array()) add(id);
  } else {
    add(*value);
  }
  return ids;
}

void read_defaults(const json::object& generation, ServedModel& model) {
  if (const json::value* sample = member(generation, "do_sample")) {
    if (sample->is_bool() && !sample->get_bool()) model.temperature = 0;
  }
  const auto number = [&](const char* key) -> double {
    const json::value* value = member(generation, key);
    return value != nullptr && value->is_number() ? value->to_number<double>() : -1;
  };
  if (const double value = number("repetition_penalty"); value > 0 && value <= 2) {
    model.repetition_penalty = static_cast<float>(value);
  }
  if (model.temperature == 0) return;
  if (const double value = number("min_p"); value >= 0 && value <= 1) {
    model.min_p = static_cast<float>(value);
  }
  if (const double value = number("temperature"); value >= 0 && value <= 2) {
    model.temperature = static_cast<float>(value);
  }
  if (const double value = number("top_p"); value > 0 && value <= 1) {
    model.top_p = static_cast<float>(value);
  }
  if (const double value = number("top_k"); value >= 0 && value <= 1 << 24) {
    model.top_k = static_cast<std::uint32_t>(value);
  }
}

}  // namespace

Result<ServedModel> ServedModel::load(const fs::path& directory, const std::string& name,
                                      const std::string& chat_template) {
  ServedModel model;
  model.checkpoint = checkpoint_name(directory);
  model.name = name.empty() ? model.checkpoint : name;
  const fs::path config_file = directory / "config.json";
  KVF_ASSIGN_OR_RETURN(const json::object config, read_object(config_file, true));
  KVF_ASSIGN_OR_RETURN(const json::object generation,
                       read_object(directory / "generation_config.json", false));
  KVF_ASSIGN_OR_RETURN(const std::int64_t context,
                       integer(config, "max_position_embeddings", 1, kMaxContext, config_file));
  KVF_ASSIGN_OR_RETURN(const std::int64_t vocab,
                       integer(config, "vocab_size", 1, INT32_MAX, config_file));
  model.context = static_cast<std::uint32_t>(context);
  model.vocab = static_cast<std::int32_t>(vocab);
  model.stop_ids = ids_of(member(generation, "eos_token_id"));
  if (model.stop_ids.empty()) model.stop_ids = ids_of(member(config, "eos_token_id"));
  read_defaults(generation, model);

  KVF_ASSIGN_OR_RETURN(model.tokenizer, text::Tokenizer::load(directory));
  KVF_ASSIGN_OR_RETURN(model.chat, text::ChatTemplate::load(directory, chat_template));
  return model;
}

}  // namespace kvferry::gateway
