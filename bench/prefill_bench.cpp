#include "bench/prefill_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>

#include "base/compute_pool.h"
#include "bench/machine.h"
#include "codec/codec.h"
#include "codec/sequence_kv.h"
#include "kernels/isa.h"
#include "model/gemm_rates.h"

namespace kvferry::bench {
namespace {

constexpr int kPeakRepeats = 3;  // of each product between two prefills

double operations(const model::ModelConfig& c, std::uint32_t tokens) {
  const double t = tokens, hidden = c.hidden;
  const double q = double{1} * c.q_heads * c.head_dim, kv = double{1} * c.kv_heads * c.head_dim;
  const double linear = 2 * t * hidden * (q + 2 * kv + q + 3.0 * c.intermediate);
  const double attention = 4 * t * t / 2 * q;
  return c.layers * (linear + attention) + 2 * hidden * c.vocab;
}

struct Run {
  model::StepTimings timings;
  std::vector<float> logits;
};

Result<Run> run_once(model::Model& model, const std::shared_ptr<const codec::Codec>& codec,
                     const std::vector<std::int32_t>& ids) {
  codec::OwnedSequenceKv kv(codec, model.config().kv_geometry(),
                            static_cast<std::uint32_t>(ids.size()));
  const model::SequenceChunk chunk{&kv.kv(), ids, model::SequenceChunk::Logits::kLast};
  Run run;
  KVF_RETURN_IF_ERROR(model.forward(std::span(&chunk, 1), run.logits, nullptr));
  run.timings = model.last_step();
  return run;
}

void fill_timings(const std::vector<Run>& sorted, PrefillBenchReport& report) {
  const auto& median = sorted[sorted.size() / 2].timings;
  const auto ms = [](std::uint64_t ns) { return static_cast<double>(ns) * 1e-6; };
  report.seconds = ms(median.total_ns) * 1e-3;
  report.seconds_min = ms(sorted.front().timings.total_ns) * 1e-3;
  report.seconds_max = ms(sorted.back().timings.total_ns) * 1e-3;
  report.gemm_ms = ms(median.gemm_ns);
  report.attention_ms = ms(median.attention_ns);
  report.encode_ms = ms(median.encode_ns);
  const double timed_ms = report.gemm_ms + report.attention_ms + report.encode_ms / report.threads;
  report.other_ms = std::max(0.0, ms(median.total_ns) - timed_ms);
  report.encode_share = report.encode_ms / report.threads / ms(median.total_ns);
  report.achieved_gflops = report.gflop / report.seconds;
}

void fill_peak(const model::GemmRates& rates, PrefillBenchReport& report) {
  for (const auto& rate : rates.rates()) {
    if (rate.gflops <= report.gemm_peak_gflops) continue;
    report.gemm_peak_gflops = rate.gflops;
    report.gemm_peak_shape =
        rate.name + " " + std::to_string(rate.in) + " x " + std::to_string(rate.out);
  }
  report.ratio = report.achieved_gflops / report.gemm_peak_gflops;
}

}  // namespace

Result<PrefillBenchReport> run_prefill_bench(const PrefillBenchOptions& options) {
  if (options.tokens == 0 || options.runs < 1 || options.threads < 1) {
    return invalid_argument("bench prefill needs at least one token, one run and one thread");
  }
  ComputePool pool(options.threads);
  model::LoadOptions load;
  load.compute = options.compute;
  load.pool = &pool;
  KVF_ASSIGN_OR_RETURN(const auto model, model::load_model(options.model, load));
  const auto& config = model->config();
  KVF_ASSIGN_OR_RETURN(const auto codec, codec::make_codec(options.codec));
  KVF_RETURN_IF_ERROR(codec->supports(config.kv_geometry()));
  KVF_ASSIGN_OR_RETURN(const auto rates, model::GemmRates::create(config, model->compute(), pool));

  std::vector<std::int32_t> ids(options.tokens);
  for (std::uint32_t i = 0; i < options.tokens; ++i) {
    ids[i] = static_cast<std::int32_t>((i * 7919ull + 13) % config.vocab);
  }
  KVF_ASSIGN_OR_RETURN(const Run warm, run_once(*model, codec, ids));
  std::vector<Run> runs;
  for (int i = 0; i < options.runs; ++i) {
    rates->measure(kPeakRepeats);
    KVF_ASSIGN_OR_RETURN(runs.emplace_back(), run_once(*model, codec, ids));
    if (runs.back().logits != warm.logits) {
      return internal_error("two prefills of the same ids gave different logits");
    }
  }
  rates->measure(kPeakRepeats);
  std::sort(runs.begin(), runs.end(),
            [](const Run& a, const Run& b) { return a.timings.total_ns < b.timings.total_ns; });

  PrefillBenchReport report;
  report.model = config.name;
  report.codec = codec->spec();
  report.compute = model->compute() == model::Compute::kBf16 ? "bf16" : "f32";
  report.isa = kernels::isa_name(kernels::active_isa());
  report.cpu = cpu_name();
  report.tokens = options.tokens;
  report.threads = options.threads;
  report.runs = options.runs;
  report.gflop = operations(config, options.tokens) * 1e-9;
  fill_timings(runs, report);
  fill_peak(*rates, report);
  return report;
}

boost::json::object to_json(const PrefillBenchReport& r) {
  return {{"bench", "prefill"},
          {"model", r.model},
          {"codec", r.codec},
          {"compute", r.compute},
          {"isa", r.isa},
          {"cpu", r.cpu},
          {"tokens", r.tokens},
          {"threads", r.threads},
          {"runs", r.runs},
          {"gflop", r.gflop},
          {"seconds", r.seconds},
          {"seconds_min", r.seconds_min},
          {"seconds_max", r.seconds_max},
          {"tokens_per_second", r.tokens / r.seconds},
          {"achieved_gflops", r.achieved_gflops},
          {"gemm_peak_gflops", r.gemm_peak_gflops},
          {"gemm_peak_shape", r.gemm_peak_shape},
          {"ratio", r.ratio},
          {"gemm_ms", r.gemm_ms},
          {"attention_ms", r.attention_ms},
          {"encode_ms", r.encode_ms},
          {"encode_share", r.encode_share},
          {"other_ms", r.other_ms}};
}

std::string to_text(const PrefillBenchReport& r) {
  char text[1024];
  std::snprintf(text, sizeof(text),
                "%s, %u tokens, codec %s, %s on %s kernels, %d threads, %s\n"
                "%.4g s (%.4g to %.4g over %d runs), %.0f tokens/s\n"
                "%.0f of %.0f GFLOP/s (%s): %.2f\n"
                "products %.4g ms, attention %.4g ms, encoding %.3g ms (%.4f), other %.3g ms\n",
                r.model.c_str(), r.tokens, r.codec.c_str(), r.compute.c_str(), r.isa.c_str(),
                r.threads, r.cpu.c_str(), r.seconds, r.seconds_min, r.seconds_max, r.runs,
                r.tokens / r.seconds, r.achieved_gflops, r.gemm_peak_gflops,
                r.gemm_peak_shape.c_str(), r.ratio, r.gemm_ms, r.attention_ms, r.encode_ms,
                r.encode_share, r.other_ms);
  return text;
}

}  // namespace kvferry::bench
