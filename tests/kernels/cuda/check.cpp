#include "tests/kernels/cuda/check.h"

#include <chrono>
#include <cstdio>
#include <cstring>

namespace kvferry::cuda {
namespace {

int failures = 0;

}  // namespace

void fail(const char* file, int line, const std::string& what) {
  if (++failures <= 10) std::fprintf(stderr, "%s:%d: not true: %s\n", file, line, what.c_str());
}

int run_tests(int argc, char** argv) {
  int failed = 0, ran = 0;
  for (const TestCase& test : test_cases()) {
    if (argc > 1 && test.name.find(argv[1]) == std::string::npos) continue;
    failures = 0;
    const auto begin = std::chrono::steady_clock::now();
    test.run();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("%-8s %s (%.1f s)\n", failures == 0 ? "passed" : "FAILED", test.name.c_str(),
                seconds.count());
    if (failures > 10) std::fprintf(stderr, "and %d more\n", failures - 10);
    failed += failures != 0 ? 1 : 0;
    ++ran;
  }
  std::printf("%d passed, %d failed\n", ran - failed, failed);
  return failed == 0 && ran > 0 ? 0 : 1;
}

}  // namespace kvferry::cuda
