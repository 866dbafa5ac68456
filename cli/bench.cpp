// `kvferry bench`.

#include <fmt/format.h>

#include <boost/json.hpp>

#include "base/log.h"
#include "bench/attention_bench.h"
#include "bench/codec_bench.h"
#include "bench/decode_bench.h"
#include "bench/load_bench.h"
#include "bench/prefill_bench.h"
#include "bench/tokenize_bench.h"
#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "cli/load_progress.h"
#include "cli/worker_config.h"

namespace kvferry::cli {
namespace {

template <class Report>
void print(const Report& report, bool json) {
  if (json) {
    fmt::print("{}\n", boost::json::serialize(bench::to_json(report)));
  } else {
    fmt::print("{}", bench::to_text(report));
  }
}

Status bench_prefill(const BenchPrefillOptions& options) {
  bench::PrefillBenchOptions bench;
  bench.model = options.engine.model;
  bench.tokens = options.tokens;
  bench.codec = options.codec;
  KVF_ASSIGN_OR_RETURN(bench.compute, parse_compute(options.engine.compute));
  bench.threads = threads_of(options.engine);
  KVF_ASSIGN_OR_RETURN(const auto report, bench::run_prefill_bench(bench));
  print(report, options.json);
  return ok_status();
}

Status bench_load(const BenchLoadOptions& options) {
  bench::LoadBenchOptions bench;
  bench.model = options.engine.model;
  KVF_ASSIGN_OR_RETURN(bench.compute, parse_compute(options.engine.compute));
  bench.threads = threads_of(options.engine);
  bench.runs = options.runs;
  bench.progress = load_progress("bench", bench.model);
  KVF_ASSIGN_OR_RETURN(const auto report, bench::run_load_bench(bench));
  print(report, options.json);
  return ok_status();
}

Status bench_tokenize(const BenchTokenizeOptions& options) {
  KVF_ASSIGN_OR_RETURN(const auto report,
                       bench::run_tokenize_bench({options.model, options.text, options.runs}));
  print(report, options.json);
  return ok_status();
}

Status bench_codec(const BenchCodecOptions& options) {
  KVF_ASSIGN_OR_RETURN(const auto report, bench::run_codec_bench(options.bench));
  print(report, options.json);
  return ok_status();
}

Status bench_decode(const BenchDecodeOptions& options) {
  bench::DecodeBenchOptions bench = options.bench;
  bench.model = options.engine.model;
  KVF_ASSIGN_OR_RETURN(bench.compute, parse_compute(options.engine.compute));
  bench.threads = threads_of(options.engine);
  bench.loading = load_progress("bench", bench.model);
  KVF_ASSIGN_OR_RETURN(const auto report, bench::run_decode_bench(bench));
  print(report, options.json);
  return ok_status();
}

Status bench_attention(const BenchAttentionOptions& options) {
  bench::AttentionBenchOptions bench = options.bench;
  bench.progress = percent_progress("bench", "measuring " + bench.codec);
  KVF_ASSIGN_OR_RETURN(const auto report, bench::run_attention_bench(bench));
  print(report, options.json);
  const std::string doubts = bench::doubts(report);
  if (!doubts.empty()) log_warn("bench", doubts);
  return ok_status();
}

}  // namespace

int run_bench_tokenize(const BenchTokenizeOptions& options) {
  return report("bench tokenize", bench_tokenize(options));
}

int run_bench_attention(const BenchAttentionOptions& options) {
  return report("bench attention", bench_attention(options));
}

int run_bench_codec(const BenchCodecOptions& options) {
  return report("bench codec", bench_codec(options));
}

int run_bench_decode(const BenchDecodeOptions& options) {
  return report("bench decode", bench_decode(options));
}

int run_bench_prefill(const BenchPrefillOptions& options) {
  return report("bench prefill", bench_prefill(options));
}

int run_bench_load(const BenchLoadOptions& options) {
  return report("bench load", bench_load(options));
}

}  // namespace kvferry::cli
