// `kvferry codec measure`.

#include "bench/codec_measure.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "cli/load_progress.h"
#include "cli/worker_config.h"
#include "codec/spec.h"

namespace kvferry::cli {
namespace {

Status measure(const MeasureOptions& options) {
  bench::CodecMeasureOptions bench;
  bench.model = options.engine.model;
  bench.text = options.text;
  bench.questions = options.questions;
  for (const std::string& list : options.codecs) {
    const std::vector<std::string> specs = codec::split_specs(list);
    bench.codecs.insert(bench.codecs.end(), specs.begin(), specs.end());
  }
  bench.window = options.window;
  bench.passages = options.passages;
  KVF_ASSIGN_OR_RETURN(bench.compute, parse_compute(options.engine.compute));
  bench.threads = threads_of(options.engine);
  bench.loading = load_progress("codec measure", bench.model);
  bench.measuring = percent_progress("codec measure", "measuring");
  KVF_ASSIGN_OR_RETURN(const auto report, bench::run_codec_measure(bench));
  if (options.json) {
    fmt::print("{}\n", boost::json::serialize(bench::to_json(report)));
  } else {
    fmt::print("{}", bench::to_text(report));
  }
  return ok_status();
}

}  // namespace

int run_codec_measure(const MeasureOptions& options) {
  return report("codec measure", measure(options));
}

}  // namespace kvferry::cli
