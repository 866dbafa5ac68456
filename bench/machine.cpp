#include "bench/machine.h"

#include <atomic>
#include <cstdint>
#include <fstream>

#include "base/clock.h"
#include "kernels/ceilings.h"

namespace kvferry::bench {
namespace {

// Of a thread: long enough that starting it costs nothing, short enough to be repeated between
// other measurements.
constexpr std::uint64_t kDotsNs = 2'000'000;

double seconds_since(std::uint64_t begin_ns) {
  return static_cast<double>(monotonic_ns() - begin_ns) * 1e-9;
}

// Of all threads of the pool together, in 1e9 a second.
double operations_gops(ComputePool& pool, double (*dots)(std::uint64_t rounds)) {
  std::atomic<double> operations{0.0};
  const std::uint64_t begin_ns = monotonic_ns();
  pool.parallel_for(pool.threads(), [&](std::size_t, int) {
    double done = 0.0;
    while (monotonic_ns() - begin_ns < kDotsNs) done += dots(2000);
    operations += done;
  });
  return operations / seconds_since(begin_ns) * 1e-9;
}

}  // namespace

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

std::size_t last_level_cache() {
  std::size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream in("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
    std::size_t size = 0;
    char unit = 0;
    if (!(in >> size >> unit)) continue;
    largest = std::max(largest, size * (unit == 'M' ? 1u << 20 : 1u << 10));
  }
  return largest == 0 ? std::size_t{32} << 20 : largest;
}

double dot_ceiling_gops(ComputePool& pool) {
  return operations_gops(pool, kernels::ceiling_kernels(kernels::active_isa()).dots);
}

double float_dot_ceiling_gops(ComputePool& pool) {
  return operations_gops(pool, kernels::ceiling_kernels(kernels::active_isa()).float_dots);
}

double read_ceiling_gbyte_s(ComputePool& pool, std::span<const std::byte> memory) {
  const auto& kernels = kernels::ceiling_kernels(kernels::active_isa());
  const std::size_t parts = 4 * static_cast<std::size_t>(pool.threads());
  const std::size_t bytes = memory.size() / parts / 1024 * 1024;
  std::atomic<std::uint64_t> sum{0};
  const std::uint64_t begin_ns = monotonic_ns();
  pool.parallel_for(parts, [&](std::size_t part, int) {
    sum += kernels.read(memory.data() + part * bytes, bytes);
  });
  const double seconds = seconds_since(begin_ns);
  return sum == 1 ? 0.0 : static_cast<double>(bytes * parts) / seconds * 1e-9;
}

}  // namespace kvferry::bench
