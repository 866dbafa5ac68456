#include "model/strict_json.h"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parse.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace kvferry::model {
namespace {

namespace json = boost::json;
using Error = boost::system::error_code;

// Looks at keys only; the parser that drives it stops at the first that comes twice.
struct DuplicateKeys {
  static constexpr std::size_t max_object_size = SIZE_MAX;
  static constexpr std::size_t max_array_size = SIZE_MAX;
  static constexpr std::size_t max_key_size = SIZE_MAX;
  static constexpr std::size_t max_string_size = SIZE_MAX;

  std::vector<std::set<std::string, std::less<>>> open;  // the keys of each open object
  std::string key, duplicate;

  bool on_object_begin(Error&) { return open.emplace_back(), true; }
  bool on_object_end(std::size_t, Error&) { return open.pop_back(), true; }
  bool on_key_part(json::string_view part, std::size_t, Error&) {
    return key.append(part.data(), part.size()), true;
  }
  bool on_key(json::string_view rest, std::size_t, Error& error) {
    key.append(rest.data(), rest.size());
    if (!open.back().insert(key).second) {
      duplicate = key;
      error = make_error_code(boost::system::errc::invalid_argument);
    }
    key.clear();
    return !error;
  }
  bool on_document_begin(Error&) { return true; }
  bool on_document_end(Error&) { return true; }
  bool on_array_begin(Error&) { return true; }
  bool on_array_end(std::size_t, Error&) { return true; }
  bool on_string_part(json::string_view, std::size_t, Error&) { return true; }
  bool on_string(json::string_view, std::size_t, Error&) { return true; }
  bool on_number_part(json::string_view, Error&) { return true; }
  bool on_int64(std::int64_t, json::string_view, Error&) { return true; }
  bool on_uint64(std::uint64_t, json::string_view, Error&) { return true; }
  bool on_double(double, json::string_view, Error&) { return true; }
  bool on_bool(bool, Error&) { return true; }
  bool on_null(Error&) { return true; }
  bool on_comment_part(json::string_view, Error&) { return true; }
  bool on_comment(json::string_view, Error&) { return true; }
};

}  // namespace

Result<json::object> parse_strict_object(std::string_view text, std::string_view what) {
  Error error;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error);
  if (error || !value.is_object()) {
    return invalid_argument(std::string(what) + " is not a JSON object" +
                            (error ? ": " + error.message() : ""));
  }
  json::basic_parser<DuplicateKeys> keys{json::parse_options{}};
  keys.write_some(false, text.data(), text.size(), error);
  if (error) {
    return invalid_argument(std::string(what) + ": the key \"" + keys.handler().duplicate +
                            "\" comes twice in one object; remove one");
  }
  return std::move(value.get_object());
}

}  // namespace kvferry::model
