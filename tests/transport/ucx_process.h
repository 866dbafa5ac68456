// A second process for the tests of UCX: this program again, in a helper mode, driven through
// pipes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "transport/kv_transfer.h"

namespace kvferry::transport::testing {

// What both processes agree on without saying it: the identity and every byte of a transfer follow
// from these numbers.
struct Job {
  std::uint64_t id = 0;
  std::uint32_t tokens = 0;
  std::uint32_t layers = 0;
  std::uint32_t bytes_per_token = 0;
  TransferIdentity identity() const;
  std::vector<std::byte> segment(std::uint32_t layer, std::uint32_t tile) const;
  std::uint32_t tiles() const { return (tokens + 63) / 64; }
};

// Runs the helper when the program was started as one: argv[1] is "--helper", argv[2] the UCX_TLS.
// It prints "address HEX" and obeys lines on standard input:
//   expect ID TOKENS LAYERS BYTES          -> "half ID" when half has landed, then
//                                             "complete ID 1|0 SECONDS BYTES" (1: right bytes) or
//   "failed ID CODE" send ID TOKENS LAYERS BYTES COMMIT HEX -> "acknowledged ID" or "failed ID
//   CODE"; COMMIT 0: never commits
// End of input: clean exit.
int run_helper(const std::string& tls);

class HelperProcess {
 public:
  explicit HelperProcess(const std::string& tls);
  ~HelperProcess();  // ends it, by force if it does not go
  HelperProcess(const HelperProcess&) = delete;
  HelperProcess& operator=(const HelperProcess&) = delete;

  const std::string& address() const { return address_; }
  void tell(const std::string& line);
  std::string read_line();  // waits; "" at the end of output
  std::string read_end();   // the next line that is not "half"
  void signal(int number);
  int finish();  // closes its input, waits for it, returns its exit status
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  int to_ = -1;
  std::FILE* from_ = nullptr;
  std::string address_;
};

std::string to_hex(const std::string& bytes);
std::string from_hex(const std::string& text);

}  // namespace kvferry::transport::testing
