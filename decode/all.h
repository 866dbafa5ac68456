// Umbrella of the decode room: receives KV and generates.
#pragma once

#include "decode/decode_engine.h"
