// Small random checkpoints of the architectures that kvferry computes, for tests that need a whole
// Hugging Face directory: two layers of 64 channels, 4 query and 2 KV heads of 64, a context of
// 4,096, models/mini's tokenizer and vocabulary of 1,024. About half a megabyte each.
// Thread contract: one thread writes; the directory may be read by all.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/status.h"

namespace kvferry::e2e {

// Each has something the others have not:
//   llama3   frequencies scaled as Llama 3.1's, tied embeddings, bf16
//   llama2   f16
//   mistral  a sliding window that is null, bf16
//   qwen2    biases of Q, K and V; some of K's, on pairs that turn fast, are many times what K
//            deviates by, so that codecs leave them out; bf16
//   qwen3    Q and K normed head by head, tied embeddings, f32
inline constexpr const char* kArchitectures[] = {"llama3", "llama2", "mistral", "qwen2", "qwen3"};

class RandomCheckpoint {
 public:
  // Writes it to a temporary directory. The same bytes in every run, and weights such that scores
  // deviate by about 2: what a prompt holds changes its answer. kNotFound for another name.
  static Result<std::unique_ptr<RandomCheckpoint>> create(const std::string& architecture);
  ~RandomCheckpoint();  // removes the directory
  RandomCheckpoint(const RandomCheckpoint&) = delete;
  RandomCheckpoint& operator=(const RandomCheckpoint&) = delete;

  const std::filesystem::path& directory() const { return directory_; }

 private:
  RandomCheckpoint() = default;
  std::filesystem::path directory_;
};

}  // namespace kvferry::e2e
