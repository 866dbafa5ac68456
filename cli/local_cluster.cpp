#include "cli/local_cluster.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

namespace kvferry::cli {
namespace {

constexpr std::string_view kServing = "serving on ";

[[noreturn]] void become_cluster(int output, const std::vector<std::string>& arguments) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  dup2(output, STDOUT_FILENO);
  setenv("KVFERRY_LOG", "error", 0);
  std::vector<char*> argv;
  for (const std::string& each : arguments) argv.push_back(const_cast<char*>(each.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

// Up to the end of the line that says where the cluster serves; empty when the child ended first.
std::string serving_line(int input) {
  std::string text;
  std::array<char, 256> bytes{};
  while (true) {
    const ssize_t count = read(input, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return {};
    text.append(bytes.data(), static_cast<std::size_t>(count));
    const std::size_t begin = text.find(kServing);
    const std::size_t end = begin == std::string::npos ? begin : text.find('\n', begin);
    if (end != std::string::npos) {
      return text.substr(begin + kServing.size(), end - begin - kServing.size());
    }
  }
}

}  // namespace

Result<std::unique_ptr<LocalCluster>> LocalCluster::start(const std::string& model,
                                                          const std::string& chat_template,
                                                          const std::string& codec) {
  std::vector<std::string> arguments = {std::filesystem::read_symlink("/proc/self/exe").string(),
                                        "up",
                                        "--model",
                                        model,
                                        "--port",
                                        "0"};
  if (!chat_template.empty()) {
    arguments.insert(arguments.end(), {"--chat-template", chat_template});
  }
  if (!codec.empty()) arguments.insert(arguments.end(), {"--codec", codec});
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return unavailable("no pipe for the cluster's output");
  std::unique_ptr<LocalCluster> cluster(new LocalCluster);
  cluster->pid_ = fork();
  if (cluster->pid_ == 0) become_cluster(ends[1], arguments);
  close(ends[1]);
  const std::string url = cluster->pid_ < 0 ? "" : serving_line(ends[0]);
  close(ends[0]);
  if (url.empty()) return unavailable("no cluster could be started with " + model);
  KVF_ASSIGN_OR_RETURN(cluster->url_, HttpUrl::parse(url));
  return cluster;
}

// `kvferry up` stops its own children, and kills those that hang.
LocalCluster::~LocalCluster() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace kvferry::cli
