// Bodies of the API, whatever is in them: refused with an error that names what is wrong, or turned
// into something that keeps every limit.
// Input: one byte that chooses the endpoint, then the body.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <variant>

#include "base/clock.h"
#include "gateway/api_request.h"
#include "gateway/tokenize_api.h"
#include "text/utf8.h"

namespace {

using namespace kvferry;           // NOLINT: the fuzz target is all that this file is about
using namespace kvferry::gateway;  // NOLINT

struct World {
  World() : model(load()), codecs(*codec::CodecSet::parse({"raw", "hadamard | hack(k=4,v=2)"})) {
    context.model = &model;
    context.codecs = &codecs;
    context.timeout_ns = kSecond;
  }
  static ServedModel load() {
    // tests/fuzz/run_built starts in the tree's root.
    auto loaded = ServedModel::load("models/mini", "", "");
    if (!loaded.ok()) std::abort();
    return std::move(*loaded);
  }
  ServedModel model;
  codec::CodecSet codecs;
  ApiContext context;
};

void require(bool holds) {
  if (!holds) std::abort();
}

void check_error(const ApiError& error) {
  require(error.status >= 400 && error.status < 500);
  require(!error.message.empty() && !error.type.empty());
  require(text::is_utf8(error.json()));
}

void check_request(const ApiRequest& request, const World& world) {
  require(!request.generations.empty() && request.generations.size() <= kMaxPrompts);
  require(request.echo.empty() || request.echo.size() == request.generations.size());
  for (const Generation& generation : request.generations) {
    require(!generation.prompt.empty());
    for (const std::int32_t id : generation.prompt) require(id >= 0 && id < world.model.vocab);
    require(generation.max_tokens >= 1 || !request.echo.empty());
    require(generation.min_tokens <= generation.max_tokens);
    require(generation.prompt.size() + generation.max_tokens <= world.model.context);
    require(generation.choices >= 1 && generation.repetition_penalty > 0);
    require(world.codecs.find(generation.codec).ok());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const World world;
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 < 2) {
    const auto endpoint = data[0] % 4 == 0 ? Endpoint::kCompletions : Endpoint::kChat;
    const auto parsed = parse_api_request(endpoint, body, "", world.context);
    if (const auto* error = std::get_if<ApiError>(&parsed)) {
      check_error(*error);
    } else {
      check_request(std::get<ApiRequest>(parsed), world);
    }
    return 0;
  }
  const auto answer =
      data[0] % 4 == 2 ? answer_tokenize(body, world.model) : answer_detokenize(body, world.model);
  if (const auto* error = std::get_if<ApiError>(&answer)) {
    check_error(*error);
  } else {
    require(text::is_utf8(std::get<std::string>(answer)));
  }
  return 0;
}
