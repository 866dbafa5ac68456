#include "cli/supervisor.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace kvferry::cli {
namespace {

constexpr std::uint64_t kEarlyNs = 5 * kSecond;
constexpr std::uint64_t kTickNs = 250 * kMillisecond;

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&set, signal);
  return set;
}

// Waits for a watched signal; 0 when the time is over.
int wait_signal(std::uint64_t timeout_ns) {
  const sigset_t set = watched_signals();
  const timespec timeout{static_cast<time_t>(timeout_ns / kSecond),
                         static_cast<long>(timeout_ns % kSecond)};
  const int signal = sigtimedwait(&set, nullptr, &timeout);
  return signal < 0 ? 0 : signal;
}

std::string describe_end(int status) {
  if (WIFSIGNALED(status)) return std::string("killed by signal ") + strsignal(WTERMSIG(status));
  return "exited with status " + std::to_string(WEXITSTATUS(status));
}

// In the child: never returns.
[[noreturn]] void execute(const ChildSpec& spec, pid_t parent) {
  // A terminal's Ctrl-C goes to the parent alone, which then stops its children in order.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // the parent died before prctl
  const sigset_t set = watched_signals();
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  std::vector<char*> argv;
  for (const std::string& argument : spec.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

}  // namespace

Supervisor::Supervisor(std::vector<ChildSpec> children, std::filesystem::path pid_directory)
    : pid_directory_(std::move(pid_directory)) {
  for (ChildSpec& spec : children) children_.push_back({std::move(spec)});
}

Status Supervisor::run(const std::function<bool()>& tick) {
  const sigset_t set = watched_signals();
  sigprocmask(SIG_BLOCK, &set, nullptr);
  for (;;) {
    Status status = start_due();
    if (status.ok()) status = reap(true);
    if (!status.ok()) {
      stop_all();
      return status;
    }
    well_ = tick() || well_;
    const int signal = wait_signal(kTickNs);
    if (signal == SIGINT || signal == SIGTERM) {
      log_info("up", "stopping");
      stop_all();
      return ok_status();
    }
  }
}

Status Supervisor::start_due() {
  const std::uint64_t now = monotonic_ns();
  const pid_t self = getpid();
  for (Child& child : children_) {
    if (child.pid > 0 || now < child.start_at_ns) continue;
    const pid_t pid = fork();
    if (pid < 0) return resource_exhausted(std::string("fork: ") + std::strerror(errno));
    if (pid == 0) execute(child.spec, self);
    child.pid = pid;
    child.started_ns = now;
    std::ofstream(pid_directory_ / (child.spec.name + ".pid")) << pid << "\n";
    log_info("up", "started " + child.spec.name + ", process " + std::to_string(pid));
  }
  return ok_status();
}

Status Supervisor::reap(bool restart) {
  for (Child& child : children_) {
    int status = 0;
    if (child.pid <= 0 || waitpid(child.pid, &status, WNOHANG) != child.pid) continue;
    child.pid = -1;
    std::error_code ignored;
    std::filesystem::remove(pid_directory_ / (child.spec.name + ".pid"), ignored);
    if (!restart) continue;
    const std::uint64_t now = monotonic_ns();
    const bool early = now - child.started_ns < kEarlyNs;
    child.early_deaths = early ? child.early_deaths + 1 : 0;
    log_warn("up", child.spec.name + " " + describe_end(status) + "; starting it again");
    if (!well_ && child.early_deaths >= kMaxEarlyDeaths) {
      return unavailable(child.spec.name + " keeps dying at its start (" + describe_end(status) +
                         "); its reason is printed above");
    }
    const std::uint64_t delay_ns =
        std::min(5 * kSecond, (200 * kMillisecond) << std::min(child.early_deaths, 5u));
    child.start_at_ns = now + (early ? delay_ns : 0);
  }
  return ok_status();
}

bool Supervisor::running(std::size_t from) const {
  return std::any_of(children_.begin() + static_cast<std::ptrdiff_t>(from), children_.end(),
                     [](const Child& child) { return child.pid > 0; });
}

// The front goes first, so that what is running can still be answered by those behind it.
void Supervisor::stop_all() {
  bool impatient = false;
  for (const std::size_t from : {children_.size() - 1, std::size_t{0}}) {
    auto signal_each = [&](int signal) {
      for (std::size_t i = from; i < children_.size(); ++i) {
        if (children_[i].pid > 0) kill(children_[i].pid, signal);
      }
    };
    signal_each(impatient ? SIGKILL : SIGTERM);
    const std::uint64_t kill_at_ns = monotonic_ns() + kGraceSeconds * kSecond / 2;
    while (running(from)) {
      const int signal = wait_signal(kTickNs);
      impatient = impatient || signal == SIGINT || signal == SIGTERM;
      if (impatient || monotonic_ns() >= kill_at_ns) signal_each(SIGKILL);
      if (const Status status = reap(false); !status.ok()) return;
    }
  }
}

}  // namespace kvferry::cli
