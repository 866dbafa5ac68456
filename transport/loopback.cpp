#include "transport/loopback.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "transport/frame_delivery.h"

namespace kvferry::transport {
namespace {

namespace asio = boost::asio;
class LoopbackChannel;

// What a transport's channels need of it; lives as long as any of them. Used on io's thread only.
struct Station {
  explicit Station(asio::io_context& context, std::string own_address)
      : io(context), address(std::move(own_address)) {}
  asio::io_context& io;
  const std::string address;
  FrameHandler* handler = nullptr;
  bool down = false;
  std::set<std::shared_ptr<LoopbackChannel>> channels;
};

class LoopbackChannel : public Channel, public std::enable_shared_from_this<LoopbackChannel> {
 public:
  explicit LoopbackChannel(std::shared_ptr<Station> station) : station_(std::move(station)) {}

  static std::shared_ptr<LoopbackChannel> join(const std::shared_ptr<Station>& near,
                                               const std::shared_ptr<Station>& far) {
    auto here = std::make_shared<LoopbackChannel>(near);
    auto there = std::make_shared<LoopbackChannel>(far);
    here->peer_ = there;
    here->far_ = far;
    there->peer_ = here;
    there->far_ = near;
    near->channels.insert(here);
    asio::post(far->io, [there] { there->accept(); });
    return here;
  }

  void send(const FrameHeader& header, std::span<const std::byte> payload,
            std::function<void(Status)> done) override {
    pending_.push_back({std::move(done), open_ ? ok_status() : unavailable("channel is closed")});
    if (open_) {
      std::vector<std::byte> copy(payload.begin(), payload.end());
      asio::post(far_->io, [peer = peer_.lock(), header, copy = std::move(copy)] {
        if (peer != nullptr) peer->deliver(header, copy);
      });
    }
    asio::post(station_->io, [self = shared_from_this()] { self->complete_one(); });
  }

  void close() override {
    if (!open_) return;
    start_close(cancelled("closed by this side"));
    asio::post(station_->io, [self = shared_from_this()] { self->finish_close(); });
  }

  bool open() const override { return open_; }
  std::string peer() const override { return far_->address; }

  // For Transport::shutdown: everything at once.
  void close_now() {
    if (open_) start_close(cancelled("transport shut down"));
    finish_close();
  }

 private:
  struct Pending {
    std::function<void(Status)> done;
    Status status;
  };

  void accept() {
    if (station_->down) {
      start_close(unavailable("transport is shut down"));
    } else {
      station_->channels.insert(shared_from_this());
    }
  }

  void deliver(const FrameHeader& header, std::span<const std::byte> payload) {
    if (!open_ || station_->handler == nullptr) return;
    deliver_frame(*station_->handler, *this, header, payload);
  }

  void complete_one() {
    if (pending_.empty()) return;  // shut down in between
    Pending next = std::move(pending_.front());
    pending_.pop_front();
    if (next.done) next.done(next.status);
  }

  void start_close(Status why) {
    open_ = false;
    why_ = std::move(why);
    asio::post(far_->io, [peer = peer_.lock()] {
      if (peer != nullptr) peer->peer_closed();
    });
  }

  void peer_closed() {
    if (!open_) return;
    open_ = false;
    why_ = unavailable("closed by the peer");
    asio::post(station_->io, [self = shared_from_this()] { self->finish_close(); });
  }

  void finish_close() {
    if (closed_) return;
    closed_ = true;
    while (!pending_.empty()) complete_one();
    const auto self = shared_from_this();
    if (station_->channels.erase(self) != 0 && station_->handler != nullptr) {
      station_->handler->on_closed(self, why_);
    }
  }

  const std::shared_ptr<Station> station_;
  std::shared_ptr<Station> far_;
  std::weak_ptr<LoopbackChannel> peer_;
  bool open_ = true;
  bool closed_ = false;
  Status why_;
  std::deque<Pending> pending_;
};

}  // namespace

struct LoopbackNetwork::State {
  std::mutex mutex;
  std::uint64_t next = 1;
  std::map<std::string, std::shared_ptr<Station>> stations;

  std::shared_ptr<Station> add(asio::io_context& io) {
    const std::lock_guard lock(mutex);
    const std::string address = "loopback:" + std::to_string(next++);
    return stations[address] = std::make_shared<Station>(io, address);
  }
  std::shared_ptr<Station> find(const std::string& address) {
    const std::lock_guard lock(mutex);
    const auto found = stations.find(address);
    return found == stations.end() ? nullptr : found->second;
  }
  void remove(const std::string& address) {
    const std::lock_guard lock(mutex);
    stations.erase(address);
  }
};

namespace {

class LoopbackTransport : public Transport {
 public:
  LoopbackTransport(std::shared_ptr<LoopbackNetwork::State> network, asio::io_context& io)
      : network_(std::move(network)), station_(network_->add(io)) {}
  ~LoopbackTransport() override { shutdown(); }

  void set_handler(FrameHandler* handler) override { station_->handler = handler; }
  void shutdown() override {
    if (station_->down) return;
    network_->remove(station_->address);
    station_->down = true;
    const auto channels = station_->channels;
    for (const auto& channel : channels) channel->close_now();
  }
  const std::string& address() const override { return station_->address; }
  Result<std::shared_ptr<Channel>> connect(const std::string& address) override {
    if (station_->down) return unavailable("transport is shut down");
    const std::shared_ptr<Station> far = network_->find(address);
    if (far == nullptr) return unavailable("no transport listens at " + address);
    return std::shared_ptr<Channel>(LoopbackChannel::join(station_, far));
  }
  std::string name() const override { return "loopback"; }
  std::string describe() const override { return "loopback in process"; }

 private:
  std::shared_ptr<LoopbackNetwork::State> network_;
  std::shared_ptr<Station> station_;
};

}  // namespace

LoopbackNetwork::LoopbackNetwork() : state_(std::make_shared<State>()) {}
LoopbackNetwork::~LoopbackNetwork() = default;

std::unique_ptr<Transport> LoopbackNetwork::attach(asio::io_context& io) {
  return std::make_unique<LoopbackTransport>(state_, io);
}

}  // namespace kvferry::transport
