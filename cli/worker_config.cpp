#include "cli/worker_config.h"

#include <algorithm>
#include <thread>

#include "base/yaml_config.h"
#include "codec/codec.h"

namespace kvferry::cli {
namespace {

Endpoint read_endpoint(YamlReader reader) {
  Endpoint endpoint;
  endpoint.host = reader.string("host", endpoint.host);
  endpoint.port = static_cast<std::uint16_t>(reader.u32("port", 0, 0, 65535));
  return endpoint;
}

void read_transport(YamlReader reader, WorkerConfig& config) {
  if (reader.string("kind", "ucx") != "ucx") reader.refuse("kind", "expected ucx");
  config.ucx_tls = reader.string("ucx_tls", "");
  transport::TransferConfig& transfer = config.transfer;
  transfer.lease_ns =
      reader.u64("lease_ms", transfer.lease_ns / kMillisecond, 100, 3'600'000) * kMillisecond;
  // The proportions of the defaults: a beat each sixth of a lease extends it by two thirds.
  transfer.lease_extend_ns = transfer.lease_ns / 3 * 2;
  transfer.beat_ns = transfer.lease_ns / 6;
  transfer.retransmit_ns = std::min(transfer.retransmit_ns, transfer.lease_ns / 10);
  transfer.frame_bytes =
      reader.u32("frame_bytes", transfer.frame_bytes, 4096, transport::kMaxPayloadBytes);
  transfer.staging_slots = reader.u32("staging_slots", transfer.staging_slots, 1, 4096);
  transfer.credits_per_transfer =
      reader.u32("credits_per_transfer", transfer.credits_per_transfer, 1, 4096);
  transfer.gather_slots = reader.u32("gather_slots", transfer.gather_slots, 1, 4096);
  config.prefill.staging_bytes = config.decode.staging_bytes = transfer.staging_bytes();
}

void read_liveness(YamlReader reader, cluster::LivenessConfig& liveness) {
  liveness.beat_ns =
      reader.u64("beat_ms", liveness.beat_ns / kMillisecond, 10, 60'000) * kMillisecond;
  liveness.missed_beats_dead = reader.u32("missed_beats_dead", liveness.missed_beats_dead, 1, 100);
}

void read_limits(YamlReader reader, WorkerConfig& config) {
  config.prefill.chunk_tokens =
      reader.u32("prefill_chunk_tokens", config.prefill.chunk_tokens, 1, 16384);
  config.prefill.max_jobs = reader.u32("max_prefill_jobs", config.prefill.max_jobs, 1, 65536);
  config.decode.max_running = reader.u32("max_running", config.decode.max_running, 1, 4096);
  config.decode.max_waiting = reader.u32("max_waiting", config.decode.max_waiting, 1, 65536);
  config.decode.chunk_tokens =
      reader.u32("local_prefill_chunk_tokens", config.decode.chunk_tokens, 1, 16384);
}

}  // namespace

Result<model::Compute> parse_compute(const std::string& name) {
  if (name == "auto") return model::Compute::kAuto;
  if (name == "bf16") return model::Compute::kBf16;
  if (name == "f32") return model::Compute::kF32;
  return invalid_argument("compute is auto, bf16 or f32, not \"" + name + "\"");
}

Result<WorkerConfig> load_worker_config(const std::string& file) {
  KVF_ASSIGN_OR_RETURN(YamlReader reader, YamlReader::load(file));
  WorkerConfig config;
  config.name = reader.required_string("name");
  config.model = reader.required_string("model");
  const Result<model::Compute> compute = parse_compute(reader.string("compute", "auto"));
  if (compute.ok()) {
    config.compute = *compute;
  } else {
    reader.refuse("compute", compute.status().message());
  }
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  config.threads = static_cast<int>(reader.u32("threads", cores, 1, 1024));
  config.pool_bytes = std::size_t{reader.u32("pool_mib", 256, 1, 1u << 24)} << 20;
  config.codecs = reader.strings("codecs", {std::string(codec::kDefaultSpec)});
  config.control = read_endpoint(reader.map("control"));
  config.admin = read_endpoint(reader.map("admin"));
  read_transport(reader.map("transport"), config);
  read_liveness(reader.map("liveness"), config.liveness);
  read_limits(reader.map("limits"), config);
  if (config.pool_bytes <= config.transfer.staging_bytes()) {
    reader.refuse("pool_mib", "staging alone takes " +
                                  std::to_string(config.transfer.staging_bytes() >> 20) +
                                  " MiB; raise it, or lower transport.frame_bytes or the slots");
  }
  KVF_RETURN_IF_ERROR(reader.finish());
  KVF_RETURN_IF_ERROR(transport::validate(config.transfer).with_context(file));
  return config;
}

}  // namespace kvferry::cli
