#include "transport/ucx_tls.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <sstream>
#include <string_view>
#include <vector>

namespace kvferry::transport {
namespace {

// UCX's names and aliases. cma and knem copy between processes: they cannot carry active messages,
// and help only where one of the others does.
constexpr std::array<std::string_view, 8> kShared = {"shm",  "sm",    "mm",   "posix",
                                                     "sysv", "xpmem", "knem", "cma"};

bool is_shared(const std::string& name) {
  return std::find(kShared.begin(), kShared.end(), name) != kShared.end();
}

std::vector<std::string> names_of(const std::string& tls) {
  std::vector<std::string> names;
  std::istringstream in(tls);
  for (std::string name; std::getline(in, name, ',');) names.push_back(name);
  return names;
}

}  // namespace

std::string chosen_tls(const std::string& configured) {
  if (!configured.empty()) return configured;
  const char* environment = std::getenv("UCX_TLS");
  return environment != nullptr && *environment != '\0' ? environment : "all";
}

bool has_shared_memory(const std::string& tls) {
  if (tls.starts_with('^')) {
    const std::vector<std::string> excluded = names_of(tls.substr(1));
    return std::none_of(excluded.begin(), excluded.end(),
                        [](const std::string& name) { return name == "shm" || name == "sm"; });
  }
  const std::vector<std::string> names = names_of(tls);
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name == "all" || is_shared(name); });
}

std::string without_shared_memory(const std::string& tls) {
  if (!has_shared_memory(tls)) return tls;
  if (tls.starts_with('^')) return tls + ",shm";
  std::string kept;
  bool network = false;
  for (const std::string& name : names_of(tls)) {
    if (name == "all") return "^shm";
    if (is_shared(name)) continue;
    kept += (kept.empty() ? "" : ",") + name;
    network = network || name != "self";
  }
  if (network) return kept;
  return kept.empty() ? "tcp" : kept + ",tcp";
}

}  // namespace kvferry::transport
