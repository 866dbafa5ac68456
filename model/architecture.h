// Which architectures kvferry computes, and what config.json may ask of them. Everything that would
// be computed wrongly is refused here by the key that asks for it.
// Thread contract: pure functions.
#pragma once

#include <boost/json/object.hpp>

#include "base/status.h"
#include "model/model.h"

namespace kvferry::model {

// Sets architecture, qkv_bias, output_bias and qk_norm. kUnsupported, naming what is supported, for
// other architectures (among them all with experts), quantized weights, biases in the MLP,
// activations other than SiLU.
Status read_architecture(const boost::json::object& object, ModelConfig& config);

// kUnsupported where some layer's attention would be cut to a window shorter than the context.
// config.context and layers must be read already.
Status refuse_sliding_window(const boost::json::object& object, const ModelConfig& config);

// What transformers assumes where the key is missing: 0 says that it must be there.
std::uint32_t default_head_dim(const ModelConfig& config);
std::uint32_t default_kv_heads(const ModelConfig& config);

}  // namespace kvferry::model
