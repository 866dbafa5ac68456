// Umbrella of the prefill room: computes prompts and pushes their KV.
#pragma once

#include "prefill/prefill_engine.h"
