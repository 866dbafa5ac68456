#include "transport/transfer_metrics.h"

#include <array>

namespace kvferry::transport {
namespace {

constexpr std::array<const char*, 2> kDirections = {"sent", "received"};
constexpr std::array<const char*, 2> kRoles = {"sender", "receiver"};

}  // namespace

std::string_view refusal_name(RefusalCause cause) {
  static constexpr std::array<std::string_view, kRefusalCauses> kNames = {
      "bad_header", "payload_checksum", "bad_body", "epoch",     "unknown_transfer",
      "identity",   "bounds",           "size",     "duplicate", "credits",
      "segment",    "landing",          "state"};
  return kNames[static_cast<std::size_t>(cause)];
}

TransferMetrics::TransferMetrics(Metrics& metrics)
    : credits(metrics.gauge("kvferry_transfer_credits", "Landing slots promised to senders")),
      staging_bytes(metrics.gauge("kvferry_transfer_staging_bytes",
                                  "Pool bytes of landing and gather slots")),
      channels(metrics.gauge("kvferry_transfer_channels", "Open data channels with traffic")),
      data_seconds(metrics.histogram("kvferry_transfer_data_seconds",
                                     "First to last DATA frame of a transfer")),
      sender_seconds(metrics.histogram("kvferry_transfer_sender_seconds",
                                       "Open to acknowledged of a transfer")),
      unwrap_seconds(metrics.counter("kvferry_transfer_unwrap_seconds_total",
                                     "Time in which the reactor undid the wire form of segments")),
      metrics_(metrics) {
  for (std::size_t d = 0; d < 2; ++d) {
    wire_bytes_[d] =
        &metrics.counter("kvferry_transfer_wire_bytes_total", "Bytes of frames, headers included",
                         {{"direction", kDirections[d]}});
    for (std::uint16_t type = 1; type <= kLastFrameType; ++type) {
      const std::string name(frame_type_name(static_cast<FrameType>(type)));
      frames_[d][type] = &metrics.counter("kvferry_transfer_frames_total", "Frames by type",
                                          {{"direction", kDirections[d]}, {"type", name}});
    }
    active_[d] =
        &metrics.gauge("kvferry_transfer_active", "Transfers open now", {{"role", kRoles[d]}});
  }
  for (std::size_t cause = 0; cause < kRefusalCauses; ++cause) {
    refused_[cause] = &metrics.counter(
        "kvferry_transfer_frames_refused_total", "Frames received and not used, by cause",
        {{"cause", std::string(refusal_name(static_cast<RefusalCause>(cause)))}});
  }
}

void TransferMetrics::frame(Direction direction, const FrameHeader& header) {
  const auto d = static_cast<std::size_t>(direction);
  frames_[d][static_cast<std::uint16_t>(header.type)]->add();
  wire_bytes_[d]->add(static_cast<double>(sizeof(FrameHeader) + header.payload_bytes));
}

void TransferMetrics::refused(RefusalCause cause) {
  refused_[static_cast<std::size_t>(cause)]->add();
}

void TransferMetrics::resent(FrameType type) {
  metrics_
      .counter("kvferry_transfer_frames_resent_total", "Frames sent once more",
               {{"type", std::string(frame_type_name(type))}})
      .add();
}

void TransferMetrics::moved(Direction direction, const std::string& codec,
                            std::uint64_t payload_bytes, std::uint64_t raw_bytes) {
  const Metrics::Labels labels = {{"direction", kDirections[static_cast<std::size_t>(direction)]},
                                  {"codec", codec}};
  metrics_
      .counter("kvferry_transfer_payload_bytes_total", "Bytes of DATA payloads, each frame once",
               labels)
      .add(static_cast<double>(payload_bytes));
  metrics_
      .counter("kvferry_transfer_raw_bytes_total", "Bytes that the same KV takes in bf16", labels)
      .add(static_cast<double>(raw_bytes));
}

void TransferMetrics::finished(Role role, Code result) {
  metrics_
      .counter("kvferry_transfer_finished_total", "Transfers ended, by result",
               {{"role", kRoles[static_cast<std::size_t>(role)]},
                {"result", std::string(code_name(result))}})
      .add();
}

void TransferMetrics::lease_expired(Role role) {
  metrics_
      .counter("kvferry_transfer_leases_expired_total", "Transfers of which nothing was heard",
               {{"role", kRoles[static_cast<std::size_t>(role)]}})
      .add();
}

void TransferMetrics::active(Role role, std::size_t count) {
  active_[static_cast<std::size_t>(role)]->set(static_cast<double>(count));
}

}  // namespace kvferry::transport
