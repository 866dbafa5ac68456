// Limits of a plan that the gateway checks in requests and workers check again.
// Thread contract: constants.
#pragma once

#include <cstdint>

namespace kvferry::cluster {

inline constexpr std::uint32_t kMaxChoices = 16;   // of a request
inline constexpr std::uint32_t kMaxLogprobs = 20;  // most probable tokens told with each token

}  // namespace kvferry::cluster
