#include "cluster/listen.h"

namespace kvferry::cluster {

namespace asio = boost::asio;
using asio::ip::tcp;

Result<std::uint16_t> listen_on(tcp::acceptor& acceptor, const std::string& host,
                                std::uint16_t port) {
  const std::string where = host + ":" + std::to_string(port);
  boost::system::error_code error;
  tcp::endpoint endpoint;
  const auto address = asio::ip::make_address(host, error);
  if (!error) {
    endpoint = tcp::endpoint(address, port);
  } else {
    tcp::resolver resolver(acceptor.get_executor());
    const auto found = resolver.resolve(host, std::to_string(port), error);
    if (error || found.empty()) {
      return invalid_argument("cannot listen on " + where + ": " + error.message() +
                              "; give an address of this machine, such as 127.0.0.1 or 0.0.0.0");
    }
    endpoint = found.begin()->endpoint();
  }
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error == asio::error::address_in_use) {
    return unavailable("cannot listen on " + where + ": " + error.message() +
                       "; choose another port, or 0 for any free one, or end the process that "
                       "holds it (ss -ltnp shows which)");
  }
  if (error) return unavailable("cannot listen on " + where + ": " + error.message());
  return acceptor.local_endpoint(error).port();
}

}  // namespace kvferry::cluster
