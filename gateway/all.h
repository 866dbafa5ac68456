// Umbrella of the gateway room.
#pragma once

#include "gateway/gateway.h"
#include "gateway/gateway_config.h"
