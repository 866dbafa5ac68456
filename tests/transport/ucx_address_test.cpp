// Addresses and lists of transports: what is handed to UCX was checked before.
#include "transport/ucx_address.h"

#include <gtest/gtest.h>

#include "transport/ucx_tls.h"

namespace kvferry::transport {
namespace {

TEST(UcxAddress, ComesBackAsItWas) {
  for (const UcxAddress& address : {UcxAddress{7, "worker", "data"}, UcxAddress{0, "", "data"},
                                    UcxAddress{7, "worker", ""}, UcxAddress{}}) {
    const auto parsed = parse_ucx_address(to_bytes(address));
    ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
    EXPECT_EQ(parsed->host, address.host);
    EXPECT_EQ(parsed->worker, address.worker);
    EXPECT_EQ(parsed->data, address.data);
  }
}

TEST(UcxAddress, EveryCutAndEveryFlippedBitIsFound) {
  const std::string bytes = to_bytes({7, "worker", "data"});
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(parse_ucx_address(bytes.substr(0, length)).ok()) << length;
  }
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(parse_ucx_address(flipped).ok()) << bit;
  }
  EXPECT_FALSE(parse_ucx_address(std::string(1 << 16, 'x')).ok());
}

TEST(UcxAddress, AHostKnowsItself) { EXPECT_EQ(this_host(), this_host()); }

TEST(UcxTls, SharedMemoryIsFoundAndTakenOut) {
  const struct {
    const char* tls;
    bool shared;
    const char* without;
  } cases[] = {
      {"tcp,self", false, "tcp,self"},
      {"all", true, "^shm"},
      {"posix,self", true, "self,tcp"},
      {"posix,cma,self", true, "self,tcp"},
      {"shm", true, "tcp"},
      {"sm,tcp,self", true, "tcp,self"},
      {"rc,ud,mm", true, "rc,ud"},
      {"^rc", true, "^rc,shm"},
      {"^shm", false, "^shm"},
      {"^rc,sm", false, "^rc,sm"},
      {"^posix", true, "^posix,shm"},
      {"self", false, "self"},
      {"rc_mlx5,sysv", true, "rc_mlx5"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(has_shared_memory(c.tls), c.shared) << c.tls;
    EXPECT_EQ(without_shared_memory(c.tls), c.without) << c.tls;
  }
  EXPECT_EQ(chosen_tls("tcp"), "tcp");
}

}  // namespace
}  // namespace kvferry::transport
