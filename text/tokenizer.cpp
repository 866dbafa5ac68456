#include "text/tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "text/bpe.h"
#include "text/detokenizer.h"
#include "text/json_file.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"
#include "text/word_cache.h"

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
    std::string content;  // as tokenizer.json writes it
    Decoder::Piece piece;
    bool special = false;
  };

  std::optional<Normalizer> normalizer;
  std::optional<AddedTokens> added;
  std::optional<PreTokenizer> pre_tokenizer;
  std::optional<Bpe> bpe;
  std::optional<Decoder> decoder;
  std::vector<Entry> entries;  // by id
  std::size_t longest_token_bytes = 1;
  bool cut_at_markers = false;
  std::string put_first;  // by the post_processor
  std::string bos_token;
  std::int32_t bos = -1;
  std::int32_t eos = -1;
  bool add_bos = false;

  Status read_model(const boost::json::value& file);
  void make_entries();
  Status read_config(const boost::json::value& config);
  Result<std::int32_t> id_of_token(std::string_view name, std::string_view content) const;
};

namespace {

// What SentencePiece writes for a space.
constexpr std::string_view kMarker = "\u2581";

// One call of encode.
class Encoding {
 public:
  Encoding(const Normalizer& normalizer, const AddedTokens& added,
           const PreTokenizer& pre_tokenizer, const Bpe& bpe, bool cut_at_markers)
      : normalizer_(normalizer),
        added_(added),
        pre_tokenizer_(pre_tokenizer),
        bpe_(bpe),
        cut_at_markers_(cut_at_markers) {}

  Status run(std::string_view text, const std::vector<TextRange>& literal) {
    ids_.reserve(text.size() / 3 + 2);
    for (const auto& part : added_.split(text, AddedTokens::Pass::kAsWritten, literal)) {
      if (part.id >= 0) {
        ids_.push_back(part.id);
      } else {
        KVF_RETURN_IF_ERROR(add_part(part.text, text, literal));
      }
    }
    return {};
  }
  std::vector<std::int32_t> take_ids() { return std::move(ids_); }

 private:
  Status add_part(std::string_view part, std::string_view text,
                  const std::vector<TextRange>& literal) {
    const auto begin = static_cast<std::size_t>(part.data() - text.data());
    const std::size_t end = begin + part.size();
    const bool any_literal = std::any_of(literal.begin(), literal.end(), [&](const TextRange& r) {
      return r.begin < end && r.end > begin;
    });
    std::string_view normal = part;
    if (!normalizer_.does_nothing()) {
      KVF_ASSIGN_OR_RETURN(std::string made, normalizer_.apply(part));
      normal = pieces_.changed.emplace_back(std::move(made));
    }
    // Normalizing moves bytes about: a part that holds any of the user's words is all theirs here.
    std::vector<TextRange> all_or_none;
    if (any_literal) all_or_none.push_back({0, normal.size()});
    for (const auto& piece : added_.split(normal, AddedTokens::Pass::kNormalized, all_or_none)) {
      if (piece.id >= 0) {
        ids_.push_back(piece.id);
        continue;
      }
      const bool is_first = begin == 0 && piece.text.data() == normal.data();
      pieces_.all.clear();
      KVF_RETURN_IF_ERROR(pre_tokenizer_.split(piece.text, is_first, pieces_));
      for (const std::string_view one : pieces_.all) add_piece(one);
    }
    return {};
  }

  void add_piece(std::string_view piece) {
    while (cut_at_markers_ && !piece.empty()) {
      // Past the markers at the begin, up to the next.
      std::size_t end = 0;
      while (piece.substr(end).starts_with(kMarker)) end += kMarker.size();
      end = piece.find(kMarker, end);
      if (end == std::string_view::npos) break;
      add_word(piece.substr(0, end));
      piece.remove_prefix(end);
    }
    add_word(piece);
  }

  void add_word(std::string_view word) {
    if (word.size() < 2 || word.size() > WordCache::kMaxPieceBytes) {
      return bpe_.encode(word, scratch_, ids_);
    }
    WordCache::Entry& entry = cache_.find(word);
    if (entry.piece.empty()) {
      entry.piece = word;
      entry.first = static_cast<std::uint32_t>(ids_.size());
      bpe_.encode(word, scratch_, ids_);
      entry.count = static_cast<std::uint32_t>(ids_.size()) - entry.first;
      return;
    }
    for (std::uint32_t i = 0; i < entry.count; ++i) ids_.push_back(ids_[entry.first + i]);
  }

