// Runs child processes and keeps them running: one that dies is started again (200 ms, doubling to
// 5 s while it keeps dying within 5 s). SIGINT or SIGTERM stops the last child, the front, and then
// the others with SIGTERM, and with SIGKILL those that have not ended after half the grace period
// each; a second signal kills at once. Children die with the parent.
//
// Thread contract: one thread, which must be the process's only one (signals are blocked in it and
// waited for).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"

namespace kvferry::cli {

struct ChildSpec {
  std::string name;
  std::vector<std::string> argv;  // argv[0] is the program's path
};

class Supervisor {
 public:
  // Writes the process id of each child to pid_directory/NAME.pid whenever it starts one.
  Supervisor(std::vector<ChildSpec> children, std::filesystem::path pid_directory);

  // Starts the children and returns when a signal has stopped them all. `tick` is called about four
  // times a second while running. An error if a child dies kMaxEarlyDeaths times in a row within
  // five seconds of its start before tick has returned true once ("all is well").
  Status run(const std::function<bool()>& tick);

  static constexpr std::uint32_t kMaxEarlyDeaths = 5;
  static constexpr std::uint64_t kGraceSeconds = 10;

 private:
  struct Child {
    ChildSpec spec;
    pid_t pid = -1;
    std::uint64_t started_ns = 0, start_at_ns = 0;
    std::uint32_t early_deaths = 0;
  };

  Status start_due();
  Status reap(bool restart);
  bool running(std::size_t from) const;
  void stop_all();

  std::vector<Child> children_;
  std::filesystem::path pid_directory_;
  bool well_ = false;
};

}  // namespace kvferry::cli
