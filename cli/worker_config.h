// Configuration of a prefill or decode process. docs/operations.md is its reference.
// Thread contract: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/control.h"
#include "decode/decode_engine.h"
#include "model/model.h"
#include "prefill/prefill_engine.h"
#include "transport/transfer_config.h"

namespace kvferry::cli {

struct Endpoint {
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;
};

struct WorkerConfig {
  std::string name;
  std::string model;
  model::Compute compute = model::Compute::kAuto;
  int threads = 1;
  std::size_t pool_bytes = 0;
  std::vector<std::string> codecs;
  Endpoint control, admin;
  std::string ucx_tls;  // empty: UCX_TLS or UCX's own choice
  transport::TransferConfig transfer;
  cluster::LivenessConfig liveness;
  prefill::PrefillConfig prefill;
  decode::DecodeConfig decode;
};

// Reads and checks a file; errors name the key and its line.
Result<WorkerConfig> load_worker_config(const std::string& file);

Result<model::Compute> parse_compute(const std::string& name);

}  // namespace kvferry::cli
