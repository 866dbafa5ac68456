// Any text through a tokenizer of each kind: the ids are in the vocabulary, a stream of them is the
// text of all at once, users' words hold no special token, and where nothing is normalized the text
// comes back. compare_encode.py holds the same inputs against Hugging Face's tokenizers.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/all.h"

namespace {

using kvferry::text::Detokenizer;
using kvferry::text::SpecialTokens;
using kvferry::text::Tokenizer;

struct Model {
  std::shared_ptr<const Tokenizer> tokenizer;
  bool comes_back;
};

std::array<Model, 3> load_models() {
  const auto load = [](const char* name) {
    return Tokenizer::load(std::string("tests/text/golden/") + name).value();
  };
  return {{{load("llama3"), true}, {load("qwen2"), false}, {load("mistral"), false}}};
}

void require(bool holds) {
  if (!holds) std::abort();
}

void check(const Model& model, std::string_view text, Tokenizer::Specials specials) {
  const Tokenizer& tokenizer = *model.tokenizer;
  const auto ids = tokenizer.encode(text, {.specials = specials});
  require(ids.ok());
  Detokenizer stream(model.tokenizer, SpecialTokens::kKeep, Detokenizer::Before::kNothing);
  std::string streamed;
  for (const std::int32_t id : *ids) {
    require(id >= 0 && id < tokenizer.vocab_size());
    require(specials == Tokenizer::Specials::kTokens || !tokenizer.is_special(id));
    const std::string piece = stream.feed(id);
    require(kvferry::text::is_utf8(piece));
    streamed += piece;
  }
  streamed += stream.finish();
  require(streamed == tokenizer.decode(*ids, SpecialTokens::kKeep));
  if (model.comes_back) require(streamed == kvferry::text::replace_invalid_utf8(text));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::array<Model, 3> models = load_models();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const Model& model : models) {
    check(model, text, Tokenizer::Specials::kTokens);
    check(model, text, Tokenizer::Specials::kText);
  }
  return 0;
}
