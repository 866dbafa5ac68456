// `kvferry bench decode`: tokens a second of decoding a batch of long sequences with a model.
//
// Method: `batch` sequences with `context` tokens of KV each, every one in memory of its own, which
// are copies of tiles encoded from made-up Gaussian values; then `steps` steps of one token for
// each sequence, after one that warms up. Medians over the steps are reported, and the step's time
// by parts. First one step is run twice: equal sequences must give equal logits, in each row of the
// batch and again. The ceiling is reading that memory with as many threads, between steps.
//
// Thread contract: one thread, which drives the compute pool.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"
#include "bench/spread.h"
#include "model/model.h"

namespace kvferry::bench {

struct DecodeBenchOptions {
  std::string model = "random:llama-3.2-1b";
  std::uint32_t context = 4096;
  std::uint32_t batch = 1;
  std::string codec = "hadamard | hack(k=4,v=2)";
  model::Compute compute = model::Compute::kAuto;
  int threads = 1;
  int steps = 16;
  std::function<void(double fraction)> loading;  // may be empty
};

struct DecodeBenchReport {
  std::string model, codec, compute, isa, cpu;
  std::uint32_t context = 0, batch = 0;
  int threads = 0, steps = 0;
  Spread step_ms;
  double tokens_per_second = 0.0;
  // Of the median step's wall time. Other is what is neither.
  double attention_share = 0.0, gemm_share = 0.0, other_share = 0.0;
  std::uint64_t kv_bytes = 0, weight_bytes = 0;  // that a step reads
  double attention_gbyte_s = 0.0, gemm_gbyte_s = 0.0, read_ceiling_gbyte_s = 0.0;
};

Result<DecodeBenchReport> run_decode_bench(const DecodeBenchOptions& options);

boost::json::object to_json(const DecodeBenchReport& report);
std::string to_text(const DecodeBenchReport& report);  // a few lines, ends in a newline

}  // namespace kvferry::bench
