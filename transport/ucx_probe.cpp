// Questions about UCX on this machine: for start-up and `kvferry doctor`.
#include <boost/asio/io_context.hpp>
#include <cstring>

#include "base/hash.h"
#include "transport/ucx_tls.h"
#include "transport/ucx_transport.h"
#include "transport/ucx_worker.h"

namespace kvferry::transport {
namespace {

constexpr std::size_t kTestBytes = 1 << 20;
constexpr std::uint64_t kTestDeadlineNs = 10 * kSecond;
constexpr const char* kAdvice = "; set UCX_TLS=tcp,self (or --ucx-tls tcp,self)";

// Receives one frame of kTestBytes.
class TestReceiver : public FrameHandler {
 public:
  Result<std::span<std::byte>> on_header(Channel&, const FrameHeader& header) override {
    if (header.payload_bytes != kTestBytes) return data_loss("another frame than was sent");
    memory.resize(kTestBytes);
    return std::span<std::byte>(memory);
  }
  void on_frame(Channel&, const FrameHeader&, std::span<std::byte>, const Status& s) override {
    over = true;
    status = s;
  }
  void on_bad_header(Channel&, const Status& s) override {
    over = true;
    status = s;
  }
  void on_closed(const std::shared_ptr<Channel>&, const Status& why) override {
    if (over) return;
    over = true;
    status = why;
  }

  std::vector<std::byte> memory;
  bool over = false;
  Status status;
};

FrameHeader test_header(std::span<const std::byte> payload) {
  FrameHeader header;
  header.type = FrameType::kData;
  header.tile_count = 1;
  header.token_count = 1;
  seal(header, payload);
  return header;
}

Status move_test_bytes(const std::string& tls) {
  boost::asio::io_context io;
  const std::unique_ptr<Timers> timers = make_asio_timers(io);
  UcxConfig config;
  config.tls = tls;
  std::vector<std::byte> payload(kTestBytes);
  for (std::size_t i = 0; i < payload.size(); i += 8) {
    const std::uint64_t bits = counter_random(1, i);
    std::memcpy(payload.data() + i, &bits, sizeof bits);
  }
  TestReceiver near, far;
  KVF_ASSIGN_OR_RETURN(const auto sender, make_ucx_transport(io, *timers, config));
  KVF_ASSIGN_OR_RETURN(const auto receiver, make_ucx_transport(io, *timers, config));
  sender->set_handler(&near);
  receiver->set_handler(&far);
  KVF_ASSIGN_OR_RETURN(const auto channel, sender->connect(receiver->address()));
  channel->send(test_header(payload), payload, [](const Status&) {});
  const std::uint64_t limit = monotonic_ns() + kTestDeadlineNs;
  while (!far.over && !near.over && monotonic_ns() < limit) {
    io.run_one_for(std::chrono::milliseconds(10));
  }
  sender->shutdown();
  receiver->shutdown();
  if (!far.over) {
    return near.over ? near.status : deadline_exceeded("1 MiB did not arrive within 10 s");
  }
  KVF_RETURN_IF_ERROR(far.status);
  if (far.memory != payload) return data_loss("1 MiB arrived with other bytes than were sent");
  return ok_status();
}

}  // namespace

Status ucx_self_test(const std::string& tls) {
  const Status moved = move_test_bytes(tls);
  if (moved.ok() || moved.message().find("UCX_TLS=tcp,self") != std::string::npos) return moved;
  return Status(moved.code(), "UCX self-test over '" + (tls.empty() ? "all" : tls) +
                                  "' failed: " + moved.message() + kAdvice);
}

std::vector<std::string> ucx_usable_transports() {
  UcxConfig config;
  config.tls = chosen_tls("");
  const auto context = UcxContext::create(config);
  return context.ok() ? (*context)->transports() : std::vector<std::string>();
}

}  // namespace kvferry::transport
