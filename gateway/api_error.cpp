#include "gateway/api_error.h"

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

namespace kvferry::gateway {

namespace json = boost::json;

std::string ApiError::json() const {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? json::value(nullptr) : json::value(text);
  };
  return json::serialize(json::value{{"error",
                                      {{"message", message},
                                       {"type", type},
                                       {"param", or_null(param)},
                                       {"code", or_null(code)}}}});
}

ApiError bad_request(std::string message, std::string param, std::string code) {
  return {400, std::move(message), "invalid_request_error", std::move(param), std::move(code), 0};
}

ApiError unknown_model(std::string_view name, std::string_view served) {
  ApiError error =
      bad_request("The model '" + std::string(name) + "' does not exist; this gateway serves '" +
                      std::string(served) + "'",
                  "model", "model_not_found");
  error.status = 404;
  return error;
}

ApiError error_of(const Status& status) {
  const std::string code(code_name(status.code()));
  switch (status.code()) {
    case Code::kInvalidArgument:
    case Code::kUnsupported:
    case Code::kNotFound:
      return bad_request(status.message(), "", code);
    case Code::kResourceExhausted:
    case Code::kUnavailable:
      return {503, status.message(), "server_error", "", code, 1};
    case Code::kDeadlineExceeded:
      return {504, status.message(), "timeout_error", "", code, 0};
    default:
      return {500, status.message(), "server_error", "", code, 0};
  }
}

}  // namespace kvferry::gateway
