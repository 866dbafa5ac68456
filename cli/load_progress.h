// How far a model has been loaded, or something else is, on standard error: a line that is written
// over on a terminal, a log line a quarter otherwise. What takes under a second says nothing.
// Thread contract: one thread.
#pragma once

#include <functional>
#include <string>

namespace kvferry::cli {

// For model::LoadOptions::progress. `component` is that of log lines.
std::function<void(double fraction)> load_progress(const std::string& component,
                                                   const std::string& model);

// The same for anything else that takes a while: "TEXT: 30 %".
std::function<void(double fraction)> percent_progress(const std::string& component,
                                                      const std::string& text);

}  // namespace kvferry::cli
