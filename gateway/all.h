// Umbrella of the gateway room.
#pragma once

#include "gateway/api_keys.h"
#include "gateway/gateway.h"
#include "gateway/gateway_config.h"
