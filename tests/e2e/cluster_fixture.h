// A real cluster for tests: `kvferry up` as a child process on loopback, and a small client.
// Thread contract: a Cluster belongs to one thread; the client functions may run on many.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/http_client.h"

namespace kvferry::e2e {

// The bundled model.
std::filesystem::path model_directory();

// What clusters allow, the default first, and tests ask for in turn: with and without a wire form,
// and from kOtherCodecs on one of each kind that is unlike those.
inline constexpr const char* kCodecs[] = {
    "hadamard | hack(k=4,v=2)",
    "raw",
    "hadamard | hack(k=2,v=2) | rans",
    "raw | lossless",
    "kivi(k=2,v=2)",               // tiles of 128 tokens
    "hack(k=4,v=2,layout=paper)",  // another layout
    "dequantize | hack(k=2,v=2)",  // attends on what it makes of the codes
    "mean | int(k=4,v=4)",         // has no kernel of its own
};
inline constexpr std::size_t kOtherCodecs = 4;

struct ClusterOptions {
  std::filesystem::path model = model_directory();
  std::uint32_t prefill = 1, decode = 1;
  std::vector<std::string> arguments;  // more for `kvferry up`
};

class Cluster {
 public:
  // Starts `kvferry up` on the model with kCodecs and returns when it is ready.
  static Result<std::unique_ptr<Cluster>> start(const ClusterOptions& options);
  ~Cluster();  // stops it if stop() was not called
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  // SIGTERM to `kvferry up`; its exit status, or an error if it hangs.
  Result<int> stop();

  const cli::HttpUrl& url() const { return url_; }
  // Process id as `kvferry up` last wrote it: of prefill-0, decode-1, gateway. kNotFound while it
  // restarts: kill() would take -1 to mean every process there is.
  Result<pid_t> process(const std::string& name) const;
  std::vector<std::string> workers() const { return workers_; }
  // A metric of a worker or of "gateway"; the sum over all label sets that contain `labels`.
  // kNotFound if it is not there.
  Result<double> metric(const std::string& process, const std::string& name,
                        const std::string& labels = "") const;
  // The status that /healthz of a worker or of "gateway" answers.
  Result<int> healthz(const std::string& process) const;
  // Polls until metric(...) satisfies the predicate; kDeadlineExceeded after 60 s.
  Status wait_metric(const std::string& process, const std::string& name,
                     const std::function<bool(double)>& satisfied,
                     const std::string& labels = "") const;

 private:
  Cluster() = default;
  Status read_ports();
  Status wait_ready();

  pid_t pid_ = -1;
  std::filesystem::path directory_;
  cli::HttpUrl url_;
  std::vector<std::string> workers_;
  std::vector<std::pair<std::string, cli::HttpUrl>> admin_;
};

// A request to /v1/completions and what it must answer.
struct Ask {
  std::vector<std::int32_t> prompt;
  std::string codec;
  float temperature = 0;
  std::uint64_t seed = 0;
  std::uint32_t max_tokens = 16;
  std::uint32_t choices = 1;
  bool penalties = false;  // one of every kind
  bool logprobs = false;   // with the two most probable tokens
};

struct Answer {
  int status = 0;
  std::vector<std::int32_t> ids;  // of the first choice
  std::string finish_reason;
  std::vector<std::vector<std::int32_t>> others;  // ids of the other choices
  std::vector<double> logprobs;  // of the first choice: of each token, and of the two most probable
  std::string error;
  std::uint32_t events = 0;  // of a stream
  bool done = false;         // a stream ended with [DONE]
};

Result<Answer> complete(const cli::HttpUrl& url, const Ask& ask);

// Streams; on_event is called after every SSE event with the answer so far; false closes the
// connection at once.
Result<Answer> stream(const cli::HttpUrl& url, const Ask& ask,
                      const std::function<bool(const Answer&)>& on_event = nullptr);

// Sends a streaming request and closes the connection without reading an answer.
void abandon(const cli::HttpUrl& url, const Ask& ask);

// The prompt of `length` ids that `seed` makes, from the vocabulary of the bundled model and of
// random checkpoints without its special ids, opening with BOS.
std::vector<std::int32_t> random_prompt(std::uint64_t seed, std::uint32_t length);

// Answers of one process, `kvferry generate`'s way, for comparison.
class Undisturbed {
 public:
  // codecs: the specs that it allows; none: those of `kvferry up`.
  static Result<std::unique_ptr<Undisturbed>> create(
      const std::filesystem::path& model = model_directory(), std::vector<std::string> codecs = {});
  ~Undisturbed();
  Result<Answer> answer(const Ask& ask);

 private:
  struct Impl;
  explicit Undisturbed(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry::e2e
