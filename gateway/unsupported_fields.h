// Fields by which OpenAI's API, vLLM's and a few others change the answer and that kvferry does not
// have: they are refused by name, unless their value is one that changes nothing there either.
// Names that are not known are ignored, as those servers do.
// Internal to gateway/. Thread contract: pure functions.
#pragma once

#include <span>
#include <string_view>

#include "gateway/json_fields.h"

namespace kvferry::gateway {

struct UnsupportedField {
  const char* name;
  // JSON, a list: what changes nothing, beside null.
  std::string_view neutral;
};

// docs/operations.md lists them all.
std::span<const UnsupportedField> unsupported_fields();

void refuse_unsupported(JsonFields& fields);

}  // namespace kvferry::gateway
