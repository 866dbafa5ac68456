// How much memory there is for this process.
// Thread contract: pure functions of what the system says now.
#pragma once

#include <cstddef>

namespace kvferry {

// MemAvailable of /proc/meminfo; the largest size_t when unknown.
std::size_t available_memory_bytes();

// The cgroup's limit (v2, or v1), if this process lives in a container that has one; otherwise the
// largest size_t. A container is killed, not refused, when it touches more.
std::size_t container_limit_bytes();

}  // namespace kvferry
