// Transfers between processes over UCX: TCP and shared memory, undisturbed and with processes that
// are killed or stopped in the middle.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <set>
#include <sstream>

#include "base/log.h"
#include "tests/transport/ucx_process.h"
#include "transport/ucx_transport.h"

namespace kvferry::transport::testing {
namespace {

std::string numbers(const Job& job) {
  return std::to_string(job.id) + " " + std::to_string(job.tokens) + " " +
         std::to_string(job.layers) + " " + std::to_string(job.bytes_per_token);
}

void expect_at(HelperProcess& d, const Job& job) { d.tell("expect " + numbers(job)); }

void send_from(HelperProcess& p, const Job& job, bool commit, const HelperProcess& d) {
  p.tell("send " + numbers(job) + (commit ? " 1 " : " 0 ") + d.address());
}

TEST(UcxMachine, SelfTestPasses) {
  for (const char* tls : {"tcp,self", "posix,self", "sysv,self", ""}) {
    const Status status = ucx_self_test(tls);
    EXPECT_TRUE(status.ok()) << tls << ": " << status.to_string();
  }
}

TEST(UcxMachine, UnknownTransportSaysWhatToDo) {
  const Status status = ucx_self_test("nosuch");
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("UCX_TLS=tcp,self"), std::string::npos) << status.to_string();
}

TEST(UcxMachine, NamesWhatThereIs) {
  EXPECT_EQ(ucx_version().substr(0, 2), "1.");
  const auto usable = ucx_usable_transports();
  EXPECT_NE(std::find(usable.begin(), usable.end(), "tcp"), usable.end());
}

class UcxProcesses : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Transports, UcxProcesses,
                         ::testing::Values("tcp,self", "posix,self", "posix,cma,self", "all"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), ',', '_');
                           return name;
                         });

TEST_P(UcxProcesses, TransfersArrive) {
  HelperProcess p(GetParam());
  HelperProcess d(GetParam());
  std::vector<Job> jobs;
  for (const std::uint32_t tokens : {1u, 63u, 64u, 65u, 500u, 2000u}) {
    for (const std::uint32_t bytes : {1u, 512u}) {
      jobs.push_back({jobs.size() + 1, tokens, 4, bytes});
    }
  }
  for (const Job& job : jobs) {
    if (job.id % 2 == 0) expect_at(d, job);
    send_from(p, job, true, d);
    if (job.id % 2 == 1) expect_at(d, job);
  }
  std::set<std::uint64_t> complete, acknowledged;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    std::istringstream at_d(d.read_end()), at_p(p.read_line());
    std::string verb;
    std::uint64_t id = 0;
    bool right = false;
    at_d >> verb >> id >> right;
    EXPECT_EQ(verb, "complete");
    EXPECT_TRUE(right);
    complete.insert(id);
    at_p >> verb >> id;
    EXPECT_EQ(verb, "acknowledged");
    acknowledged.insert(id);
  }
  EXPECT_EQ(complete.size(), jobs.size());
  EXPECT_EQ(acknowledged.size(), jobs.size());
  EXPECT_EQ(p.finish(), 0) << "nothing is leased at the end";
  EXPECT_EQ(d.finish(), 0) << "nothing is leased at the end";
}

// 32 MiB in tiles of 32 KiB: frames of 1 MiB, eight of them in flight.
Job large(std::uint64_t id) { return {id, 16384, 4, 512}; }

// Killed in the middle, with frames in flight: the other side fails by itself, and goes on working
// with a new peer.
TEST_P(UcxProcesses, ReceiverKilled) {
  HelperProcess p(GetParam());
  for (std::uint64_t id = 1; id <= 3; id += 2) {
    {
      HelperProcess d(GetParam());
      d.tell("expect_and_die " + numbers(large(id)));
      send_from(p, large(id), true, d);
      EXPECT_EQ(p.read_line(), "failed " + std::to_string(id) + " unavailable");
    }
    HelperProcess d(GetParam());
    expect_at(d, {id + 1, 500, 4, 8});
    send_from(p, {id + 1, 500, 4, 8}, true, d);
    EXPECT_TRUE(d.read_end().starts_with("complete " + std::to_string(id + 1) + " 1"));
    EXPECT_EQ(p.read_line(), "acknowledged " + std::to_string(id + 1));
  }
  EXPECT_EQ(p.finish(), 0) << "what was being sent to the dead was given back";
}

// Over shared memory about every tenth of these kills hits a sender that has reserved a slot of the
// receiver's queue and not filled it (mm_ep.c): nobody else may be stopped by that.
TEST_P(UcxProcesses, SenderKilled) {
  HelperProcess d(GetParam());
  for (std::uint64_t id = 1; id <= 3; id += 2) {
    {
      HelperProcess p(GetParam());
      expect_at(d, large(id));
      send_from(p, large(id), false, d);  // never commits, so D cannot be done before
      EXPECT_EQ(d.read_line(), "half " + std::to_string(id));
      p.signal(SIGKILL);
      EXPECT_EQ(d.read_line(), "failed " + std::to_string(id) + " unavailable");
    }
    HelperProcess p(GetParam());
    expect_at(d, {id + 1, 500, 4, 8});
    send_from(p, {id + 1, 500, 4, 8}, true, d);
    EXPECT_TRUE(d.read_end().starts_with("complete " + std::to_string(id + 1) + " 1"));
  }
  EXPECT_EQ(d.finish(), 0) << "what was landing when the sender died was given back";
}

// A receiver that is stopped holds its connections open; only the lease ends the transfer. Thawed,
// it learns that it is over.
TEST_P(UcxProcesses, ReceiverStoppedLongerThanTheLease) {
  HelperProcess p(GetParam());
  HelperProcess d(GetParam());
  const Job job{1, 2000, 4, 512};
  expect_at(d, job);
  send_from(p, job, false, d);
  expect_at(d, {2, 64, 1, 1});
  send_from(p, {2, 64, 1, 1}, true, d);
  EXPECT_TRUE(d.read_end().starts_with("complete 2 1"));
  EXPECT_EQ(p.read_line(), "acknowledged 2");
  d.signal(SIGSTOP);
  EXPECT_TRUE(p.read_line().starts_with("failed 1 unavailable"));
  d.signal(SIGCONT);
  EXPECT_TRUE(d.read_end().starts_with("failed 1 "));
  EXPECT_EQ(p.finish(), 0);
  EXPECT_EQ(d.finish(), 0);
}

}  // namespace
}  // namespace kvferry::transport::testing

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--helper") {
    return kvferry::transport::testing::run_helper(argv[2]);
  }
  ::testing::InitGoogleTest(&argc, argv);
  kvferry::set_log_level(kvferry::LogLevel::kError);
  return RUN_ALL_TESTS();
}
