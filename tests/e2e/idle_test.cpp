// An idle cluster uses less than 2 % of a core: nothing spins.

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cluster_fixture.h"

namespace kvferry::e2e {
namespace {

// CPU seconds that a process has used, from /proc/PID/stat (fields 14 and 15, in clock ticks).
double cpu_seconds(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

TEST(Idle, UsesLessThanTwoPercentOfACore) {
  auto cluster = Cluster::start({});
  ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
  // Connections are made by a request, and have to fall silent after it.
  const auto answer = complete((*cluster)->url(), {random_prompt(1, 500), "raw"});
  ASSERT_TRUE(answer.ok()) << answer.status().to_string();
  std::vector<std::string> names = (*cluster)->workers();
  names.push_back("gateway");
  auto total = [&] {
    double sum = 0;
    for (const std::string& name : names) {
      const auto pid = (*cluster)->process(name);
      EXPECT_TRUE(pid.ok()) << pid.status().to_string();
      if (pid.ok()) sum += cpu_seconds(*pid);
    }
    return sum;
  };
  for (const std::string& name : names) {
    const Result<int> healthy = (*cluster)->healthz(name);
    ASSERT_TRUE(healthy.ok()) << healthy.status().to_string();
    EXPECT_EQ(*healthy, 200) << name;
  }
  const double before = total();
  const std::uint64_t begin_ns = monotonic_ns();
  constexpr unsigned kWindowMs = 6000;  // a clock tick is 10 ms: 0.2 % of the window
  usleep(kWindowMs * 1000);             // the measurement itself, not a wait for something
  const double used = total() - before;
  const double elapsed = static_cast<double>(monotonic_ns() - begin_ns) * 1e-9;
  RecordProperty("idle_core_share", std::to_string(used / elapsed));
  EXPECT_LT(used / elapsed, 0.02) << used << " CPU seconds in " << elapsed;
}

}  // namespace
}  // namespace kvferry::e2e
