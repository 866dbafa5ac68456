// The two endpoints that generate.
// Thread contract: values.
#pragma once

#include <cstdint>

namespace kvferry::gateway {

enum class Endpoint : std::uint8_t { kCompletions, kChat };

}  // namespace kvferry::gateway
