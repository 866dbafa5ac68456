#include "base/process_metrics.h"

#include <malloc.h>
#include <unistd.h>

#include <fstream>

namespace kvferry {

void update_process_metrics(Metrics& metrics) {
  const struct mallinfo2 heap = mallinfo2();
  metrics.gauge("kvferry_process_allocated_bytes", "Heap bytes in use, as mallinfo2 counts them.")
      .set(static_cast<double>(heap.uordblks + heap.hblkhd));
  std::ifstream statm("/proc/self/statm");
  double size_pages = 0, resident_pages = 0;
  statm >> size_pages >> resident_pages;
  metrics.gauge("kvferry_process_resident_bytes", "Resident memory of the process.")
      .set(resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE)));
}

}  // namespace kvferry
