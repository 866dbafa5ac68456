// JSON as Python's json.dumps(value, ensure_ascii=False) writes it, which is what chat templates
// put into prompts: ", " and ": " between things, members in their order. Thread contract: pure
// functions.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

namespace kvferry::text {

std::string python_json(const boost::json::value& value);
std::string python_json_string(std::string_view text);

}  // namespace kvferry::text
