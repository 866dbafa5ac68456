// `kvferry api-key`: a new key of the gateway's API.

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "gateway/api_keys.h"

namespace kvferry::cli {
namespace {

Status make(const ApiKeyOptions& options) {
  KVF_ASSIGN_OR_RETURN(const gateway::NewApiKey key,
                       gateway::make_api_key(options.name, options.concurrent));
  fmt::print(
      "The key, which is nowhere kept and not shown again:\n{}\n\n"
      "Its line in the file that `api_keys` of the gateway's configuration names, below `keys:`:\n"
      "{}\n",
      key.secret, key.line);
  return ok_status();
}

}  // namespace

int run_api_key(const ApiKeyOptions& options) { return report("api-key", make(options)); }

}  // namespace kvferry::cli
