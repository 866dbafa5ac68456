// The step Replace of normalizers and decoders: every occurrence of one string becomes another.
// Thread contract: immutable; any number of threads.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace kvferry::text {

struct Replacement {
  static constexpr std::size_t kMaxBytes = 64;  // of either string

  std::string pattern;  // not empty
  std::string content;

  // kUnsupported for a Regex pattern.
  static Result<Replacement> make(const boost::json::value& description);

  // Occurrences from left to right, none overlapping another.
  std::string apply(std::string_view text) const;
};

}  // namespace kvferry::text
