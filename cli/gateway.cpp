// `kvferry gateway`: the gateway process.

#include "gateway/gateway.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "gateway/gateway_config.h"

namespace kvferry::cli {
namespace {

// The first signal lets what is running end, the second ends the process at once.
class Stopper {
 public:
  Stopper(boost::asio::io_context& io, gateway::Gateway& gateway)
      : io_(io), gateway_(gateway), signals_(io, SIGINT, SIGTERM) {
    wait();
  }

 private:
  void wait() {
    signals_.async_wait([this](auto error, int) {
      if (error) return;
      if (std::exchange(stopping_, true)) std::_Exit(1);
      log_info("gateway", "draining: " + std::to_string(gateway_.active()) + " requests running");
      wait();
      gateway_.drain([this] {
        gateway_.stop();
        io_.stop();
      });
    });
  }

  boost::asio::io_context& io_;
  gateway::Gateway& gateway_;
  boost::asio::signal_set signals_;
  bool stopping_ = false;
};

Status serve(const std::string& config_file) {
  KVF_ASSIGN_OR_RETURN(const gateway::GatewayConfig config,
                       gateway::load_gateway_config(config_file));
  boost::asio::io_context io(1);
  const std::unique_ptr<Timers> timers = make_asio_timers(io);
  Metrics metrics;
  KVF_ASSIGN_OR_RETURN(const auto gateway, gateway::Gateway::start(io, *timers, metrics, config));
  metrics
      .gauge("kvferry_build_info", "Always 1; the labels say what this process runs on.",
             {{"role", "gateway"}, {"model", config.model}})
      .set(1);
  log_info("gateway", "listening on " + config.host + ":" + std::to_string(gateway->port()));
  const Stopper stopper(io, *gateway);
  io.run();
  return ok_status();
}

}  // namespace

int run_gateway_command(const std::string& config_file) {
  return report("gateway", serve(config_file));
}

}  // namespace kvferry::cli
