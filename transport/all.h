// Everything public of the room transport/.
#pragma once

#include "transport/channel.h"
#include "transport/frame.h"
#include "transport/kv_transfer.h"
#include "transport/loopback.h"
#include "transport/nccl_api.h"
#include "transport/nccl_transport.h"
#include "transport/transfer_config.h"
#include "transport/transfer_hub.h"
#include "transport/ucx_transport.h"
