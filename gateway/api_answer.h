// One request of the API on its way back: what its generations give becomes the HTTP answer, whole
// or as server-sent events.
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/http_server.h"
#include "gateway/api_error.h"
#include "gateway/api_response.h"
#include "gateway/generation.h"

namespace kvferry::gateway {

class ApiAnswer : public std::enable_shared_from_this<ApiAnswer> {
 public:
  // ended: called once, before the last of the answer is written, with the usage of all prompts; of
  // those that are not done then nothing is wanted any more.
  ApiAnswer(std::shared_ptr<cluster::HttpExchange> exchange, ApiResponse response,
            const ApiRequest& request, std::function<void(const GenerationUsage&)> ended);

  // Where the generation of one prompt goes. It keeps the answer alive.
  GenerationSink sink(std::uint32_t prompt);

 private:
  struct Choice {
    bool begun = false;
    GenerationPiece whole;  // of an answer that is not streamed
  };
  void piece(std::uint32_t index, GenerationPiece piece);
  void done(const GenerationOutcome& outcome);
  void write(std::uint32_t index, GenerationPiece piece);
  // The stream begins with the first text, so that what fails before it has a status of its own.
  void begin_stream();

  std::shared_ptr<cluster::HttpExchange> exchange_;
  ApiResponse response_;
  std::function<void(const GenerationUsage&)> ended_;
  bool stream_;
  std::uint32_t per_prompt_;  // choices
  std::vector<std::string> echo_;
  std::vector<std::vector<TokenLogprobs>> prompt_logprobs_;  // by prompt
  std::vector<Choice> choices_;
  std::size_t open_;  // prompts that are not done
  GenerationUsage usage_;
  bool streaming_ = false;
  bool over_ = false;
};

void respond_error(cluster::HttpExchange& exchange, const ApiError& error,
                   cluster::HttpHeaders headers = {});

}  // namespace kvferry::gateway
