#include "transport/ucx_channel.h"

#include <utility>

#include "base/log.h"

namespace kvferry::transport {

// Of a channel that could not be connected; all others gave their worker back when they closed.
UcxChannel::~UcxChannel() {
  if (local_) transport_.remove_worker(local_);
}

Result<ucp_ep_h> UcxChannel::new_endpoint(UcxWorker& worker, const std::string& address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {&UcxChannel::failed, this};
  ucp_ep_h endpoint = nullptr;
  KVF_RETURN_IF_ERROR(
      from_ucx(ucp_ep_create(worker.get(), &params, &endpoint), "creating an endpoint"));
  return endpoint;
}

Status UcxChannel::connect(const std::string& worker_address) {
  since_ns = transport_.timers().now_ns();
  KVF_ASSIGN_OR_RETURN(control_, new_endpoint(transport_.network(), worker_address));
  return ok_status();
}

Status UcxChannel::make_local_worker() {
  KVF_ASSIGN_OR_RETURN(local_, transport_.add_local_worker());
  return ok_status();
}

const std::string& UcxChannel::data_address() const {
  static const std::string kNone;
  return local_ ? local_->address() : kNone;
}

Status UcxChannel::connect_data(const std::string& worker_address) {
  if (!local_) return invalid_argument("the peer answers for memory that was not offered");
  KVF_ASSIGN_OR_RETURN(data_, new_endpoint(*local_, worker_address));
  return ok_status();
}

// UCX's error handler: only marks, closing is done outside of UCX's progress.
void UcxChannel::failed(void* user, ucp_ep_h, ucs_status_t status) {
  auto& channel = *static_cast<UcxChannel*>(user);
  channel.start_close(from_ucx(status, "endpoint failed"), false);
}

void UcxChannel::established() {
  if (state_ != State::kConnecting) return;
  state_ = State::kOpen;
  const std::string lanes = ucx_lanes(frame_endpoint());
  transport_.learned_lanes(lanes);
  peer_ = "ucx over " + lanes;
  log_info("transport", "channel " + std::to_string(key_) + " open: " + peer_);
  while (!waiting_.empty()) {
    Send& send = *waiting_.front();
    waiting_.pop_front();
    start(send);
  }
}

// ---- sending ----

UcxChannel::Send& UcxChannel::add_send() {
  auto send = std::make_unique<Send>();
  Send& added = *send;
  added.channel = this;
  sends_.emplace(&added, std::move(send));
  return added;
}

void UcxChannel::send(const FrameHeader& header, std::span<const std::byte> payload,
                      std::function<void(Status)> done) {
  Send& send = add_send();
  send.header = {{key_, connector_ ? 1u : 0u, 0}, header};
  send.payload = payload;
  send.done = std::move(done);
  if (state_ == State::kConnecting) {
    waiting_.push_back(&send);
  } else if (state_ == State::kOpen) {
    start(send);
  } else {
    finish_send_later(send, UCS_ERR_CANCELED);
  }
}

void UcxChannel::note(UcxNote what, const std::string& body) {
  Send& send = add_send();
  send.header.prefix = {key_, connector_ ? 1u : 0u, static_cast<std::uint32_t>(what)};
  const auto bytes = std::as_bytes(std::span(body));
  send.body.assign(bytes.begin(), bytes.end());
  send.payload = send.body;
  send.is_note = true;
  start(send);
}

// DATA goes by rendezvous: an eager one would first pile up in UCX's memory, bounded by nobody.
void UcxChannel::start(Send& send) {
  const bool data = !send.is_note && send.header.frame.type == FrameType::kData;
  ucp_request_param_t params{};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = data ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER;
  params.cb.send = &UcxChannel::sent;
  params.user_data = &send;
  const bool handshake = send.is_note && state_ == State::kConnecting;
  const ucs_status_ptr_t request = ucp_am_send_nbx(
      handshake ? control_ : frame_endpoint(), send.is_note ? kUcxNoteId : kUcxFrameId,
      &send.header, send.is_note ? sizeof(UcxPrefix) : sizeof(UcxMessageHeader),
      send.payload.data(), send.payload.size(), &params);
  transport_.wake();
  if (!UCS_PTR_IS_PTR(request)) finish_send_later(send, UCS_PTR_STATUS(request));
}

void UcxChannel::sent(void* request, ucs_status_t status, void* user) {
  ucp_request_free(request);
  Send& send = *static_cast<Send*>(user);
  send.channel->finish_send(send, status);
}

void UcxChannel::finish_send_later(Send& send, ucs_status_t status) {
  transport_.later([self = shared_from_this(), &send, status] {
    if (self->sends_.contains(&send)) self->finish_send(send, status);
  });
}

void UcxChannel::finish_send(Send& send, ucs_status_t status) {
  const auto done = std::move(send.done);
  sends_.erase(&send);
  if (status != UCS_OK) start_close(from_ucx(status, "sending"), false);
  if (done) done(from_ucx(status, "sending"));
}

// ---- receiving ----

void UcxChannel::receive_rendezvous(const FrameHeader& header, void* descriptor,
                                    std::span<std::byte> memory) {
  auto owned = std::make_unique<Landing>(Landing{this, header, memory});
  Landing& landing = *owned;
  landings_.emplace(&landing, std::move(owned));
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.recv_am = &UcxChannel::landed;
  params.user_data = &landing;
  const ucp_worker_h worker = (local_ ? *local_ : transport_.network()).get();
  const ucs_status_ptr_t request =
      ucp_am_recv_data_nbx(worker, descriptor, memory.data(), memory.size(), &params);
  transport_.wake();
  if (!UCS_PTR_IS_PTR(request)) finish_landing(landing, UCS_PTR_STATUS(request));
}

void UcxChannel::landed(void* request, ucs_status_t status, std::size_t, void* user) {
  ucp_request_free(request);
  Landing& landing = *static_cast<Landing*>(user);
  landing.channel->finish_landing(landing, status);
}

void UcxChannel::finish_landing(Landing& landing, ucs_status_t status) {
  const Landing done = landing;
  landings_.erase(&landing);
  FrameHandler* handler = transport_.handler();
  if (handler == nullptr) return;
  const Status arrived =
      status == UCS_OK ? check_payload(done.header, done.memory) : from_ucx(status, "receiving");
  handler->on_frame(*this, done.header, done.memory, arrived);
}

// ---- closing ----

void UcxChannel::start_close(const Status& why, bool say_bye) {
  if (!open()) return;
  if (say_bye) {
    bye_ = true;
    note(UcxNote::kBye, "");
  }
  state_ = State::kClosing;
  why_ = why;
  since_ns = transport_.timers().now_ns();
  transport_.wake();
}

// By force, which makes every request of an endpoint complete.
bool UcxChannel::endpoints_closed() {
  for (ucp_ep_h* endpoint : {&control_, &data_}) {
    if (*endpoint == nullptr) continue;
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_EP_CLOSE_FLAG_FORCE;
    const ucs_status_ptr_t request = ucp_ep_close_nbx(std::exchange(*endpoint, nullptr), &params);
    if (UCS_PTR_IS_PTR(request)) close_requests_.push_back(request);
  }
  std::erase_if(close_requests_, [](void* request) {
    if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
    ucp_request_free(request);
    return true;
  });
  return close_requests_.empty();
}

// A BYE gets 100 ms to leave; then the endpoints are closed, and the channel is when all its
// requests have completed. A worker of its own is not waited for longer than close_ns: its end is
// the end of its requests.
bool UcxChannel::closed_now(std::uint64_t now_ns) {
  if (state_ != State::kClosing) return false;
  while (!waiting_.empty()) {
    Send& send = *waiting_.front();
    waiting_.pop_front();
    finish_send(send, UCS_ERR_CANCELED);
  }
  constexpr std::uint64_t kByeNs = 100 * kMillisecond;
  if (bye_ && !sends_.empty() && now_ns - since_ns < kByeNs) return false;
  const bool complete = endpoints_closed() && sends_.empty() && landings_.empty();
  if (!complete && (!local_ || now_ns - since_ns < transport_.close_ns())) return false;
  if (local_) transport_.remove_worker(std::exchange(local_, nullptr));
  return true;
}

void UcxChannel::finish_close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  local_.reset();
  while (!sends_.empty()) finish_send(*sends_.begin()->first, UCS_ERR_CANCELED);
  while (!landings_.empty()) finish_landing(*landings_.begin()->first, UCS_ERR_CANCELED);
  if (FrameHandler* handler = transport_.handler()) handler->on_closed(shared_from_this(), why_);
}

}  // namespace kvferry::transport
