// Channels and progress of the UCX transport. Internal to transport/.
//
// A channel is named by the connector's random key; each side has endpoints to the other's workers
// and sends on its own. Every transport has one worker for the network; handshakes go over it, and
// so do frames to other machines. Two processes of one machine move their frames over a pair of
// workers made for this channel, which may use shared memory: UCX's shared-memory queue has one
// reader and any number of writers, and a writer that is killed between reserving a slot and
// filling it stops the reader for good (UCX 1.13, mm_ep.c). In a queue of its own it stops nobody
// else, and its end is seen at once on the network endpoint.
//
// Handshake: HELLO(key, connector's addresses) -> HELLO_ACK(key, acceptor's); frames wait for the
// answer. BYE(key) says that a side closed, behind its last frame.
//
// Thread contract: the reactor's thread.
#pragma once

#include <ucp/api/ucp.h>

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "transport/channel.h"
#include "transport/ucx_address.h"
#include "transport/ucx_transport.h"
#include "transport/ucx_worker.h"

namespace kvferry::transport {

class UcxTransport;

inline constexpr unsigned kUcxNoteId = 1;  // of active messages
inline constexpr unsigned kUcxFrameId = 2;

enum class UcxNote : std::uint32_t { kHello = 1, kHelloAck = 2, kBye = 3 };

// Before every message's own header. from_connector lets a process talk to itself.
struct UcxPrefix {
  std::uint64_t key = 0;
  std::uint32_t from_connector = 0;
  std::uint32_t note = 0;  // a UcxNote; 0 for frames
};
static_assert(sizeof(UcxPrefix) == 16);

struct UcxMessageHeader {  // of a frame's active message
  UcxPrefix prefix;
  FrameHeader frame;
};
static_assert(sizeof(UcxMessageHeader) == 144);

class UcxChannel : public Channel, public std::enable_shared_from_this<UcxChannel> {
 public:
  UcxChannel(UcxTransport& transport, std::uint64_t key, bool connector)
      : transport_(transport), key_(key), connector_(connector) {}
  ~UcxChannel() override;

  // Channel.
  void send(const FrameHeader& header, std::span<const std::byte> payload,
            std::function<void(Status)> done) override;
  void close() override { start_close(cancelled("closed by this side"), true); }
  bool open() const override { return state_ != State::kClosing && state_ != State::kClosed; }
  std::string peer() const override { return peer_; }

  // The transport's business.
  Status connect(const std::string& worker_address);  // of the peer's network worker
  Status make_local_worker();                         // this side's own, for frames
  const std::string& data_address() const;            // of that; "" without
  Status connect_data(const std::string& worker_address);
  void established();  // the handshake is done: sends what waited
  void start_close(const Status& why, bool say_bye);
  // Drives closing; true once nothing of the channel is in use.
  bool closed_now(std::uint64_t now_ns);
  void finish_close();  // completes what UCX let go of and reports on_closed
  void receive_rendezvous(const FrameHeader& header, void* descriptor,
                          std::span<std::byte> landing);
  void note(UcxNote what, const std::string& body);
  bool busy() const {
    return state_ == State::kConnecting || !sends_.empty() || !landings_.empty();
  }
  bool connecting() const { return state_ == State::kConnecting; }
  std::uint64_t key() const { return key_; }
  bool connector() const { return connector_; }
  std::uint64_t since_ns = 0;  // of the state

 private:
  enum class State { kConnecting, kOpen, kClosing, kClosed };
  struct Send {  // one active message on its way
    UcxChannel* channel = nullptr;
    UcxMessageHeader header;
    std::span<const std::byte> payload;
    std::vector<std::byte> body;  // of notes
    std::function<void(Status)> done;
    bool is_note = false;
  };
  struct Landing {  // one rendezvous on its way
    UcxChannel* channel = nullptr;
    FrameHeader header;
    std::span<std::byte> memory;
  };

