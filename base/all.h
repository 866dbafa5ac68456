// Umbrella header of base/.
#pragma once

#include "base/checkpoint_name.h"  // IWYU pragma: export
#include "base/clock.h"            // IWYU pragma: export
#include "base/compute_pool.h"     // IWYU pragma: export
#include "base/engine_thread.h"    // IWYU pragma: export
#include "base/extent_pool.h"      // IWYU pragma: export
#include "base/hash.h"             // IWYU pragma: export
#include "base/log.h"              // IWYU pragma: export
#include "base/memory_limits.h"    // IWYU pragma: export
#include "base/metrics.h"          // IWYU pragma: export
#include "base/process_metrics.h"  // IWYU pragma: export
#include "base/sha256.h"           // IWYU pragma: export
#include "base/status.h"           // IWYU pragma: export
#include "base/yaml_config.h"      // IWYU pragma: export
