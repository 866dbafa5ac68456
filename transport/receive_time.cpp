// The receiving side's beats, leases and deadlines.
#include <algorithm>

#include "transport/receive_side.h"

namespace kvferry::transport {

void ReceiveSide::on_beat(Channel& channel, const FrameHeader& header,
                          std::span<const std::uint64_t> ids) {
  const std::uint64_t until = context_.now_ns() + context_.config.lease_extend_ns;
  for (const std::uint64_t id : ids) {
    FrameHeader named = header;
    named.transfer_id = id;
    if (Transfer* transfer = find(channel, named)) {
      transfer->lease_until_ns = std::max(transfer->lease_until_ns, until);
    } else {
      answer_unknown(channel, named);
    }
  }
}

void ReceiveSide::held(std::map<Channel*, std::vector<std::uint64_t>>& by_channel) const {
  for (const auto& [id, transfer] : transfers_) {
    if (transfer.channel != nullptr) by_channel[transfer.channel].push_back(id);
  }
}

void ReceiveSide::tick() {
  const std::uint64_t now = context_.now_ns();
  expire_transfers(now);
  for (const auto& [memory, landing] : landings_) {
    if (now - landing.since_ns > context_.config.lease_ns && landing.channel->open()) {
      landing.channel->close();  // a frame that never arrives; on_frame gives the slot back
    }
  }
  grant_waiting();
}

void ReceiveSide::expire_transfers(std::uint64_t now) {
  std::vector<std::pair<std::uint64_t, Status>> over;
  for (const auto& [id, t] : transfers_) {
    if (t.expected && now >= t.deadline_ns) {
      over.emplace_back(id, deadline_exceeded("the transfer did not complete in time"));
    } else if (!t.expected && now >= t.hold_until_ns) {
      over.emplace_back(id, deadline_exceeded("nobody expected the transfer in time"));
    } else if (t.channel != nullptr && now >= t.lease_until_ns) {
      context_.metrics.lease_expired(Role::kReceiver);
      over.emplace_back(id, unavailable("lease expired: nothing heard from the sender"));
    }
  }
  for (const auto& [id, status] : over) {
    const auto found = transfers_.find(id);
    if (found == transfers_.end()) continue;  // a callback ended it
    end(id, status, found->second.expected ? Tell::kRelease : Tell::kRefuse);
  }
}

}  // namespace kvferry::transport
