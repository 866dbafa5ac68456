// UCX contexts and workers as owned objects. Internal to transport/.
//
// Thread contract: one thread, that of the io_context.
#pragma once

#include <ucp/api/ucp.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "transport/ucx_transport.h"

namespace kvferry::transport {

Status from_ucx(ucs_status_t status, const std::string& what);

// What may be opened (config.tls as it stands, see ucx_tls.h), with the arena registered.
class UcxContext {
 public:
  static Result<std::shared_ptr<UcxContext>> create(const UcxConfig& config);
  ~UcxContext();
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;

  ucp_context_h get() const { return context_; }
  std::vector<std::string> transports() const;  // that it opened

 private:
  UcxContext() = default;
  Status open(const UcxConfig& config);

  ucp_context_h context_ = nullptr;
  ucp_mem_h arena_ = nullptr;
};

// Where active messages arrive. Endpoints of a worker must be closed before it is destroyed, or be
// given up with it.
class UcxWorker {
 public:
  static Result<std::shared_ptr<UcxWorker>> create(boost::asio::io_context& io,
                                                   std::shared_ptr<UcxContext> context);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  // Calls `callback` with `argument` for active messages of this id.
  Status set_handler(unsigned id, ucp_am_recv_callback_t callback, void* argument);

  // One round; true when something moved.
  bool progress() { return ucp_worker_progress(worker_) != 0; }
  // Has `woken` called once, when there is something to progress. False: there is already, and
  // nothing will be called. A second call before that changes nothing.
  bool sleep(std::function<void()> woken);
  void destroy();  // now; nothing may be called but the destructor afterwards

  ucp_worker_h get() const { return worker_; }
  const std::string& address() const { return address_; }  // the worker's, raw

 private:
  UcxWorker(boost::asio::io_context& io, std::shared_ptr<UcxContext> context)
      : context_(std::move(context)), events_(io) {}
  Status open();

  std::shared_ptr<UcxContext> context_;
  ucp_worker_h worker_ = nullptr;
  boost::asio::posix::stream_descriptor events_;  // the descriptor is UCX's
  bool waiting_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::string address_;
};

// Transports an endpoint uses, "posix/memory,cma/memory"; empty before it is connected.
std::string ucx_lanes(ucp_ep_h endpoint);

}  // namespace kvferry::transport
