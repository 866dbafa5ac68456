// Umbrella of the scheduler room: who serves a request, and whether it may start.
#pragma once

#include "scheduler/admission.h"
#include "scheduler/router.h"
