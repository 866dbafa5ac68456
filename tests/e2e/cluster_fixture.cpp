#include "cluster_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "base/clock.h"

namespace kvferry::e2e {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::uint64_t kReadyNs = 60 * kSecond;
constexpr std::uint64_t kStopNs = 30 * kSecond;

// A pause between two looks at something that has no event to wait for.
void pause_poll() {
  std::this_thread::yield();
  usleep(20'000);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

[[noreturn]] void execute(const std::vector<std::string>& arguments, const fs::path& log) {
  const int fd = open(log.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0644);
  dup2(fd, STDOUT_FILENO);
  dup2(fd, STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

}  // namespace

fs::path model_directory() { return fs::path(environment("KVFERRY_SOURCE_DIR")) / "models/mini"; }

Result<std::unique_ptr<Cluster>> Cluster::start(const ClusterOptions& options) {
  for (const char* name : {"KVFERRY_PROGRAM", "KVFERRY_SOURCE_DIR"}) {
    if (environment(name).empty()) {
      return invalid_argument(std::string(name) + " is not set: run through ctest, or export it");
    }
  }
  std::unique_ptr<Cluster> cluster(new Cluster());
  std::string pattern = (fs::temp_directory_path() / "kvferry-e2e-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) return unavailable("mkdtemp");
  cluster->directory_ = pattern;
  std::vector<std::string> arguments = {environment("KVFERRY_PROGRAM"),
                                        "up",
                                        "--model",
                                        options.model.string(),
                                        "--port",
                                        "0",
                                        "--directory",
                                        pattern,
                                        "--prefill",
                                        std::to_string(options.prefill),
                                        "--decode",
                                        std::to_string(options.decode)};
  for (const char* codec : kCodecs) arguments.insert(arguments.end(), {"--codec", codec});
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  cluster->pid_ = fork();
  if (cluster->pid_ == 0) execute(arguments, cluster->directory_ / "log");
  const Status ready = cluster->wait_ready();
  if (!ready.ok()) {
    std::ifstream log(cluster->directory_ / "log");
    std::stringstream text;
    text << log.rdbuf();
    return ready.with_context("the cluster's log:\n" + text.str());
  }
  return cluster;
}

Status Cluster::wait_ready() {
  const std::uint64_t deadline_ns = monotonic_ns() + kReadyNs;
  while (monotonic_ns() < deadline_ns) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return unavailable("kvferry up ended");
    }
    if (read_ports().ok()) {
      const auto answer = cli::http_get(url_, "/readyz", kSecond);
      // Every worker, not only enough of them.
      bool all = answer.ok() && answer->status == 200;
      for (const auto& [name, admin] : admin_) {
        const auto worker = cli::http_get(admin, "/readyz", kSecond);
        all = all && worker.ok() && worker->status == 200;
      }
      if (all) return ok_status();
    }
    pause_poll();
  }
  return deadline_exceeded("not ready");
}

Status Cluster::read_ports() {
  std::ifstream file(directory_ / "cluster.json");
  std::stringstream text;
  text << file.rdbuf();
  boost::system::error_code error;
  const json::value value = json::parse(text.str(), error);
  if (error) return unavailable("no cluster.json yet");
  url_ = {"127.0.0.1", value.at("gateway").at("port").to_number<std::uint16_t>()};
  workers_.clear();
  admin_.assign(1, {"gateway", url_});
  for (const json::value& worker : value.at("workers").as_array()) {
    const std::string name(worker.at("name").as_string());
    workers_.push_back(name);
    admin_.emplace_back(
        name, cli::HttpUrl{"127.0.0.1", worker.at("admin_port").to_number<std::uint16_t>()});
  }
  return ok_status();
}

Cluster::~Cluster() {
  if (pid_ > 0 && !stop().ok() && pid_ > 0) {
    kill(pid_, SIGKILL);  // its children die with it
    waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  if (environment("KVFERRY_KEEP").empty()) fs::remove_all(directory_, ignored);
}

Result<int> Cluster::stop() {
  kill(pid_, SIGTERM);
  const std::uint64_t deadline_ns = monotonic_ns() + kStopNs;
  while (monotonic_ns() < deadline_ns) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    pause_poll();
  }
  return deadline_exceeded("kvferry up does not stop");
}

Result<pid_t> Cluster::process(const std::string& name) const {
  std::ifstream file(directory_ / (name + ".pid"));
  pid_t pid = -1;
  if (!(file >> pid) || pid <= 0) return not_found("no process " + name);
  return pid;
}

Result<int> Cluster::healthz(const std::string& process) const {
  for (const auto& [known, admin] : admin_) {
    if (known != process) continue;
    KVF_ASSIGN_OR_RETURN(const auto answer, cli::http_get(admin, "/healthz", 5 * kSecond));
    return answer.status;
  }
  return not_found("no process " + process);
}

Result<double> Cluster::metric(const std::string& process, const std::string& name,
                               const std::string& labels) const {
  for (const auto& [known, admin] : admin_) {
    if (known != process) continue;
    KVF_ASSIGN_OR_RETURN(const auto answer, cli::http_get(admin, "/metrics", 5 * kSecond));
    std::istringstream lines(answer.body);
    double sum = 0;
    bool found = false;
    for (std::string line; std::getline(lines, line);) {
      const std::size_t end = line.find_first_of("{ ");
      if (line.substr(0, end) != name || line.find(labels) == std::string::npos) continue;
      sum += std::strtod(line.c_str() + line.rfind(' ') + 1, nullptr);
      found = true;
    }
    if (found) return sum;
  }
  return not_found("no metric " + name + " of " + process);
}

Status Cluster::wait_metric(const std::string& process, const std::string& name,
                            const std::function<bool(double)>& satisfied,
                            const std::string& labels) const {
  const std::uint64_t deadline_ns = monotonic_ns() + kReadyNs;
  while (monotonic_ns() < deadline_ns) {
    const Result<double> value = metric(process, name, labels);
    if (value.ok() && satisfied(*value)) return ok_status();
    pause_poll();
  }
  return deadline_exceeded(process + ": " + name + " never satisfied its condition");
}

}  // namespace kvferry::e2e
