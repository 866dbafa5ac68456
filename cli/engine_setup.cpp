#include "cli/engine_setup.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/log.h"
#include "cli/load_progress.h"
#include "cli/worker_config.h"

namespace kvferry::cli {

int threads_of(const EngineOptions& options) {
  if (options.threads > 0) return options.threads;
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

Result<LoadedEngine> load_engine(const EngineOptions& options) {
  LoadedEngine engine;
  engine.pool = std::make_unique<ComputePool>(threads_of(options));
  model::LoadOptions load;
  KVF_ASSIGN_OR_RETURN(load.compute, parse_compute(options.compute));
  load.pool = engine.pool.get();
  load.progress = load_progress("model", options.model);
  KVF_ASSIGN_OR_RETURN(engine.model, model::load_model(options.model, load));
  return engine;
}

void quiet_logs() {
  if (std::getenv("KVFERRY_LOG") == nullptr) set_log_level(LogLevel::kWarn);
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return not_found("cannot read " + path);
  return text.str();
}

int report(const char* command, const Status& status) {
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "kvferry %s: %s\n", command, status.to_string().c_str());
  return kExitFailed;
}

}  // namespace kvferry::cli
