// Random specs for property tests, made out of the arguments that list_stages() states: a stage
// that is added is drawn from the day it is added.
//
// Thread contract: plain values; generators as RapidCheck's.
#pragma once

#include <rapidcheck.h>

#include <string>
#include <vector>

#include "codec/stage.h"

namespace kvferry::codec {

// A stage as text, part by part, so that the parts can be put together in another order.
struct StageText {
  std::string name;
  std::vector<std::string> arguments;
};
using SpecText = std::vector<StageText>;
std::string join_spec(const SpecText& spec, const std::string& blank = "");

// Domain stages, adapters, a storage stage or a preset, and a wire stage, of each perhaps none but
// the third. Not every combination is a codec; make_codec says which.
rc::Gen<SpecText> random_spec();

}  // namespace kvferry::codec
