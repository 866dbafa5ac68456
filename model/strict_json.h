// JSON of files that people download: parsed whole, and refused where two readers could disagree
// about what it says (a key that comes twice in one object; Boost.JSON alone keeps the last).
// Thread contract: pure function.
#pragma once

#include <boost/json/object.hpp>
#include <string_view>

#include "base/status.h"

namespace kvferry::model {

// The object that `text` is. kInvalidArgument, in a message that begins with `what`, for anything
// else, for nesting deeper than 32 and for a key that comes twice.
Result<boost::json::object> parse_strict_object(std::string_view text, std::string_view what);

}  // namespace kvferry::model
