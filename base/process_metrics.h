// Metrics of the process itself, the same for every kind of process.
// Thread contract: any thread.
#pragma once

#include "base/metrics.h"

namespace kvferry {

// Sets kvferry_process_allocated_bytes (what the heap has handed out, mallinfo2) and
// kvferry_process_resident_bytes to what they are now. Call it before serialising.
void update_process_metrics(Metrics& metrics);

}  // namespace kvferry