  const Normalizer& normalizer_;
  const AddedTokens& added_;
  const PreTokenizer& pre_tokenizer_;
  const Bpe& bpe_;
  const bool cut_at_markers_;
  PreTokenizer::Pieces pieces_;
  WordCache cache_;
  Bpe::Scratch scratch_;
  std::vector<std::int32_t> ids_;
};

}  // namespace

Status Tokenizer::Impl::read_model(const boost::json::value& file) {
  KVF_ASSIGN_OR_RETURN(normalizer, Normalizer::make(member(file, "normalizer")));
  KVF_ASSIGN_OR_RETURN(pre_tokenizer, PreTokenizer::make(member(file, "pre_tokenizer")));
  const bool bytes = pre_tokenizer->ends_in_bytes();
  KVF_ASSIGN_OR_RETURN(decoder, Decoder::make(member(file, "decoder")));
  if (bytes != decoder->is_byte_level()) {
    return unsupported("a decoder and a pre_tokenizer of which only one is ByteLevel");
  }
  KVF_ASSIGN_OR_RETURN(bpe, Bpe::make(member(file, "model"),
                                      bytes ? Bpe::Symbols::kBytes : Bpe::Symbols::kCharacters));
  cut_at_markers = !bytes && bpe->can_cut_before(kMarker);
  KVF_ASSIGN_OR_RETURN(added, AddedTokens::make(member(file, "added_tokens"), *normalizer));
  KVF_ASSIGN_OR_RETURN(put_first, token_put_first(member(file, "post_processor")));
  make_entries();
  return {};
}

void Tokenizer::Impl::make_entries() {
  std::int32_t size = bpe->size();
  for (const AddedToken& token : added->all()) size = std::max(size, token.id + 1);
  entries.resize(static_cast<std::size_t>(size));
  for (std::int32_t id = 0; id < bpe->size(); ++id) {
    entries[static_cast<std::size_t>(id)].content = bpe->content(id);
  }
  for (const AddedToken& token : added->all()) {
    // tokenizers too decodes the normalized form.
    entries[static_cast<std::size_t>(token.id)] = {token.pattern, {}, token.special};
  }
  for (Entry& entry : entries) {
    entry.piece = decoder->piece(entry.content);
    longest_token_bytes = std::max(longest_token_bytes, entry.piece.bytes.size());
  }
  const std::size_t shrinkage = normalizer->most_shrinkage();
  longest_token_bytes = shrinkage == 0 || added->any_strips()
                            ? Tokenizer::kMaxTextBytes
                            : std::min(longest_token_bytes * shrinkage, Tokenizer::kMaxTextBytes);
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

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text,
                                                    const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return invalid_argument("a text of " + std::to_string(text.size()) + " bytes; the limit is " +
                            std::to_string(kMaxTextBytes));
  }
  std::string replaced;
  if (!is_utf8(text)) {
    if (!options.user_text.empty()) return invalid_argument("the text is not UTF-8");
    replaced = replace_invalid_utf8(text);
    text = replaced;
  }
  std::vector<TextRange> literal;
  if (options.specials == Specials::kText) {
    literal.push_back({0, text.size()});
  } else {
    std::copy_if(options.user_text.begin(), options.user_text.end(), std::back_inserter(literal),
                 [](const TextRange& range) { return range.begin < range.end; });
  }
  Encoding encoding(*impl_->normalizer, *impl_->added, *impl_->pre_tokenizer, *impl_->bpe,
                    impl_->cut_at_markers);
  KVF_RETURN_IF_ERROR(encoding.run(text, literal));
  std::vector<std::int32_t> ids = encoding.take_ids();
  const bool has_bos = !ids.empty() && ids.front() == impl_->bos;
  if (options.add_bos && impl_->bos >= 0 && !has_bos) ids.insert(ids.begin(), impl_->bos);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, SpecialTokens special) const {
  return Detokenizer::decode(*this, ids, special);
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
  return impl_->entries[static_cast<std::size_t>(id)].piece.bytes;
}

std::size_t Tokenizer::longest_token_bytes() const { return impl_->longest_token_bytes; }
const Decoder& Tokenizer::decoder() const { return *impl_->decoder; }

std::string_view Tokenizer::content(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return impl_->entries[static_cast<std::size_t>(id)].content;
}

bool Tokenizer::is_byte(std::int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->entries[static_cast<std::size_t>(id)].piece.is_byte;
}

bool Tokenizer::is_special(std::int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->entries[static_cast<std::size_t>(id)].special;
}

}  // namespace kvferry::text
