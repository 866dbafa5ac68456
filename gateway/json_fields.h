// Typed reading of a request's JSON body, with errors that name the field.
// Internal to gateway/. Thread contract: one thread.
#pragma once

#include <boost/json/value.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "gateway/api_error.h"

namespace kvferry::gateway {

// Keeps the first error; getters return nothing from then on.
class JsonFields {
 public:
  explicit JsonFields(const boost::json::object& object) : object_(object) {}

  // Null counts as absent.
  const boost::json::value* find(const char* key) const {
    const boost::json::value* value = object_.if_contains(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  // Any that fits.
  std::optional<std::int64_t> whole(const char* key) {
    return integer(key, std::numeric_limits<std::int64_t>::min(),
                   std::numeric_limits<std::int64_t>::max());
  }

  // INT64_MAX for `max`, that of the type, is spoken of only where it was exceeded.
  std::optional<std::int64_t> integer(const char* key, std::int64_t min, std::int64_t max) {
    const boost::json::value* value = ok() ? find(key) : nullptr;
    if (value == nullptr) return std::nullopt;
    const bool fits = value->is_int64();
    if (!fits && !is_huge(*value)) {
      fail(key, std::string("'") + key + "' must be a whole number");
    } else if (!fits || value->get_int64() < min || value->get_int64() > max) {
      fail(key, std::string("'") + key + "' must be " +
                    (fits && max == std::numeric_limits<std::int64_t>::max()
                         ? "at least " + std::to_string(min)
                         : "from " + std::to_string(min) + " to " + std::to_string(max)));
    } else {
      return value->get_int64();
    }
    return std::nullopt;
  }

  // above: the bound `min` itself is not allowed.
  std::optional<double> number(const char* key, double min, double max, bool above) {
    const boost::json::value* value = ok() ? find(key) : nullptr;
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) {
      fail(key, std::string("'") + key + "' must be a number");
      return std::nullopt;
    }
    const double given = value->to_number<double>();
    if (!(given >= min && given <= max) || (above && given == min)) {
      fail(key, std::string("'") + key + "' must be " +
                    (above ? "above " + short_number(min) + ", at most " + short_number(max)
                           : "from " + short_number(min) + " to " + short_number(max)));
      return std::nullopt;
    }
    return given;
  }

  std::optional<bool> boolean(const char* key) {
    const boost::json::value* value = ok() ? find(key) : nullptr;
    if (value == nullptr) return std::nullopt;
    if (value->is_bool()) return value->get_bool();
    fail(key, std::string("'") + key + "' must be true or false");
    return std::nullopt;
  }

  std::optional<std::string> string(const char* key) {
    const boost::json::value* value = ok() ? find(key) : nullptr;
    if (value == nullptr) return std::nullopt;
    if (value->is_string()) return std::string(value->get_string());
    fail(key, std::string("'") + key + "' must be a string");
    return std::nullopt;
  }

  void fail(const std::string& param, std::string message) {
    if (!error_) error_ = bad_request(std::move(message), param);
  }
  void fail(ApiError error) {
    if (!error_) error_ = std::move(error);
  }
  bool ok() const { return !error_; }
  const ApiError& error() const { return *error_; }

 private:
  // Beyond 64 bits, or 63: the parser makes doubles of longer numbers.
  static bool is_huge(const boost::json::value& value) {
    return value.is_uint64() || (value.is_double() && std::abs(value.get_double()) >= 0x1p63);
  }

  static std::string short_number(double value) {
    std::string text = std::to_string(value);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.ends_with('.')) text.pop_back();
    return text;
  }

  const boost::json::object& object_;
  std::optional<ApiError> error_;
};

}  // namespace kvferry::gateway
