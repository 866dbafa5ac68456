#include "tests/transport/ucx_process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/streambuf.hpp>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>

#include "base/extent_pool.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/metrics.h"
#include "tests/transport/fake_codec.h"
#include "transport/transfer_hub.h"
#include "transport/ucx_transport.h"

namespace kvferry::transport::testing {

TransferIdentity Job::identity() const {
  TransferIdentity identity;
  identity.request_id = id + 1;
  identity.transfer_id = id;
  identity.model_fingerprint = 3;
  identity.numerics_class = 4;
  identity.tokens = tokens;
  identity.codec = std::make_shared<FakeCodec>("fake", bytes_per_token);
  identity.geometry = {layers, 2, 4, 64};
  return identity;
}

std::vector<std::byte> Job::segment(std::uint32_t layer, std::uint32_t tile) const {
  const TransferIdentity identity_of = identity();
  const std::uint32_t count = std::min(64u, tokens - tile * 64);
  std::vector<std::byte> bytes(
      identity_of.codec->segment_bytes(identity_of.geometry, layer, tile, count));
  if (!identity_of.codec->encode(identity_of.geometry, layer, tile, count, {}, bytes).ok()) abort();
  return bytes;
}

std::string to_hex(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(c));
    text += digits;
  }
  return text;
}

