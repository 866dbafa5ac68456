// Umbrella of the cluster room: the control plane, and HTTP for every process.
#pragma once

#include "cluster/admin_http.h"
#include "cluster/control.h"
#include "cluster/http_server.h"
#include "cluster/messages.h"
#include "cluster/plan_limits.h"
