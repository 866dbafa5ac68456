#include "gateway/request_usage.h"

#include <utility>

namespace kvferry::gateway {

void add_usage(const proto::KvUsage& later, proto::KvUsage& all) {
  proto::KvUsage sum = later;
  sum.set_values(all.values() + later.values());
  sum.set_raw_bytes(all.raw_bytes() + later.raw_bytes());
  sum.set_sent_bytes(all.sent_bytes() + later.sent_bytes());
  if (sum.values() > 0) {
    const double bits = all.bits_per_value() * static_cast<double>(all.values()) +
                        later.bits_per_value() * static_cast<double>(later.values());
    sum.set_bits_per_value(bits / static_cast<double>(sum.values()));
  }
  all = std::move(sum);
}

GenerationUsage usage_of(const proto::KvUsage& kv) {
  GenerationUsage usage;
  usage.cached_tokens = kv.cached_tokens();
  usage.values = kv.values();
  usage.raw_bytes = kv.raw_bytes();
  usage.sent_bytes = kv.sent_bytes();
  usage.bits_per_value = kv.bits_per_value();
  usage.closed_bits_per_value = kv.closed_bits_per_value();
  usage.queue_ms = kv.queue_ms();
  usage.prefill_ms = kv.prefill_ms();
  usage.encode_ms = kv.encode_ms();
  usage.transfer_ms = kv.transfer_ms();
  usage.first_decode_ms = kv.first_decode_ms();
  usage.remote_prefill = kv.remote_prefill();
  return usage;
}

}  // namespace kvferry::gateway
