// Seeded random models of known shapes, for benchmarks and tests: `random:NAME`.
// Weight i of a tensor is a function of (name, i) alone: uniform in +-sqrt(3 / fan_in), rounded to
// bf16, so every compute type starts from the same values. Norm weights are 1.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/tensor_source.h"

namespace kvferry::model {

// The NAME of "random:NAME", or nothing.
std::optional<std::string_view> random_model_name(std::string_view model);

// kNotFound lists the names that exist.
Result<ModelConfig> random_model_config(std::string_view name);

std::unique_ptr<TensorSource> make_random_source();

}  // namespace kvferry::model
