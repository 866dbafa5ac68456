// Rotary position embedding: how fast each pair of channels turns, and how config.json says it.
// Thread contract: pure functions.
#pragma once

#include <boost/json/object.hpp>
#include <vector>

#include "base/status.h"
#include "model/model.h"

namespace kvferry::model {

// Radians a token of each of the head_dim / 2 pairs, in double: theta^(-2i / head_dim) (Su et al.
// 2021), divided by `factor` where linear (Chen et al. 2023, position interpolation), and by
// Llama 3.1's rule where llama3: wavelengths beyond original_context / low_frequency are divided by
// `factor`, those below original_context / high_frequency stay, those between are blended.
std::vector<double> rope_frequencies(const ModelConfig& config);

// Reads rope_theta and rope_scaling (transformers 4) or rope_parameters (transformers 5) into
// config, whose context must be read already. Types other than default, linear and llama3, rotation
// of a part of a head, and parameters that differ between layers are kUnsupported.
Status read_rope(const boost::json::object& object, ModelConfig& config);

}  // namespace kvferry::model
