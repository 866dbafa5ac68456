#include "transport/fault_transport.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <deque>

namespace kvferry::transport {

// The policy works on copies, so a send is done as soon as its copy is made.
class FaultChannel : public Channel, public std::enable_shared_from_this<FaultChannel> {
 public:
  FaultChannel(Channel& inner, boost::asio::io_context& io, FaultPolicy& policy)
      : inner_(&inner), io_(io), policy_(policy), peer_(inner.peer()) {}

  void send(const FrameHeader& header, std::span<const std::byte> payload,
            std::function<void(Status)> done) override {
    pending_.push_back(std::move(done));
    const bool sent = open();
    if (sent) {
      policy_.on_send(*this, {header, {payload.begin(), payload.end()}},
                      [weak = weak_from_this()](const WireFrame& frame) {
                        if (const auto self = weak.lock()) self->forward(frame);
                      });
    }
    boost::asio::post(io_, [self = shared_from_this(), sent] {
      self->complete_one(sent ? ok_status() : unavailable("channel is closed"));
    });
  }
  void close() override {
    if (inner_ != nullptr) inner_->close();
  }
  bool open() const override { return inner_ != nullptr && inner_->open(); }
  std::string peer() const override { return peer_; }

  void inner_closed() {
    inner_ = nullptr;
    while (!pending_.empty()) complete_one(unavailable("channel is closed"));
  }

 private:
  void forward(const WireFrame& frame) {
    if (!open()) return;
    auto kept = std::make_shared<WireFrame>(frame);
    inner_->send(kept->header, kept->payload, [kept](const Status&) {});
  }
  void complete_one(const Status& status) {
    if (pending_.empty()) return;  // completed by inner_closed
    const auto done = std::move(pending_.front());
    pending_.pop_front();
    if (done) done(status);
  }

  Channel* inner_;
  boost::asio::io_context& io_;
  FaultPolicy& policy_;
  const std::string peer_;
  std::deque<std::function<void(Status)>> pending_;
};

FaultTransport::FaultTransport(Transport& inner, boost::asio::io_context& io, FaultPolicy& policy)
    : inner_(inner), io_(io), policy_(policy) {
  inner_.set_handler(this);
}

FaultTransport::~FaultTransport() {
  inner_.shutdown();
  inner_.set_handler(nullptr);
}

Result<std::shared_ptr<Channel>> FaultTransport::connect(const std::string& address) {
  KVF_ASSIGN_OR_RETURN(const std::shared_ptr<Channel> channel, inner_.connect(address));
  return std::shared_ptr<Channel>(wrap(*channel).shared_from_this());
}

FaultChannel& FaultTransport::wrap(Channel& channel) {
  auto& wrapped = channels_[&channel];
  if (wrapped == nullptr) wrapped = std::make_shared<FaultChannel>(channel, io_, policy_);
  return *wrapped;
}

Result<std::span<std::byte>> FaultTransport::on_header(Channel& channel,
                                                       const FrameHeader& header) {
  if (handler_ == nullptr) return unavailable("nobody receives");
  return handler_->on_header(wrap(channel), header);
}

void FaultTransport::on_frame(Channel& channel, const FrameHeader& header,
                              std::span<std::byte> payload, const Status& status) {
  if (handler_ != nullptr) handler_->on_frame(wrap(channel), header, payload, status);
}

void FaultTransport::on_bad_header(Channel& channel, const Status& status) {
  if (handler_ != nullptr) handler_->on_bad_header(wrap(channel), status);
}

void FaultTransport::on_closed(const std::shared_ptr<Channel>& channel, const Status& why) {
  wrap(*channel);
  const auto found = channels_.find(channel.get());
  const std::shared_ptr<FaultChannel> wrapped = std::move(found->second);
  channels_.erase(found);
  wrapped->inner_closed();
  if (handler_ != nullptr) handler_->on_closed(wrapped, why);
}

}  // namespace kvferry::transport
