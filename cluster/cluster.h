// Umbrella of the cluster room: the control plane and the workers' admin HTTP server.
#pragma once

#include "cluster/control.h"
#include "cluster/messages.h"
