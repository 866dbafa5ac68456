// Fields of config.json, each checked for its type and range when it is read. A message names the
// file and the key.
// Thread contract: pure functions.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace kvferry::model {

// Whether the key is there and not null, which transformers writes for "none".
bool present(const boost::json::object& object, std::string_view key);

// What a key holds, as JSON, cut to a length that fits a message.
std::string shown(const boost::json::value& value);

Status wrong_field(std::string_view key, std::string_view expected);

// A whole number in [1, limit]; must be there.
Status read_size(const boost::json::object& object, std::string_view key, std::uint64_t limit,
                 std::uint32_t& out);
// The others leave `out` as it is where the key is not present.
Status read_number(const boost::json::object& object, std::string_view key, double low, double high,
                   double& out);
Status read_bool(const boost::json::object& object, std::string_view key, bool& out);

}  // namespace kvferry::model
