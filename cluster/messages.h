// Envelopes that every kind of worker makes.
// Thread contract: pure functions.
#pragma once

#include "base/status.h"
#include "control.pb.h"

namespace kvferry::cluster {

// "This attempt ended without an answer, because."
inline proto::Envelope failed_envelope(const proto::Plan& plan, const Status& status) {
  proto::Envelope envelope;
  proto::Failed& failed = *envelope.mutable_failed();
  failed.set_request_id(plan.request_id());
  failed.set_transfer_id(plan.transfer_id());
  failed.set_attempt(plan.attempt());
  failed.set_code(static_cast<std::uint32_t>(status.code()));
  failed.set_message(status.message());
  return envelope;
}

// The Status in a Failed. Codes that this version does not know, and OK, which no failure has, are
// kInternal.
inline Status failed_status(const proto::Failed& failed) {
  const bool known = failed.code() > static_cast<std::uint32_t>(Code::kOk) &&
                     failed.code() <= static_cast<std::uint32_t>(Code::kInternal);
  return {known ? static_cast<Code>(failed.code()) : Code::kInternal, failed.message()};
}

}  // namespace kvferry::cluster
