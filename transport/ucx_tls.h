// Lists of UCX transports, as in UCX_TLS: "tcp,self", "posix,cma,self", "all", "^rc".
// Internal to transport/. Thread contract: pure functions, but for chosen_tls (reads the
// environment).
#pragma once

#include <string>

namespace kvferry::transport {

// `configured`, or UCX_TLS where that is empty, or "all".
std::string chosen_tls(const std::string& configured);

// Whether the list lets UCX use memory that two processes share.
bool has_shared_memory(const std::string& tls);

// The list without these; with tcp where no transport between machines would be left.
std::string without_shared_memory(const std::string& tls);

}  // namespace kvferry::transport