std::string from_hex(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

namespace {

TransferConfig helper_config() {
  TransferConfig config;
  config.lease_ns = 2 * kSecond;
  config.lease_extend_ns = 2 * kSecond;
  config.beat_ns = 400 * kMillisecond;
  config.retransmit_ns = kSecond;
  config.drain_ns = 500 * kMillisecond;
  return config;
}

void say(const std::string& line) { std::cout << line << std::endl; }

class Helper {
 public:
  explicit Helper(const std::string& tls)
      : timers_(make_asio_timers(io_)),
        pool_(std::move(ExtentPool::create(std::size_t{64} << 20)).value()),
        input_(io_, ::dup(STDIN_FILENO)) {
    UcxConfig config;
    config.tls = tls;
    transport_ = std::move(make_ucx_transport(io_, *timers_, config)).value();
    hub_ = std::make_unique<TransferHub>(*transport_, *timers_, *pool_, fresh_id(),
                                         ModelIdentity{3, 4}, metrics_, helper_config());
  }

  int run() {
    say("address " + to_hex(transport_->address()));
    read_line();
    io_.run();
    const bool clean = hub_->idle() && pool_->usage().free == pool_->usage().pool;
    hub_.reset();
    return clean ? 0 : 3;
  }

 private:
  struct Receiving {
    Job job;
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::vector<std::byte>> landed;
  };
  struct Sending {
    std::vector<std::vector<std::byte>> segments;
  };

  void read_line() {
    boost::asio::async_read_until(input_, buffer_, '\n',
                                  [this](boost::system::error_code error, std::size_t) {
                                    if (error) return io_.stop();
                                    std::istream in(&buffer_);
                                    std::string line;
                                    std::getline(in, line);
                                    obey(line);
                                    read_line();
                                  });
  }

  void obey(const std::string& line) {
    std::istringstream in(line);
    std::string verb;
    Job job;
    in >> verb >> job.id >> job.tokens >> job.layers >> job.bytes_per_token;
    if (verb == "expect" || verb == "expect_and_die") return expect(job, verb != "expect");
    bool commit = false;
    std::string address;
    in >> commit >> address;
    send(job, commit, from_hex(address));
  }

  void expect(const Job& job, bool die) {
    auto state = std::make_shared<Receiving>();
    state->job = job;
    ReceiveCallbacks callbacks;
    callbacks.land = [state, die](std::uint32_t layer, std::uint32_t tile) -> std::span<std::byte> {
      const std::size_t half = state->job.layers * state->job.tiles() / 2;
      if (state->landed.size() == half) say("half " + std::to_string(state->job.id));
      if (state->landed.size() == half && die) raise(SIGKILL);
      auto& memory = state->landed[{layer, tile}];
      const TransferIdentity identity = state->job.identity();
      memory.resize(identity.codec->segment_bytes(identity.geometry, layer, tile,
                                                  std::min(64u, state->job.tokens - tile * 64)));
      return memory;
    };
    callbacks.complete = [state](const FirstTokens& first, const TransferStats& stats) {
      bool right = first.choices.size() == 1 && first.choices[0].id == 42;
      for (const auto& [where, bytes] : state->landed) {
        right = right && bytes == state->job.segment(where.first, where.second);
      }
      std::ostringstream out;
      out << "complete " << state->job.id << ' ' << right << ' '
          << static_cast<double>(stats.last_data_ns - stats.first_data_ns) * 1e-9 << ' '
          << stats.payload_bytes;
      say(out.str());
    };
    callbacks.failed = [id = job.id](const Status& why) {
      say("failed " + std::to_string(id) + " " + std::string(code_name(why.code())));
    };
    const Status expected = hub_->receiver().expect(
        job.identity(), timers_->now_ns() + 60 * kSecond, std::move(callbacks));
    if (!expected.ok()) say("failed " + std::to_string(job.id) + " " + expected.to_string());
  }

  void send(const Job& job, bool commit, const std::string& address) {
    auto state = std::make_shared<Sending>();
    SendCallbacks callbacks;
    callbacks.acknowledged = [state, id = job.id] { say("acknowledged " + std::to_string(id)); };
    callbacks.failed = [state, id = job.id](const Status& why) {
      say("failed " + std::to_string(id) + " " + std::string(code_name(why.code())));
    };
    const Status opened =
        hub_->sender().open(job.identity(), address, timers_->now_ns() + 60 * kSecond, callbacks);
    if (!opened.ok()) return say("failed " + std::to_string(job.id) + " " + opened.to_string());
    for (std::uint32_t layer = 0; layer < job.layers; ++layer) {
      for (std::uint32_t tile = 0; tile < job.tiles(); ++tile) {
        state->segments.push_back(job.segment(layer, tile));
      }
    }
    for (std::uint32_t layer = 0; layer < job.layers; ++layer) {
      std::vector<OutgoingSegment> segments(state->segments.begin() + layer * job.tiles(),
                                            state->segments.begin() + (layer + 1) * job.tiles());
      hub_->sender().push(job.id, layer, 0, std::move(segments));
    }
    if (commit) hub_->sender().commit(job.id, {{{42, -1}}, {}}, {});
  }

  boost::asio::io_context io_;
  std::unique_ptr<Timers> timers_;
  std::unique_ptr<ExtentPool> pool_;
  Metrics metrics_;
  boost::asio::posix::stream_descriptor input_;
  boost::asio::streambuf buffer_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<TransferHub> hub_;
};

}  // namespace

int run_helper(const std::string& tls) {
  if (std::getenv("KVFERRY_LOG") == nullptr) set_log_level(LogLevel::kError);
  return Helper(tls).run();
}

HelperProcess::HelperProcess(const std::string& tls) {
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) abort();
  pid_ = fork();
  if (pid_ == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    execl("/proc/self/exe", "transport_ucx_test", "--helper", tls.c_str(), nullptr);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  to_ = in[1];
  from_ = fdopen(out[0], "r");
  const std::string line = read_line();
  if (line.starts_with("address ")) address_ = line.substr(8);
}

HelperProcess::~HelperProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (to_ >= 0) close(to_);
  fclose(from_);
}

void HelperProcess::tell(const std::string& line) {
  const std::string text = line + "\n";
  if (write(to_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) abort();
}

// UCX writes its warnings to standard output too: only the helper's own lines count.
std::string HelperProcess::read_line() {
  char* text = nullptr;
  std::size_t size = 0;
  std::string line;
  while (getline(&text, &size, from_) > 0) {
    line = text;
    line.pop_back();
    if (!line.starts_with('[')) break;
    line.clear();
  }
  free(text);
  return line;
}

void HelperProcess::signal(int number) {
  kill(pid_, number);
  if (number != SIGKILL) return;
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::string HelperProcess::read_end() {
  std::string line = read_line();
  while (line.starts_with("half ")) line = read_line();
  return line;
}

int HelperProcess::finish() {
  close(to_);
  to_ = -1;
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace kvferry::transport::testing
