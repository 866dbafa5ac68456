// The benchmarks that `kvferry bench` runs.
#pragma once

#include "bench/prefill_bench.h"
