// Text to token ids and back, as a checkpoint's tokenizer.json and tokenizer_config.json say.
// Supported: byte-level BPE (GPT-2, Llama 3, Qwen, the bundled mini) and SentencePiece-style BPE
// with byte fallback (Llama 2, Mistral), with the parts that the headers normalizer.h,
// added_tokens.h, pre_tokenizer.h, bpe.h and decoder.h name. Whatever else the files ask for is
// refused when they are loaded, by name, never skipped: a wrong id would be a wrong answer.
// Ignored, because serving decides about them: truncation and padding; and `legacy` of
// tokenizer_config.json, which says how tokenizer.json was once made, not what is in it.
//
// Thread contract: immutable once loaded; any number of threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/added_tokens.h"
#include "text/decoder.h"

namespace kvferry::text {

// Whether decoded text has the special tokens in it, written out.
enum class SpecialTokens : std::uint8_t { kDrop, kKeep };

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

  // What becomes of special tokens (control tokens: "<|im_end|>") that are written out in a text.
  enum class Specials {
    kText,    // their letters are text like any other: whoever wrote it cannot steer the model
    kTokens,  // they become their ids, but in and across `user_text`
  };
  struct EncodeOptions {
    // The BOS id comes first, unless there is none or the ids begin with it already.
    bool add_bos = false;
    Specials specials = Specials::kText;
    std::span<const TextRange> user_text = {};  // with kTokens: in order, apart
  };
  // The ids of `text`. What is not UTF-8 in it is replaced by U+FFFD first. Added tokens that are
  // not special become their ids always. kInvalidArgument for texts over kMaxTextBytes, and for
  // user_text in a text that is not UTF-8.
  Result<std::vector<std::int32_t>> encode(std::string_view text,
                                           const EncodeOptions& options) const;
  Result<std::vector<std::int32_t>> encode(std::string_view text, bool add_bos) const {
    return encode(text, EncodeOptions{.add_bos = add_bos});
  }

  // -1 when the checkpoint names none.
  std::int32_t bos_id() const;
  std::int32_t eos_id() const;
  // "" when the checkpoint names none.
  const std::string& bos_token() const;
  // Whether a prompt begins with BOS: add_bos_token of tokenizer_config.json or, where that is
  // silent, whether the post_processor of tokenizer.json puts it there.
  bool add_bos() const;

  // The text of ids from the begin of a text. Unknown ids add nothing. Valid UTF-8: bytes that are
  // in no character become U+FFFD.
  std::string decode(std::span<const std::int32_t> ids,
                     SpecialTokens special = SpecialTokens::kDrop) const;

  // What a token stands for within a text: any bytes, not necessarily whole characters. Empty for
  // an id that is not in the vocabulary.
  std::string_view id_to_bytes(std::int32_t id) const;
  // The token as tokenizer.json writes it: "\u0120ball", "<0x0A>". Empty as above.
  std::string_view content(std::int32_t id) const;
  // How many bytes of text a token can stand for, at most.
  std::size_t longest_token_bytes() const;
  bool is_special(std::int32_t id) const;
  // One more than the highest id.
  std::int32_t vocab_size() const;

 private:
  friend class Detokenizer;
  struct Impl;
  Tokenizer();
  const Decoder& decoder() const;
  // Whether it is one byte of a character (Decoder::Piece).
  bool is_byte(std::int32_t id) const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry::text
