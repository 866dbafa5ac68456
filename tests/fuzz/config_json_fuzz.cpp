// config.json and generation_config.json, whatever is in them: refused, or a model that has a
// shape. Input: config.json, and behind a NUL byte (none: nothing) generation_config.json.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/config.h"
#include "model/rope.h"

using kvferry::Result;
using kvferry::model::ModelConfig;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  Result<ModelConfig> config = kvferry::model::parse_config(input.substr(0, end), "fuzz");
  if (!config.ok()) return 0;
  if (config->layers == 0 || config->vocab == 0 || config->q_heads % config->kv_heads != 0) {
    std::abort();
  }
  for (const double frequency : kvferry::model::rope_frequencies(*config)) {
    if (!(frequency > 0) || !std::isfinite(frequency)) std::abort();
  }
  if (end == std::string_view::npos) return 0;
  if (!kvferry::model::add_generation_config(input.substr(end + 1), *config).ok()) return 0;
  for (const std::int32_t id : config->eos_ids) {
    if (id < 0 || static_cast<std::uint32_t>(id) >= config->vocab) std::abort();
  }
  return 0;
}
