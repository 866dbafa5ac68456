// SentencePiece's way with spaces: each is written as a marker, U+2581 as a rule, and one may be
// put before a text. The step Metaspace of pre-tokenizers and decoders. Thread contract: values.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace kvferry::text {

struct Metaspace {
  enum class Prepend { kAlways, kFirst, kNever };

  std::string replacement;  // one character
  Prepend prepend = Prepend::kAlways;
  bool split = true;

  static Result<Metaspace> make(const boost::json::value& description);

  // The piece with markers. `is_first`: nothing of the text is before it.
  std::string apply(std::string_view piece, bool is_first) const;
};

}  // namespace kvferry::text
