#include "text/json_file.h"

#include <boost/json/parse.hpp>
#include <fstream>
#include <system_error>

namespace kvferry::text {

Result<std::string> read_file(const std::filesystem::path& file, std::size_t max_bytes) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) {
    return not_found(file.string() + " is not there");
  }
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  if (error || size > max_bytes) {
    return invalid_argument(file.string() + " is longer than " + std::to_string(max_bytes) +
                            " bytes");
  }
  std::string content(static_cast<std::size_t>(size), '\0');
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(content.data(), static_cast<std::streamsize>(content.size()))) {
    return not_found(file.string() + " cannot be read");
  }
  return content;
}

Result<boost::json::value> parse_json_object(std::string_view text, const std::string& what) {
  boost::json::error_code error;
  boost::json::value value = boost::json::parse({text.data(), text.size()}, error);
  if (error) return invalid_argument(what + " is not JSON: " + error.message());
  if (!value.is_object()) return invalid_argument(what + " is not a JSON object");
  return value;
}

Result<boost::json::value> read_json_object(const std::filesystem::path& file,
                                            std::size_t max_bytes) {
  KVF_ASSIGN_OR_RETURN(const std::string content, read_file(file, max_bytes));
  return parse_json_object(content, file.string());
}

const boost::json::value& member(const boost::json::value& from, std::string_view key) {
  static const boost::json::value kNone;
  const boost::json::object* const object = from.if_object();
  const boost::json::value* const found = object == nullptr ? nullptr : object->if_contains(key);
  return found == nullptr ? kNone : *found;
}

std::string_view text_of(const boost::json::value& value) {
  const boost::json::string* const text = value.if_string();
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

std::string_view token_text_of(const boost::json::value& value) {
  return value.is_object() ? text_of(member(value, "content")) : text_of(value);
}

}  // namespace kvferry::text
