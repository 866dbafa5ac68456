// The test runner of this folder, for machines that have nothing but nvcc and CMake. A test is a
// function that is registered by TEST_CASE and fails by CHECK; run_tests() is the program.
#pragma once

#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace kvferry::cuda {

struct TestCase {
  std::string name;
  std::function<void()> run;
};
inline std::vector<TestCase>& test_cases() {
  static std::vector<TestCase> cases;
  return cases;
}
struct Registration {
  Registration(std::string name, std::function<void()> run) {
    test_cases().push_back({std::move(name), std::move(run)});
  }
};

// A failure of the test that runs, said on standard error; the first ten of a test are.
void fail(const char* file, int line, const std::string& what);

// Runs the cases whose names contain the first argument. 0 if all passed, 1 if not.
int run_tests(int argc, char** argv);

}  // namespace kvferry::cuda

#define TEST_CASE(name)                                                        \
  static void name();                                                          \
  static const ::kvferry::cuda::Registration name##_registration(#name, name); \
  static void name()

// CHECK(condition) << "what to know when it fails";
#define CHECK(condition)                                     \
  for (bool checked = (condition); !checked; checked = true) \
  ::kvferry::cuda::Failure(__FILE__, __LINE__, #condition).stream()

namespace kvferry::cuda {

class Failure {
 public:
  Failure(const char* file, int line, const char* condition) : file_(file), line_(line) {
    text_ << condition << " ";
  }
  ~Failure() { fail(file_, line_, text_.str()); }
  std::ostream& stream() { return text_; }

 private:
  const char* file_;
  int line_;
  std::ostringstream text_;
};

}  // namespace kvferry::cuda
