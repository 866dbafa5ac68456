// What the single-process commands start with: a compute pool and a model on it.
// Thread contract: made and used by one thread.
#pragma once

#include <memory>

#include "base/compute_pool.h"
#include "base/status.h"
#include "cli/commands.h"
#include "model/model.h"

namespace kvferry::cli {

// Compute threads: those asked for, or one a core.
int threads_of(const EngineOptions& options);

struct LoadedEngine {
  std::unique_ptr<ComputePool> pool;
  std::unique_ptr<model::Model> model;  // uses the pool
};
Result<LoadedEngine> load_engine(const EngineOptions& options);

// For commands whose output a person reads: warnings only, unless KVFERRY_LOG says otherwise.
void quiet_logs();

// The whole text of a file; kNotFound when it cannot be read.
Result<std::string> read_file(const std::string& path);

// Prints "kvferry NAME: ..." to standard error unless OK; the exit status.
int report(const char* command, const Status& status);

}  // namespace kvferry::cli
