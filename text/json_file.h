// Reading a checkpoint's JSON files with limits. For the sources of text/ only.
// Thread contract: pure functions.
#pragma once

#include <boost/json/value.hpp>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/status.h"

namespace kvferry::text {

// kNotFound when there is no such file, kInvalidArgument when it is longer than max_bytes.
Result<std::string> read_file(const std::filesystem::path& file, std::size_t max_bytes);

// kInvalidArgument, naming the text `what`, when it is not a JSON object.
Result<boost::json::value> parse_json_object(std::string_view text, const std::string& what);

// Both of the above.
Result<boost::json::value> read_json_object(const std::filesystem::path& file,
                                            std::size_t max_bytes);

// The member `key` of an object, or null when there is none or `from` is not an object.
const boost::json::value& member(const boost::json::value& from, std::string_view key);

// A text, or "" for anything else.
std::string_view text_of(const boost::json::value& value);

// tokenizer_config.json writes a token as its text or as an object with the text in "content".
std::string_view token_text_of(const boost::json::value& value);

}  // namespace kvferry::text
