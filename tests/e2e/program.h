// The program as a child process, as a person or a script runs it.
// Thread contract: a Program belongs to one thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace kvferry::e2e {

struct Outcome {
  int status = -1;     // of the exit; 128 + signal
  std::string output;  // both streams
};

// KVFERRY_PROGRAM with these arguments.
class Program {
 public:
  explicit Program(const std::vector<std::string>& arguments);
  ~Program();  // kills it if finish() was not called
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void type(const std::string& text);  // to its standard input
  void interrupt();                    // Ctrl-C
  // Reads until the output has `words`; false if the program ends before.
  bool says(const std::string& words);
  // Ends its input, reads to the end of its output, waits.
  Outcome finish();

 private:
  bool read_more();

  pid_t pid_ = -1;
  int input_ = -1, output_ = -1;
  std::string text_;
};

// Runs it to its end, on that input.
Outcome run(const std::vector<std::string>& arguments, const std::string& input = "");

}  // namespace kvferry::e2e
