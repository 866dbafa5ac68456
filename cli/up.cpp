// `kvferry up`: a whole cluster on this machine. Writes the configuration of each process into a
// directory and supervises the processes.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/clock.h"
#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "cli/http_client.h"
#include "cli/reserved_port.h"
#include "cli/supervisor.h"
#include "codec/codec_set.h"
#include "gateway/api_keys.h"
#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace kvferry::cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr const char* kLoopback = "127.0.0.1";

struct WorkerPlan {
  std::string name, role;
  ReservedPort control, admin;
};

// A YAML scalar in double quotes; JSON's escapes are a subset of YAML's.
std::string quoted(const std::string& text) { return json::serialize(json::value(text)); }

// A directory that is removed at the end, unless the user named it.
class WorkDirectory {
 public:
  static Result<WorkDirectory> create(const std::string& named) {
    WorkDirectory directory;
    std::error_code error;
    if (!named.empty()) {
      fs::create_directories(named, error);
      if (error) return unavailable("cannot make " + named + ": " + error.message());
      directory.path_ = fs::absolute(named);
      return directory;
    }
    std::string pattern = (fs::temp_directory_path(error) / "kvferry-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) return unavailable("cannot make " + pattern);
    directory.path_ = pattern;
    directory.remove_ = true;
    return directory;
  }
  WorkDirectory(WorkDirectory&& other) noexcept
      : path_(std::move(other.path_)), remove_(std::exchange(other.remove_, false)) {}
  ~WorkDirectory() {
    std::error_code ignored;
    if (remove_) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  WorkDirectory() = default;
  fs::path path_;
  bool remove_ = false;
};

Status write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? ok_status() : unavailable("cannot write " + path.string());
}

std::string codecs_yaml(const std::vector<std::string>& specs) {
  std::string yaml = "codecs:\n";
  for (const std::string& spec : specs) yaml += "  - " + quoted(spec) + "\n";
  return yaml;
}

std::string worker_yaml(const UpOptions& options, const codec::CodecSet& codecs,
                        const WorkerPlan& worker, int threads) {
  return fmt::format(
      "name: {}\nmodel: {}\ncompute: {}\nthreads: {}\npool_mib: {}\n{}"
      "control: {{host: {}, port: {}}}\nadmin: {{host: {}, port: {}}}\n"
      "transport: {{kind: {}, ucx_tls: {}, lease_ms: {}}}\n",
      worker.name, quoted(options.model), options.compute, threads, options.pool_mib,
      codecs_yaml(codecs.specs()), kLoopback, worker.control.port(), kLoopback, worker.admin.port(),
      options.transport, quoted(options.ucx_tls), options.lease_ms);
}

// Specs as they were given: the gateway reads the files that they name, and the workers ask it.
std::string gateway_yaml(const UpOptions& options, const std::vector<WorkerPlan>& workers) {
  // Ready with one worker of each kind that there is to be: the first answers show what is usual.
  std::string yaml = fmt::format(
      "host: {}\nport: {}\nmodel: {}\nlocal_prefill_tokens: {}\n"
      "ready: {{prefill_workers: {}, decode_workers: 1}}\n{}{}{}{}workers:\n",
      options.host, options.port, quoted(options.model), options.local_prefill_tokens,
      std::min(1u, options.prefill), codecs_yaml(options.codecs),
      options.api_keys.empty() ? "" : "api_keys: " + quoted(options.api_keys) + "\n",
      options.chat_template.empty() ? "" : "chat_template: " + quoted(options.chat_template) + "\n",
      options.served_model_name.empty()
          ? ""
          : "served_model_name: " + quoted(options.served_model_name) + "\n");
  for (const WorkerPlan& worker : workers) {
    yaml += fmt::format("  - {{host: {}, control_port: {}}}\n", kLoopback, worker.control.port());
  }
  return yaml;
}

Result<std::vector<WorkerPlan>> plan_workers(const UpOptions& options) {
  std::vector<WorkerPlan> workers;
  for (std::uint32_t i = 0; i < options.prefill + options.decode; ++i) {
    const bool prefill = i < options.prefill;
    const std::string role = prefill ? "prefill" : "decode";
    KVF_ASSIGN_OR_RETURN(ReservedPort control, ReservedPort::take(kLoopback, 0));
    KVF_ASSIGN_OR_RETURN(ReservedPort admin, ReservedPort::take(kLoopback, 0));
    workers.push_back({fmt::format("{}-{}", role, prefill ? i : i - options.prefill), role,
                       std::move(control), std::move(admin)});
  }
  return workers;
}

// For tools that watch or disturb the cluster: where everything listens.
std::string cluster_json(const UpOptions& options, const std::vector<WorkerPlan>& workers) {
  json::array list;
  for (const WorkerPlan& worker : workers) {
    list.push_back(json::object{{"name", worker.name},
                                {"role", worker.role},
                                {"control_port", worker.control.port()},
                                {"admin_port", worker.admin.port()}});
  }
  return json::serialize(
      json::object{{"gateway", json::object{{"host", options.host}, {"port", options.port}}},
                   {"workers", list}});
}

// For Prometheus's file_sd_configs: what to scrape.
std::string prometheus_targets(const UpOptions& options, const std::vector<WorkerPlan>& workers) {
  json::array groups;
  auto add = [&groups](const std::string& role, const std::string& name, const std::string& host,
                       std::uint16_t port) {
    groups.push_back(json::object{{"targets", json::array{fmt::format("{}:{}", host, port)}},
                                  {"labels", json::object{{"role", role}, {"name", name}}}});
  };
  add("gateway", "gateway", options.host, options.port);
  for (const WorkerPlan& worker : workers) {
    add(worker.role, worker.name, kLoopback, worker.admin.port());
  }
  return json::serialize(groups);
}

int threads_each(const UpOptions& options) {
  if (options.threads > 0) return options.threads;
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return std::max(1, cores / static_cast<int>(options.prefill + options.decode));
}

Status up(UpOptions options) {
  // What would make every child fail is said once, here.
  if (options.model.starts_with("random:")) {
    return invalid_argument("a random model has no tokenizer to serve with; use kvferry bench");
  }
  KVF_RETURN_IF_ERROR(model::load_config(options.model).status());
  KVF_RETURN_IF_ERROR(text::Tokenizer::load(options.model).status());
  KVF_RETURN_IF_ERROR(text::ChatTemplate::load(options.model, options.chat_template).status());
  options.model = fs::absolute(options.model);
  if (fs::exists(options.chat_template)) {
    options.chat_template = fs::absolute(options.chat_template);
  }
  if (!options.api_keys.empty()) {
    KVF_RETURN_IF_ERROR(gateway::ApiKeys::load(options.api_keys).status());
    options.api_keys = fs::absolute(options.api_keys);
  }
  if (options.codecs.empty()) {
    options.codecs = {std::string(codec::kDefaultSpec), "raw", "hadamard | hack(k=2,v=2)"};
  }
  KVF_ASSIGN_OR_RETURN(const codec::CodecSet codecs, codec::CodecSet::parse(options.codecs));
  KVF_ASSIGN_OR_RETURN(const ReservedPort front, ReservedPort::take(options.host, options.port));
  options.port = front.port();
  KVF_ASSIGN_OR_RETURN(const WorkDirectory directory, WorkDirectory::create(options.directory));
  KVF_ASSIGN_OR_RETURN(const std::vector<WorkerPlan> workers, plan_workers(options));

  const std::string program = fs::read_symlink("/proc/self/exe").string();
  std::vector<ChildSpec> children;
  for (const WorkerPlan& worker : workers) {
    const fs::path file = directory.path() / (worker.name + ".yaml");
    KVF_RETURN_IF_ERROR(
        write_file(file, worker_yaml(options, codecs, worker, threads_each(options))));
    children.push_back({worker.name, {program, worker.role, "--config", file.string()}});
  }
  const fs::path file = directory.path() / "gateway.yaml";
  KVF_RETURN_IF_ERROR(write_file(file, gateway_yaml(options, workers)));
  children.push_back({"gateway", {program, "gateway", "--config", file.string()}});
  KVF_RETURN_IF_ERROR(
      write_file(directory.path() / "cluster.json", cluster_json(options, workers)));
  KVF_RETURN_IF_ERROR(
      write_file(directory.path() / "targets.json", prometheus_targets(options, workers)));

  const HttpUrl url{options.host, options.port};
  bool ready = false;
  Supervisor supervisor(std::move(children), directory.path());
  return supervisor.run([&] {
    if (ready) return true;
    const auto answer = http_get(url, "/readyz", kSecond);
    ready = answer.ok() && answer->status == 200;
    if (ready) {
      fmt::print("serving on http://{}:{}\n", options.host, options.port);
      std::fflush(stdout);
    }
    return ready;
  });
}

}  // namespace

int run_up(const UpOptions& options) { return report("up", up(options)); }

}  // namespace kvferry::cli
