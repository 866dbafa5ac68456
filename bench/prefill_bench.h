// `kvferry bench prefill`: how much of the machine's matrix speed a prefill reaches.
//
// Method: one warm-up, then `runs` prefills of the same ids, each in one forward call with one row
// of the head; between them the model's own matrix products alone (512 rows, same panels, same
// threads), so that a slow spell of a shared machine hits both. Reported are the median run and the
// fastest product by its median. Row-by-row agreement is tested elsewhere (tests/model); here the
// run fails if two prefills give different logits.
//
// Thread contract: one thread, which drives the compute pool.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/model.h"

namespace kvferry::bench {

struct PrefillBenchOptions {
  std::string model = "random:llama-3.2-1b";
  std::uint32_t tokens = 2048;
  std::string codec = "raw";
  model::Compute compute = model::Compute::kAuto;
  int threads = 1;
  int runs = 3;
};

struct PrefillBenchReport {
  std::string model, codec, compute, isa, cpu;
  std::uint32_t tokens = 0;
  int threads = 0, runs = 0;
  // Linear layers of all tokens, the causal half of attention, and one row of the head.
  double gflop = 0.0;
  double seconds = 0.0, seconds_min = 0.0, seconds_max = 0.0;  // median and spread of the runs
  double achieved_gflops = 0.0, gemm_peak_gflops = 0.0, ratio = 0.0;
  std::string gemm_peak_shape;  // the fastest product: "gate_up 2048 x 16384"
  // Of the median run: wall time of the products and of attention, CPU time of encoding. Other is
  // the rest of the wall time, where encoding counts as spread evenly over the threads; at least 0.
  double gemm_ms = 0.0, attention_ms = 0.0, encode_ms = 0.0, other_ms = 0.0;
  double encode_share = 0.0;  // of the threads' time
};

Result<PrefillBenchReport> run_prefill_bench(const PrefillBenchOptions& options);

boost::json::object to_json(const PrefillBenchReport& report);
std::string to_text(const PrefillBenchReport& report);  // a few lines, ends in a newline

}  // namespace kvferry::bench
