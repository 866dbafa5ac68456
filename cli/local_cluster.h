// `kvferry up` as a child process, for a command that wants a cluster of its own.
// Thread contract: one thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "base/status.h"
#include "cli/http_client.h"

namespace kvferry::cli {

class LocalCluster {
 public:
  // Returns when it serves, on a free port of the loopback. Why it does not stands on standard
  // error, from the child. chat_template: as ChatTemplate::load takes it. codec: the one it uses
  // unless a request says otherwise; empty: its own choice. The child is in a process group of its
  // own, so Ctrl-C in a terminal does not reach it, and ends with this process.
  static Result<std::unique_ptr<LocalCluster>> start(const std::string& model,
                                                     const std::string& chat_template,
                                                     const std::string& codec);
  ~LocalCluster();  // stops it
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;

  const HttpUrl& url() const { return url_; }

 private:
  LocalCluster() = default;

  pid_t pid_ = -1;
  HttpUrl url_;
};

}  // namespace kvferry::cli
