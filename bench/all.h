// The benchmarks that `kvferry bench` runs.
#pragma once

#include "bench/machine.h"         // IWYU pragma: export
#include "bench/prefill_bench.h"   // IWYU pragma: export
#include "bench/tokenize_bench.h"  // IWYU pragma: export
