// `kvferry logits`.

#include "model/logits.h"

#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "cli/load_progress.h"
#include "cli/worker_config.h"

namespace kvferry::cli {
namespace {

Status logits(const LogitsOptions& options) {
  model::LogitsCommand command;
  command.model = options.engine.model;
  command.out = options.out;
  command.codec = options.codec;
  command.prefill = options.prefill;
  command.progress = load_progress("logits", options.engine.model);
  KVF_ASSIGN_OR_RETURN(command.compute, parse_compute(options.engine.compute));
  command.threads = threads_of(options.engine);
  if (options.ids_file.empty()) {
    KVF_ASSIGN_OR_RETURN(command.ids, model::parse_ids(options.ids));
  } else {
    KVF_ASSIGN_OR_RETURN(command.ids, model::read_ids_file(options.ids_file));
  }
  return model::run_logits(command);
}

}  // namespace

int run_logits(const LogitsOptions& options) { return report("logits", logits(options)); }

}  // namespace kvferry::cli
