// What a port is reserved for: its process can listen, again and again, and nobody else gets it.

#include "cli/reserved_port.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "cluster/listen.h"

namespace kvferry::cli {
namespace {

using boost::asio::ip::tcp;

constexpr const char* kHost = "127.0.0.1";

TEST(ReservedPort, ItsProcessListensOnItEachTimeItStarts) {
  const auto reserved = ReservedPort::take(kHost, 0);
  ASSERT_TRUE(reserved.ok()) << reserved.status().to_string();
  ASSERT_NE(reserved->port(), 0);
  for (int life = 0; life < 3; ++life) {
    boost::asio::io_context io;
    tcp::acceptor acceptor(io);
    const auto port = cluster::listen_on(acceptor, kHost, reserved->port());
    ASSERT_TRUE(port.ok()) << port.status().to_string();
    tcp::socket client(io);
    client.connect(acceptor.local_endpoint());  // leaves the port in TIME_WAIT
    acceptor.accept().close();
  }
}

// The kernel picks the ports of outgoing connections by the same rules as this bind.
TEST(ReservedPort, NoOutgoingConnectionGetsIt) {
  const auto reserved = ReservedPort::take(kHost, 0);
  ASSERT_TRUE(reserved.ok()) << reserved.status().to_string();
  boost::asio::io_context io;
  tcp::socket outgoing(io, tcp::v4());
  boost::system::error_code error;
  outgoing.bind({boost::asio::ip::make_address(kHost), reserved->port()}, error);
  EXPECT_EQ(error, boost::asio::error::address_in_use);
}

TEST(ReservedPort, OneThatSomebodyListensOnIsRefused) {
  boost::asio::io_context io;
  tcp::acceptor acceptor(io);
  const auto port = cluster::listen_on(acceptor, kHost, 0);
  ASSERT_TRUE(port.ok()) << port.status().to_string();
  const auto reserved = ReservedPort::take(kHost, *port);
  ASSERT_FALSE(reserved.ok());
  EXPECT_EQ(reserved.status().code(), Code::kUnavailable);
  EXPECT_NE(reserved.status().message().find("--port 0"), std::string::npos);
}

TEST(ReservedPort, AnAddressIsAnIpV4Address) {
  EXPECT_EQ(ReservedPort::take("localhost", 0).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace kvferry::cli
