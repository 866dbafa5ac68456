#include "transport/ucx_worker.h"

#include <ucs/config/global_opts.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <utility>

#include "transport/ucx_tls.h"

namespace kvferry::transport {
namespace {

constexpr const char* kAdvice = "; try UCX_TLS=tcp,self (or --ucx-tls tcp,self)";

// What a UCX function prints to a FILE, by lines.
std::vector<std::string> printed_lines(const std::function<void(std::FILE*)>& print) {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* stream = open_memstream(&text, &size);
  if (stream == nullptr) return {};
  print(stream);
  std::fclose(stream);
  std::istringstream in(std::string(text, size));
  std::free(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The word of `line` that names a transport and its device: "tcp/lo", "posix/memory".
std::string resource_in(const std::string& line) {
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    if (word == "->") break;
    const std::size_t slash = word.find('/');
    if (slash == std::string::npos || slash == 0) continue;
    const std::size_t colon = word.find(':');
    std::string name = colon == std::string::npos ? word : word.substr(colon + 1);
    return name.substr(0, name.find('.'));  // without the path index
  }
  return {};
}

void add_once(std::vector<std::string>& list, const std::string& name) {
  if (!name.empty() && std::find(list.begin(), list.end(), name) == list.end()) {
    list.push_back(name);
  }
}

Status modify(ucp_config_t* config, const char* name, const std::string& value) {
  return from_ucx(ucp_config_modify(config, name, value.c_str()),
                  "setting " + std::string(name) + "=" + value);
}

// Everything goes through the configuration object; the environment is read and never written.
Status configure(ucp_config_t* ucx, const UcxConfig& config) {
  KVF_RETURN_IF_ERROR(modify(ucx, "TLS", config.tls));
  const std::string interval =
      std::to_string(std::max<std::uint64_t>(1, config.keepalive_ns / kMillisecond)) + "ms";
  KVF_RETURN_IF_ERROR(modify(ucx, "KEEPALIVE_INTERVAL", interval));
  // Posix and sysv together; UCX warns when these are set and neither is chosen. 256 elements of 8
  // KiB instead of 64: a reader that slept then finds 2 MiB, and half as many wake-ups move as
  // much.
  if (!has_shared_memory(config.tls)) return ok_status();
  KVF_RETURN_IF_ERROR(modify(ucx, "MM_FIFO_SIZE", "256"));
  return modify(ucx, "MM_ERROR_HANDLING", "y");
}

}  // namespace

Status from_ucx(ucs_status_t status, const std::string& what) {
  if (status == UCS_OK) return ok_status();
  const std::string message = what + ": " + ucs_status_string(status);
  switch (status) {
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_NO_RESOURCE:
    case UCS_ERR_EXCEEDS_LIMIT:
      return resource_exhausted(message);
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
      return invalid_argument(message);
    case UCS_ERR_CANCELED:
      return cancelled(message);
    case UCS_ERR_TIMED_OUT:
    case UCS_ERR_ENDPOINT_TIMEOUT:
      return deadline_exceeded(message);
    default:
      return unavailable(message);
  }
}

// ---- contexts ----

Result<std::shared_ptr<UcxContext>> UcxContext::create(const UcxConfig& config) {
  std::shared_ptr<UcxContext> context(new UcxContext());
  const Status opened = context->open(config);
  if (!opened.ok()) return Status(opened.code(), opened.message() + kAdvice);
  return context;
}

Status UcxContext::open(const UcxConfig& config) {
  (void)ucs_global_opts_set_value("WARN_UNUSED_ENV_VARS",
                                  "n");  // other programs' are not ours to judge
  ucp_config_t* ucx = nullptr;
  KVF_RETURN_IF_ERROR(from_ucx(ucp_config_read(nullptr, nullptr, &ucx), "reading UCX_*"));
  Status status = configure(ucx, config);
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  if (status.ok()) status = from_ucx(ucp_init(&params, ucx, &context_), "starting UCX");
  ucp_config_release(ucx);
  KVF_RETURN_IF_ERROR(status);
  if (config.arena.empty()) return ok_status();
  ucp_mem_map_params_t map{};
  map.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  map.address = config.arena.data();
  map.length = config.arena.size();
  return from_ucx(ucp_mem_map(context_, &map, &arena_), "registering the pool");
}

UcxContext::~UcxContext() {
  if (arena_ != nullptr) ucp_mem_unmap(context_, arena_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

std::vector<std::string> UcxContext::transports() const {
  std::vector<std::string> names;
  for (const std::string& line :
       printed_lines([this](std::FILE* out) { ucp_context_print_info(context_, out); })) {
    if (line.find("resource") == std::string::npos) continue;
    const std::string resource = resource_in(line);
    add_once(names, resource.substr(0, resource.find('/')));
  }
  return names;
}

// ---- workers ----

Result<std::shared_ptr<UcxWorker>> UcxWorker::create(boost::asio::io_context& io,
                                                     std::shared_ptr<UcxContext> context) {
  std::shared_ptr<UcxWorker> worker(new UcxWorker(io, std::move(context)));
  const Status opened = worker->open();
  if (!opened.ok()) return Status(opened.code(), opened.message() + kAdvice);
  return worker;
}

Status UcxWorker::open() {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  KVF_RETURN_IF_ERROR(
      from_ucx(ucp_worker_create(context_->get(), &params, &worker_), "creating a UCX worker"));
  int event_fd = -1;
  KVF_RETURN_IF_ERROR(from_ucx(ucp_worker_get_efd(worker_, &event_fd), "asking for events"));
  boost::system::error_code error;
  events_.assign(event_fd, error);
  if (error) return internal_error("watching UCX's events: " + error.message());
  ucp_address_t* address = nullptr;
  std::size_t length = 0;
  KVF_RETURN_IF_ERROR(
      from_ucx(ucp_worker_get_address(worker_, &address, &length), "asking for the address"));
  address_.assign(reinterpret_cast<const char*>(address), length);
  ucp_worker_release_address(worker_, address);
  return ok_status();
}

UcxWorker::~UcxWorker() { destroy(); }

void UcxWorker::destroy() {
  alive_.reset();
  if (events_.is_open()) (void)events_.release();  // cancels the wait
  if (worker_ != nullptr) ucp_worker_destroy(std::exchange(worker_, nullptr));
}

Status UcxWorker::set_handler(unsigned id, ucp_am_recv_callback_t callback, void* argument) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = id;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  params.cb = callback;
  params.arg = argument;
  return from_ucx(ucp_worker_set_am_recv_handler(worker_, &params), "setting a handler");
}

bool UcxWorker::sleep(std::function<void()> woken) {
  if (ucp_worker_arm(worker_) == UCS_ERR_BUSY) return false;
  if (waiting_) return true;
  waiting_ = true;
  events_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                     [this, alive = std::weak_ptr<bool>(alive_),
                      woken = std::move(woken)](boost::system::error_code error) {
                       if (alive.expired()) return;
                       waiting_ = false;
                       if (!error) woken();
                     });
  return true;
}

std::string ucx_lanes(ucp_ep_h endpoint) {
  std::vector<std::string> names;
  for (const std::string& line :
       printed_lines([endpoint](std::FILE* out) { ucp_ep_print_info(endpoint, out); })) {
    if (line.find("lane[") != std::string::npos) add_once(names, resource_in(line));
  }
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : ",") + name;
  return joined;
}

std::string ucx_version() { return ucp_get_version_string(); }

}  // namespace kvferry::transport
