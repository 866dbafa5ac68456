// How far a model has been loaded, on standard error: a line that is written over on a terminal, a
// log line a quarter otherwise. A load of under a second says nothing.
// Thread contract: one thread.
#pragma once

#include <functional>
#include <string>

namespace kvferry::cli {

// For model::LoadOptions::progress. `component` is that of log lines.
std::function<void(double fraction)> load_progress(const std::string& component,
                                                   const std::string& model);

}  // namespace kvferry::cli
