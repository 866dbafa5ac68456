#include "text/tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/json_file.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace kvferry::text {
namespace {

// What a post_processor of the forms [text] and [token, text] puts before a text; none: nothing.
Result<std::string> token_put_first(const boost::json::value& processor) {
  const std::string type(text_of(member(processor, "type")));
  if (processor.is_null() || type == "ByteLevel") return std::string();
  if (type == "Sequence") {
    const boost::json::array* const parts = member(processor, "processors").if_array();
    std::string first;
    if (parts == nullptr) return invalid_argument("post_processor Sequence without processors");
    for (const boost::json::value& part : *parts) {
      if (text_of(member(part, "type")) == "Sequence") {
        return unsupported("post_processor Sequence within a Sequence");
      }
      KVF_ASSIGN_OR_RETURN(std::string token, token_put_first(part));
      if (!first.empty() && !token.empty()) {
        return unsupported("post_processor with two templates");
      }
      if (!token.empty()) first = std::move(token);
    }
    return first;
  }
  if (type != "TemplateProcessing") return unsupported("post_processor " + type);
  const boost::json::array* const single = member(processor, "single").if_array();
  if (single != nullptr && !single->empty() && single->back().is_object() &&
      !member(single->back(), "Sequence").is_null()) {
    if (single->size() == 1) return std::string();
    const std::string first(text_of(member(member(single->front(), "SpecialToken"), "id")));
    if (single->size() == 2 && !first.empty()) return first;
  }
  return unsupported("post_processor TemplateProcessing other than one token before the text");
}

}  // namespace

struct Tokenizer::Impl {
  struct Entry {
    std::string bytes;
    bool special = false;
  };

  std::optional<Bpe> bpe;
  std::optional<PreTokenizer> pre_tokenizer;
  std::optional<AddedTokens> added;
  std::vector<Entry> entries;  // by id
  std::string put_first;       // by the post_processor
  std::string bos_token;
  std::int32_t bos = -1;
  std::int32_t eos = -1;
  bool add_bos = false;

  Status read_model(const boost::json::value& file);
  Status read_config(const boost::json::value& config);
  Result<std::int32_t> id_of_token(std::string_view name, std::string_view content) const;
};

Status Tokenizer::Impl::read_model(const boost::json::value& file) {
  const boost::json::value& normalizer = member(file, "normalizer");
  if (!normalizer.is_null()) {
    return unsupported("normalizer " + std::string(text_of(member(normalizer, "type"))) +
                       "; only null is supported");
  }
  const std::string_view decoder = text_of(member(member(file, "decoder"), "type"));
  if (decoder != "ByteLevel") {
    return unsupported("decoder " + std::string(decoder.empty() ? "null" : decoder) +
                       "; only ByteLevel is supported");
  }
  KVF_ASSIGN_OR_RETURN(bpe, Bpe::make(member(file, "model")));
  KVF_ASSIGN_OR_RETURN(pre_tokenizer, PreTokenizer::make(member(file, "pre_tokenizer")));
  KVF_ASSIGN_OR_RETURN(added, AddedTokens::make(member(file, "added_tokens")));
  KVF_ASSIGN_OR_RETURN(put_first, token_put_first(member(file, "post_processor")));
  std::int32_t size = bpe->size();
  for (const AddedToken& token : added->all()) size = std::max(size, token.id + 1);
  entries.resize(static_cast<std::size_t>(size));
  for (std::int32_t id = 0; id < bpe->size(); ++id) {
    entries[static_cast<std::size_t>(id)].bytes = bpe->bytes(id);
  }
  for (const AddedToken& token : added->all()) {
    entries[static_cast<std::size_t>(token.id)] = {token.content, token.special};
  }
  return {};
}

Result<std::int32_t> Tokenizer::Impl::id_of_token(std::string_view name,
                                                  std::string_view content) const {
  if (content.empty()) return -1;
  if (const AddedToken* const token = added->find(content)) return token->id;
  return invalid_argument(std::string(name) + " " + std::string(content) +
                          " is not among the added_tokens");
}

