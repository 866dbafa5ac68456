// Logging to standard error: one line an event, "time level component: message". Level from
// KVFERRY_LOG (debug, info, warn, error; info unless said) or set_log_level.
// Thread contract: any thread.
#pragma once

#include <string_view>

namespace kvferry {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

void set_log_level(LogLevel level);
bool log_enabled(LogLevel level);
void log(LogLevel level, std::string_view component, std::string_view message);

inline void log_debug(std::string_view component, std::string_view m) {
  log(LogLevel::kDebug, component, m);
}
inline void log_info(std::string_view component, std::string_view m) {
  log(LogLevel::kInfo, component, m);
}
inline void log_warn(std::string_view component, std::string_view m) {
  log(LogLevel::kWarn, component, m);
}
inline void log_error(std::string_view component, std::string_view m) {
  log(LogLevel::kError, component, m);
}

}  // namespace kvferry
