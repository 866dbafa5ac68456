#include "model/config_reader.h"

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cmath>

namespace kvferry::model {

namespace json = boost::json;

bool present(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && !value->is_null();
}

std::string shown(const json::value& value) {
  constexpr std::size_t kLongest = 200;
  std::string text = json::serialize(value);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

Status wrong_field(std::string_view key, std::string_view expected) {
  return invalid_argument("config.json: " + std::string(key) + " is missing or not " +
                          std::string(expected));
}

Status read_size(const json::object& object, std::string_view key, std::uint64_t limit,
                 std::uint32_t& out) {
  const json::value* value = object.if_contains(key);
  const std::string range = "a whole number from 1 to " + std::to_string(limit);
  if (value == nullptr || !value->is_int64()) return wrong_field(key, range);
  const std::int64_t n = value->get_int64();
  if (n < 1 || static_cast<std::uint64_t>(n) > limit) return wrong_field(key, range);
  out = static_cast<std::uint32_t>(n);
  return ok_status();
}

Status read_number(const json::object& object, std::string_view key, double low, double high,
                   double& out) {
  if (!present(object, key)) return ok_status();
  const json::value& value = object.at(key);
  const double x = value.is_number() ? value.to_number<double>() : NAN;
  if (!(x >= low && x <= high)) return wrong_field(key, "a number in its range");
  out = x;
  return ok_status();
}

Status read_bool(const json::object& object, std::string_view key, bool& out) {
  if (!present(object, key)) return ok_status();
  if (!object.at(key).is_bool()) return wrong_field(key, "true or false");
  out = object.at(key).get_bool();
  return ok_status();
}

}  // namespace kvferry::model
