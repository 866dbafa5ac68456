#include "transport/ucx_channel.h"

#include <utility>

#include "base/log.h"

namespace kvferry::transport {
namespace {

constexpr unsigned kNoteId = 1;
constexpr unsigned kFrameId = 2;

}  // namespace

Status UcxChannel::connect(const std::string& worker_address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(worker_address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {&UcxChannel::failed, this};
  since_ns = transport_.timers().now_ns();
  return from_ucx(ucp_ep_create(transport_.worker(), &params, &endpoint_), "creating an endpoint");
}

// UCX's error handler: only marks, closing is done outside of UCX's progress.
void UcxChannel::failed(void* user, ucp_ep_h, ucs_status_t status) {
  auto& channel = *static_cast<UcxChannel*>(user);
  channel.start_close(from_ucx(status, "endpoint failed"), false);
}

void UcxChannel::established() {
  if (state_ != State::kConnecting) return;
  state_ = State::kOpen;
  const std::string lanes = ucx_lanes(endpoint_);
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
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(endpoint_, send.is_note ? kNoteId : kFrameId, &send.header,
                      send.is_note ? sizeof(UcxPrefix) : sizeof(UcxMessageHeader),
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
  const ucs_status_ptr_t request =
      ucp_am_recv_data_nbx(transport_.worker(), descriptor, memory.data(), memory.size(), &params);
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
  if (say_bye && state_ == State::kOpen) {
    bye_ = true;
    note(UcxNote::kBye, "");
  }
  state_ = State::kClosing;
  why_ = why;
  since_ns = transport_.timers().now_ns();
  transport_.wake();
}

// A BYE gets 100 ms to leave; then the endpoint is closed by force, which makes every request of it
// complete, and the channel is closed when they have.
bool UcxChannel::closed_now() {
  if (state_ != State::kClosing) return false;
  while (!waiting_.empty()) {
    Send& send = *waiting_.front();
    waiting_.pop_front();
    finish_send(send, UCS_ERR_CANCELED);
  }
  constexpr std::uint64_t kByeNs = 100 * kMillisecond;
  if (bye_ && !sends_.empty() && transport_.timers().now_ns() - since_ns < kByeNs) return false;
  if (endpoint_ != nullptr) {
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_EP_CLOSE_FLAG_FORCE;
    const ucs_status_ptr_t request = ucp_ep_close_nbx(std::exchange(endpoint_, nullptr), &params);
    if (UCS_PTR_IS_PTR(request)) close_request_ = request;
  }
  if (close_request_ != nullptr) {
    if (ucp_request_check_status(close_request_) == UCS_INPROGRESS) return false;
    ucp_request_free(std::exchange(close_request_, nullptr));
  }
  return sends_.empty() && landings_.empty();
}

void UcxChannel::finish_close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  while (!sends_.empty()) finish_send(*sends_.begin()->first, UCS_ERR_CANCELED);
  while (!landings_.empty()) finish_landing(*landings_.begin()->first, UCS_ERR_CANCELED);
  if (FrameHandler* handler = transport_.handler()) handler->on_closed(shared_from_this(), why_);
}

}  // namespace kvferry::transport
