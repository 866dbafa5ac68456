// config.json and generation_config.json of a Hugging Face directory, with the keys of transformers
// 4 (rope_theta, rope_scaling) or 5 (rope_parameters). Only what kvferry computes exactly is let
// through: what it does not (model/architecture.h, model/rope.h) is refused by name (kUnsupported),
// sizes beyond the bounds below as kInvalidArgument. The weights' types are the checkpoint's, so
// torch_dtype and dtype are not read.
#pragma once

#include <filesystem>
#include <string_view>

#include "base/status.h"
#include "model/model.h"

namespace kvferry::model {

// Parses the text of config.json. `name` becomes ModelConfig::name.
Result<ModelConfig> parse_config(std::string_view text, std::string_view name);

// Adds the end-of-sequence ids of generation_config.json's text.
Status add_generation_config(std::string_view text, ModelConfig& config);

// Checks sizes and their relations; of any source.
Status check_config(const ModelConfig& config);

// Reads both files of a directory; generation_config.json may be missing.
Result<ModelConfig> read_config(const std::filesystem::path& directory);

}  // namespace kvferry::model
