// Envelopes that every kind of worker makes.
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <string>

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

// Whether every id of a plan is one of the model's `vocab` ids. Checked before a plan shares a step
// with others.
inline Status check_ids(const proto::Plan& plan, std::uint32_t vocab) {
  for (const std::int32_t id : plan.ids()) {
    if (id < 0 || static_cast<std::uint32_t>(id) >= vocab) {
      return invalid_argument("token id " + std::to_string(id) + " is outside the vocabulary of " +
                              std::to_string(vocab));
    }
  }
  return ok_status();
}

// The Status in a Failed. Codes that this version does not know, and OK, which no failure has, are
// kInternal.
inline Status failed_status(const proto::Failed& failed) {
  const bool known = failed.code() > static_cast<std::uint32_t>(Code::kOk) &&
                     failed.code() <= static_cast<std::uint32_t>(Code::kInternal);
  return {known ? static_cast<Code>(failed.code()) : Code::kInternal, failed.message()};
}

}  // namespace kvferry::cluster
