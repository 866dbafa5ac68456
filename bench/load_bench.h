// `kvferry bench load`: how long a checkpoint takes from its files to a model that can run.
//
// Method: a load with the files dropped from the page cache, then `runs` loads with them in it. The
// disk's ceiling is reading the same files in order with as many threads, dropped from the cache
// before; the memory's is copying memory with all threads, measured before each load with the files
// in the cache. A model random:NAME is first written as a checkpoint into a temporary directory,
// which is deleted at the end. Rates count the files' bytes once.
//
// Thread contract: one thread, which drives the compute pool.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"
#include "model/model.h"

namespace kvferry::bench {

struct LoadBenchOptions {
  std::string model = "random:llama-3.2-1b";
  model::Compute compute = model::Compute::kAuto;
  int threads = 1;
  int runs = 3;
  std::function<void(double fraction)> progress;  // of each load; may be empty
};

struct LoadBenchReport {
  std::string model, compute, cpu;
  int threads = 0, runs = 0;
  std::uint64_t bytes = 0;  // of all weight files
  // Of the first load, files not in the page cache, and of the others: median and spread.
  double cold_seconds = 0.0, seconds = 0.0, seconds_min = 0.0, seconds_max = 0.0;
  // CPU time of the median load, over all threads: in the program, and in the kernel for it.
  double user_seconds = 0.0, system_seconds = 0.0;
  double cold_gb_per_s = 0.0, gb_per_s = 0.0;  // 10^9 bytes
  double disk_gb_per_s = 0.0, copy_gb_per_s = 0.0;
};

Result<LoadBenchReport> run_load_bench(const LoadBenchOptions& options);

boost::json::object to_json(const LoadBenchReport& report);
std::string to_text(const LoadBenchReport& report);  // a few lines, ends in a newline

}  // namespace kvferry::bench
