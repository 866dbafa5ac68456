// Writes the model random:NAME as a Hugging Face directory, for what measures loading.
// Thread contract: one thread, which drives the compute pool.
#pragma once

#include <filesystem>
#include <string>

#include "base/compute_pool.h"
#include "base/status.h"

namespace kvferry::bench {

// config.json and a model.safetensors in bf16, flushed to disk. `directory` must exist.
// kResourceExhausted where the disk has no room.
Status write_random_checkpoint(const std::string& name, const std::filesystem::path& directory,
                               ComputePool& pool);

}  // namespace kvferry::bench