  Result<ucp_ep_h> new_endpoint(UcxWorker& worker, const std::string& address);
  // Frames, and the BYE behind them.
  ucp_ep_h frame_endpoint() const { return data_ != nullptr ? data_ : control_; }
  bool endpoints_closed();
  Send& add_send();
  void start(Send& send);
  static void sent(void* request, ucs_status_t status, void* user);
  static void landed(void* request, ucs_status_t status, std::size_t length, void* user);
  static void failed(void* user, ucp_ep_h endpoint, ucs_status_t status);
  void finish_send_later(Send& send, ucs_status_t status);
  void finish_send(Send& send, ucs_status_t status);
  void finish_landing(Landing& landing, ucs_status_t status);

  UcxTransport& transport_;
  const std::uint64_t key_;
  const bool connector_;
  std::shared_ptr<UcxWorker> local_;  // null: frames arrive at the network worker
  ucp_ep_h control_ = nullptr;        // to the peer's network worker
  ucp_ep_h data_ = nullptr;           // to its worker for this channel; null: there is none
  std::vector<void*> close_requests_;
  State state_ = State::kConnecting;
  Status why_;
  std::string peer_ = "ucx";
  std::map<Send*, std::unique_ptr<Send>> sends_;
  std::map<Landing*, std::unique_ptr<Landing>> landings_;
  std::deque<Send*> waiting_;  // of sends_: for the handshake
  bool bye_ = false;
};

struct UcxContexts {
  std::shared_ptr<UcxContext> network;  // without shared memory
  std::shared_ptr<UcxContext> local;    // with it; null when it was not chosen
};

class UcxTransport : public Transport {
 public:
  // config.tls: as chosen, not empty.
  UcxTransport(boost::asio::io_context& io, Timers& timers, const UcxConfig& config,
               UcxContexts contexts);
  ~UcxTransport() override;
  Status start();

  // Transport.
  void set_handler(FrameHandler* handler) override { handler_ = handler; }
  void shutdown() override;
  const std::string& address() const override { return address_; }
  Result<std::shared_ptr<Channel>> connect(const std::string& address) override;
  std::string name() const override { return "ucx"; }
  std::string describe() const override;

  // For channels.
  UcxWorker& network() { return *network_; }
  Result<std::shared_ptr<UcxWorker>> add_local_worker();
  void remove_worker(const std::shared_ptr<UcxWorker>& worker);
  FrameHandler* handler() const { return handler_; }
  Timers& timers() { return timers_; }
  std::uint64_t close_ns() const { return config_.close_ns; }
  void later(std::function<void()> task);  // runs soon, not inside the current call
  void wake();                             // there is something to progress
  void learned_lanes(const std::string& lanes) { lanes_ = lanes; }

 private:
  using Key = std::pair<std::uint64_t, bool>;  // and whether this side is the connector

  static ucs_status_t on_note(void* self, const void* header, std::size_t header_bytes, void* data,
                              std::size_t bytes, const ucp_am_recv_param_t* param);
  static ucs_status_t on_frame(void* self, const void* header, std::size_t header_bytes, void* data,
                               std::size_t bytes, const ucp_am_recv_param_t* param);
  ucs_status_t receive_frame(UcxChannel& channel, const FrameHeader& header, void* data,
                             std::size_t bytes, bool rendezvous);
  Result<std::shared_ptr<UcxWorker>> add_worker(const std::shared_ptr<UcxContext>& context);
  bool shares_memory_with(const UcxAddress& peer) const;
  void hello(const UcxPrefix& prefix, const std::string& body);
  void hello_ack(const UcxPrefix& prefix, const std::string& body);
  std::shared_ptr<UcxChannel> find(const UcxPrefix& prefix) const;
  void pump();
  void run_later();
  bool progress();
  void fallback();
  void reap();
  bool busy() const;

  boost::asio::io_context& io_;
  Timers& timers_;
  const UcxConfig config_;
  const UcxContexts contexts_;
  const std::uint64_t host_ = this_host();
  std::shared_ptr<UcxWorker> network_;
  std::vector<std::shared_ptr<UcxWorker>> workers_;  // network_ and those of channels
  std::string address_;
  std::string lanes_;
  FrameHandler* handler_ = nullptr;
  std::map<Key, std::shared_ptr<UcxChannel>> channels_;
  std::deque<std::function<void()>> later_;
  bool pump_posted_ = false;
  bool down_ = false;
  Timers::Id fallback_ = 0;
  std::uint64_t look_ns_ = 50'000;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kvferry::transport
