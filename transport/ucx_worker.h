// A UCX context with one worker, as an owned object. Internal to transport/.
//
// Thread contract: one thread.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "transport/ucx_transport.h"

namespace kvferry::transport {

Status from_ucx(ucs_status_t status, const std::string& what);

class UcxWorker {
 public:
  static Result<std::unique_ptr<UcxWorker>> create(const UcxConfig& config);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  void destroy();  // now; nothing may be called but the destructor afterwards
  ucp_worker_h get() const { return worker_; }
  int event_fd() const { return event_fd_; }
  const std::string& address() const { return address_; }  // the worker's, raw
  const std::string& tls() const { return tls_; }          // as configured
  std::vector<std::string> transports() const;             // that the context opened

 private:
  UcxWorker() = default;
  Status open(const UcxConfig& config);

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_mem_h arena_ = nullptr;
  int event_fd_ = -1;
  std::string address_;
  std::string tls_;
};

// Transports an endpoint uses, "posix/memory,cma/memory"; empty before it is connected.
std::string ucx_lanes(ucp_ep_h endpoint);

}  // namespace kvferry::transport
