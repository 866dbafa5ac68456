// The machine that a benchmark ran on. Thread contract: pure functions.
#pragma once

#include <string>

namespace kvferry::bench {

// "AMD EPYC 9V74 80-Core Processor", or "unknown".
std::string cpu_name();

}  // namespace kvferry::bench
