// What a request's answer cost, out of what the decode workers of its attempts said.
//
// Thread contract: pure functions.
#pragma once

#include "control.pb.h"
#include "gateway/generation.h"

namespace kvferry::gateway {

// What an attempt says comes behind what those before it said: amounts add up, and bits per value
// are all bits over all values; everything else is the later attempt's.
void add_usage(const proto::KvUsage& later, proto::KvUsage& all);

// The fields that workers know; the others keep their defaults.
GenerationUsage usage_of(const proto::KvUsage& kv);

}  // namespace kvferry::gateway
