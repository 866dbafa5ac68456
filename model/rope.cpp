#include "model/rope.h"

#include <boost/json/value.hpp>
#include <cmath>
#include <numbers>
#include <string>

#include "model/config_reader.h"

namespace kvferry::model {
namespace {

namespace json = boost::json;

double llama3_frequency(double frequency, const RopeScaling& scaling) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double turns = scaling.original_context / wavelength;  // within the original context
  if (turns < scaling.low_frequency) return frequency / scaling.factor;
  if (turns > scaling.high_frequency) return frequency;
  const double share =
      (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency);
  return (1 - share) * frequency / scaling.factor + share * frequency;
}

// transformers 5 may hold one set of parameters for each type of layer.
Result<json::object> same_for_all_layers(const json::object& parameters) {
  const json::value* first = nullptr;
  for (const auto& [key, value] : parameters) {
    if (!value.is_object()) continue;
    if (first != nullptr && *first != value) {
      return unsupported("config.json: rope_parameters is " + shown(json::value(parameters)) +
                         "; only parameters that are the same for all layers are supported");
    }
    first = &value;
  }
  return first != nullptr ? first->get_object() : parameters;
}

Result<RopeScaling::Type> read_type(const json::object& parameters, std::string_view where) {
  for (const char* key : {"rope_type", "type"}) {
    if (!present(parameters, key)) continue;
    const json::value& type = parameters.at(key);
    if (type == "default") return RopeScaling::Type::kDefault;
    if (type == "linear") return RopeScaling::Type::kLinear;
    if (type == "llama3") return RopeScaling::Type::kLlama3;
    return unsupported("config.json: " + std::string(where) + ": " + key + " is " + shown(type) +
                       "; default, linear and llama3 are supported");
  }
  return RopeScaling::Type::kDefault;
}

Status read_llama3(const json::object& parameters, const json::object& config_object,
                   const ModelConfig& config, RopeScaling& scaling) {
  KVF_RETURN_IF_ERROR(read_number(parameters, "low_freq_factor", 1e-3, 1e6, scaling.low_frequency));
  KVF_RETURN_IF_ERROR(
      read_number(parameters, "high_freq_factor", 1e-3, 1e6, scaling.high_frequency));
  if (!(scaling.low_frequency < scaling.high_frequency)) {
    return wrong_field("low_freq_factor", "below high_freq_factor, which llama3 needs too");
  }
  scaling.original_context = config.context;
  constexpr const char* kOriginal = "original_max_position_embeddings";
  KVF_RETURN_IF_ERROR(read_number(config_object, kOriginal, 1, 1 << 24, scaling.original_context));
  return read_number(parameters, kOriginal, 1, 1 << 24, scaling.original_context);
}

}  // namespace

std::vector<double> rope_frequencies(const ModelConfig& config) {
  std::vector<double> frequencies(config.head_dim / 2);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    double& frequency = frequencies[i];
    frequency = std::pow(static_cast<double>(config.rope_theta),
                         -2.0 * static_cast<double>(i) / config.head_dim);
    switch (config.rope_scaling.type) {
      case RopeScaling::Type::kDefault:
        break;
      case RopeScaling::Type::kLinear:
        frequency /= config.rope_scaling.factor;
        break;
      case RopeScaling::Type::kLlama3:
        frequency = llama3_frequency(frequency, config.rope_scaling);
        break;
    }
  }
  return frequencies;
}

Status read_rope(const json::object& object, ModelConfig& config) {
  double theta = config.rope_theta;
  KVF_RETURN_IF_ERROR(read_number(object, "rope_theta", 1.0, 1e12, theta));
  if (present(object, "rope_scaling") && present(object, "rope_parameters")) {
    return unsupported(
        "config.json has both rope_scaling and rope_parameters, of transformers 4 and 5: keep the "
        "one "
        "that holds");
  }
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!present(object, key)) continue;
    if (!object.at(key).is_object()) return wrong_field(key, "an object");
    KVF_ASSIGN_OR_RETURN(const json::object parameters,
                         same_for_all_layers(object.at(key).get_object()));
    KVF_RETURN_IF_ERROR(read_number(parameters, "rope_theta", 1.0, 1e12, theta));
    double part = 1.0;
    KVF_RETURN_IF_ERROR(read_number(parameters, "partial_rotary_factor", 0.0, 1.0, part));
    if (part != 1.0) {
      return unsupported("config.json: " + std::string(key) + ": partial_rotary_factor is below 1" +
                         "; only models that rotate whole heads are supported");
    }
    RopeScaling scaling;
    KVF_ASSIGN_OR_RETURN(scaling.type, read_type(parameters, key));
    if (scaling.type != RopeScaling::Type::kDefault) {
      if (!present(parameters, "factor")) return wrong_field("factor", "a number from 1 on");
      KVF_RETURN_IF_ERROR(read_number(parameters, "factor", 1.0, 1e6, scaling.factor));
    }
    if (scaling.type == RopeScaling::Type::kLlama3) {
      KVF_RETURN_IF_ERROR(read_llama3(parameters, object, config, scaling));
    }
    config.rope_scaling = scaling;
  }
  config.rope_theta = static_cast<float>(theta);
  return ok_status();
}

}  // namespace kvferry::model
