// A request as the gateway's inside sees it: ids and parameters in, text and an outcome out.
// Thread contract: values.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kvferry::gateway {

struct Generation {
  std::string name;                  // of the request, in logs
  std::vector<std::int32_t> prompt;  // at least one id
  std::uint32_t max_tokens = 0;      // at least 1; prompt and this fit the context
  std::vector<std::int32_t> stop_ids;
  std::vector<std::string> stop;  // within text::StopBuffer's limits
  std::string codec;              // normalised spec
  float temperature = 0;
  std::uint32_t top_k = 0;
  float top_p = 1;
  std::uint64_t seed = 0;
  std::uint64_t timeout_ns = 0;
};

struct GenerationUsage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t completion_tokens = 0;
  std::uint32_t cached_tokens = 0;
  std::uint32_t attempts = 0;
  // Sums over the attempts that got as far as a first token, or ended without any; the others never
  // said. An attempt's prompt is the request's and the tokens that came before. 0 when no worker
  // said.
  std::uint64_t values = 0, raw_bytes = 0, sent_bytes = 0;
  double bits_per_value = 0;  // all bits of these attempts over all their values
  // From here on of the last of these attempts alone.
  double closed_bits_per_value = 0;
  double queue_ms = 0;  // in the gateway and on the worker that prefilled
  double prefill_ms = 0, encode_ms = 0, transfer_ms = 0, first_decode_ms = 0;
  double ttft_ms = 0;  // from the request's arrival to its first token, or to its end without any
  bool remote_prefill = false;
};

struct GenerationOutcome {
  Status status;              // not OK: no complete answer, and this is why
  std::string finish_reason;  // "stop" or "length" when OK
  GenerationUsage usage;
  std::vector<std::int32_t> ids;  // of the answer, stop ids left out
};

// Where a generation goes. Neither is called inside RequestManager::submit; `done` is called once,
// last, and not after RequestManager::cancel.
struct GenerationSink {
  std::function<void(std::string_view)> text;  // whole UTF-8 characters, never empty
  std::function<void(const GenerationOutcome&)> done;
};

}  // namespace kvferry::gateway
