// One request of the API on its way back: a generation's text and outcome become the HTTP answer,
// whole or as server-sent events.
// Thread contract: the reactor's thread.
#pragma once

#include <memory>
#include <string>

#include "cluster/http_server.h"
#include "gateway/api_error.h"
#include "gateway/api_response.h"
#include "gateway/generation.h"

namespace kvferry::gateway {

class ApiAnswer {
 public:
  ApiAnswer(std::shared_ptr<cluster::HttpExchange> exchange, ApiResponse response, bool stream);

  void text(std::string_view piece);
  void done(const GenerationOutcome& outcome);

 private:
  // The stream begins with the first text, so that what fails before it has a status of its own.
  void begin_stream();

  std::shared_ptr<cluster::HttpExchange> exchange_;
  ApiResponse response_;
  bool stream_;
  bool streaming_ = false;
  std::string whole_;
};

void respond_error(cluster::HttpExchange& exchange, const ApiError& error,
                   cluster::HttpHeaders headers = {});

}  // namespace kvferry::gateway
