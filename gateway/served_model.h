// What the gateway needs of a checkpoint: tokenizer, chat template, context and defaults. Weights
// are the workers' business.
// Thread contract: immutable once loaded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace kvferry::gateway {

struct ServedModel {
  std::string name;        // in the API
  std::string checkpoint;  // by its directory (base/checkpoint_name.h), as the workers call it
  std::shared_ptr<const text::Tokenizer> tokenizer;
  text::ChatTemplate chat;
  std::uint32_t context = 0;           // max_position_embeddings
  std::vector<std::int32_t> stop_ids;  // eos_token_id of generation_config.json or config.json
  std::int32_t vocab = 0;              // ids below it are valid
  // What requests that do not say get: generation_config.json where it says; 0 for a temperature
  // when do_sample is false, as vLLM does, else 1.
  float temperature = 1;
  std::uint32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;

  // kNotFound, kInvalidArgument or kUnsupported, each with the file's name.
  // `name`: empty for the checkpoint's. `chat_template` as ChatTemplate::load takes it.
  static Result<ServedModel> load(const std::filesystem::path& directory, const std::string& name,
                                  const std::string& chat_template);
};

}  // namespace kvferry::gateway