Status Tokenizer::Impl::read_config(const boost::json::value& config) {
  bos_token = token_text_of(member(config, "bos_token"));
  if (bos_token.empty()) bos_token = put_first;
  if (!put_first.empty() && put_first != bos_token) {
    return unsupported("post_processor puts " + put_first + " first, but BOS is " + bos_token);
  }
  KVF_ASSIGN_OR_RETURN(bos, id_of_token("bos_token", bos_token));
  KVF_ASSIGN_OR_RETURN(eos, id_of_token("eos_token", token_text_of(member(config, "eos_token"))));
  const bool* const wanted = member(config, "add_bos_token").if_bool();
  add_bos = wanted != nullptr ? *wanted : !put_first.empty();
  if (add_bos && bos < 0) return invalid_argument("add_bos_token without a bos_token");
  const bool* const end = member(config, "add_eos_token").if_bool();
  if (end != nullptr && *end) return unsupported("add_eos_token");
  return {};
}

Tokenizer::Tokenizer() : impl_(std::make_unique<Impl>()) {}
Tokenizer::~Tokenizer() = default;

Result<std::shared_ptr<const Tokenizer>> Tokenizer::load(const std::filesystem::path& model_dir) {
  KVF_ASSIGN_OR_RETURN(const std::string model,
                       read_file(model_dir / "tokenizer.json", kMaxFileBytes));
  const Result<std::string> config =
      read_file(model_dir / "tokenizer_config.json", kMaxConfigBytes);
  if (!config.ok() && config.status().code() != Code::kNotFound) return config.status();
  auto made = parse(model, config.ok() ? *config : std::string());
  if (!made.ok()) return made.status().with_context(model_dir.string());
  return made;
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::parse(std::string_view tokenizer_json,
                                                          std::string_view config_json) {
  KVF_ASSIGN_OR_RETURN(const boost::json::value model,
                       parse_json_object(tokenizer_json, "tokenizer.json"));
  boost::json::value config;
  if (!config_json.empty()) {
    KVF_ASSIGN_OR_RETURN(config, parse_json_object(config_json, "tokenizer_config.json"));
  }
  const std::shared_ptr<Tokenizer> made(new Tokenizer);
  const Status model_status = made->impl_->read_model(model);
  if (!model_status.ok()) return model_status.with_context("tokenizer.json");
  const Status config_status = made->impl_->read_config(config);
  if (!config_status.ok()) return config_status.with_context("tokenizer_config.json");
  return std::shared_ptr<const Tokenizer>(made);
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text, bool add_bos) const {
  if (text.size() > kMaxTextBytes) {
    return invalid_argument("a text of " + std::to_string(text.size()) + " bytes; the limit is " +
                            std::to_string(kMaxTextBytes));
  }
  std::string replaced;
  if (!is_utf8(text)) {
    replaced = replace_invalid_utf8(text);
    text = replaced;
  }
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3 + 2);
  const std::vector<AddedTokens::Part> parts = impl_->added->split(text);
  const bool has_bos = !parts.empty() && parts.front().id == impl_->bos;
  if (add_bos && impl_->bos >= 0 && !has_bos) ids.push_back(impl_->bos);
  PreTokenizer::Pieces pieces;
  for (const AddedTokens::Part& part : parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    KVF_RETURN_IF_ERROR(impl_->pre_tokenizer->split(part.text, pieces));
    for (const std::string_view piece : pieces.all) impl_->bpe->encode(piece, ids);
  }
  return ids;
}

std::int32_t Tokenizer::bos_id() const { return impl_->bos; }
std::int32_t Tokenizer::eos_id() const { return impl_->eos; }
const std::string& Tokenizer::bos_token() const { return impl_->bos_token; }
bool Tokenizer::add_bos() const { return impl_->add_bos; }

std::int32_t Tokenizer::vocab_size() const {
  return static_cast<std::int32_t>(impl_->entries.size());
}

std::string_view Tokenizer::id_to_bytes(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return impl_->entries[static_cast<std::size_t>(id)].bytes;
}

bool Tokenizer::is_special(std::int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->entries[static_cast<std::size_t>(id)].special;
}

}  // namespace kvferry::text
