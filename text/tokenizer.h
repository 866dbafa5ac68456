// Text to token ids and back, as a checkpoint's tokenizer.json and tokenizer_config.json say.
// Supported: byte-level BPE (GPT-2, Llama 3, the bundled mini). Whatever else the files ask for is
// refused when they are loaded, by name, never skipped: a wrong id would be a wrong answer.
// Ignored, because serving decides about them: truncation and padding.
//
// Thread contract: immutable once loaded; any number of threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kvferry::text {

class Tokenizer {
 public:
  static constexpr std::size_t kMaxFileBytes = 64u << 20;   // tokenizer.json
  static constexpr std::size_t kMaxConfigBytes = 4u << 20;  // tokenizer_config.json
  static constexpr std::size_t kMaxTextBytes = 16u << 20;   // of one encode

  // Reads tokenizer.json and, where it is there, tokenizer_config.json. kNotFound, kInvalidArgument
  // (broken files) or kUnsupported (well-formed, but not what is listed above).
  static Result<std::shared_ptr<const Tokenizer>> load(const std::filesystem::path& model_dir);
  // The same from the contents of the two files; an empty `config_json` is a missing file.
  static Result<std::shared_ptr<const Tokenizer>> parse(std::string_view tokenizer_json,
                                                        std::string_view config_json);
  ~Tokenizer();

  // The ids of `text`. What is not UTF-8 in it is replaced by U+FFFD first; added tokens written
  // out in it become their ids. With add_bos the BOS id comes first, unless there is none or the
  // text begins with that token already. kInvalidArgument for texts over kMaxTextBytes.
  Result<std::vector<std::int32_t>> encode(std::string_view text, bool add_bos) const;

  // -1 when the checkpoint names none.
  std::int32_t bos_id() const;
  std::int32_t eos_id() const;
  // "" when the checkpoint names none.
  const std::string& bos_token() const;
  // Whether a prompt begins with BOS: add_bos_token of tokenizer_config.json or, where that is
  // silent, whether the post_processor of tokenizer.json puts it there.
  bool add_bos() const;

  // What a token stands for: any bytes, not necessarily whole characters. Empty for an id that is
  // not in the vocabulary.
  std::string_view id_to_bytes(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  // One more than the highest id.
  std::int32_t vocab_size() const;

 private:
  struct Impl;
  Tokenizer();
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry::text
