#include "base/memory_limits.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace kvferry {

std::size_t available_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::size_t kib = 0;
  std::string unit;
  while (meminfo >> key >> kib) {
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return std::numeric_limits<std::size_t>::max();
}

std::size_t container_limit_bytes() {
  std::size_t limit = std::numeric_limits<std::size_t>::max();
  for (const char* file :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::size_t bytes = 0;
    // No limit is "max" in v2, which is no number, and a number near 2^63 in v1.
    constexpr std::size_t kNoLimit = std::size_t{1} << 62;
    if (std::ifstream(file) >> bytes && bytes < kNoLimit) limit = std::min(limit, bytes);
  }
  return limit;
}

}  // namespace kvferry
