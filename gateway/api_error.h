// Errors as OpenAI's API has them: a status and {"error":{"message","type","param","code"}}.
// Thread contract: values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/status.h"

namespace kvferry::gateway {

struct ApiError {
  int status = 500;
  std::string message;
  std::string type;
  std::string param;                // empty: null
  std::string code;                 // empty: null
  std::uint32_t retry_after_s = 0;  // 0: no such header

  std::string json() const;
};

// A value or the error that says why there is none.
template <class T>
using ApiResult = std::variant<T, ApiError>;

ApiError bad_request(std::string message, std::string param = "", std::string code = "");
// 404, model_not_found.
ApiError unknown_model(std::string_view name, std::string_view served);
// The answer to a request that failed inside: 400, 429, 503, 504 or 500 by the status' code.
ApiError error_of(const Status& status);

}  // namespace kvferry::gateway
