// What a benchmark says of the machine it ran on, and its ceilings.
//
// Thread contract: called by one thread, which drives the pool.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/compute_pool.h"

namespace kvferry::bench {

std::string cpu_name();          // of /proc/cpuinfo
std::size_t last_level_cache();  // bytes; 32 MiB where the system does not say

// Integer operations a second of all threads of the pool together, in 1e9 (kernels/ceilings.h).
double dot_ceiling_gops(ComputePool& pool);
double float_dot_ceiling_gops(ComputePool& pool);  // the same of f32

// Bytes a second, in 1e9, that all threads read out of `memory`, each its own part of it.
double read_ceiling_gbyte_s(ComputePool& pool, std::span<const std::byte> memory);

}  // namespace kvferry::bench
