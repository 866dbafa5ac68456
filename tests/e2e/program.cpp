#include "program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>

namespace kvferry::e2e {

Program::Program(const std::vector<std::string>& arguments) {
  std::signal(SIGPIPE, SIG_IGN);  // a program that ended does not read what it is told
  int in[2], out[2];
  EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(out[1], STDERR_FILENO);
    std::vector<char*> argv = {std::getenv("KVFERRY_PROGRAM")};
    for (const std::string& each : arguments) argv.push_back(const_cast<char*>(each.c_str()));
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  input_ = in[1];
  output_ = out[0];
}

Program::~Program() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  finish();
}

void Program::type(const std::string& text) {
  const ssize_t count = write(input_, text.data(), text.size());
  EXPECT_TRUE(count == static_cast<ssize_t>(text.size()) || errno == EPIPE);
}

void Program::interrupt() { kill(pid_, SIGINT); }

bool Program::read_more() {
  std::array<char, 4096> bytes{};
  const ssize_t count = read(output_, bytes.data(), bytes.size());
  if (count <= 0) return false;
  text_.append(bytes.data(), static_cast<std::size_t>(count));
  return true;
}

bool Program::says(const std::string& words) {
  while (text_.find(words) == std::string::npos) {
    if (!read_more()) return false;
  }
  return true;
}

Outcome Program::finish() {
  close(input_);
  while (read_more()) {
  }
  close(output_);
  Outcome outcome;
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.output = std::move(text_);
  return outcome;
}

Outcome run(const std::vector<std::string>& arguments, const std::string& input) {
  Program program(arguments);
  if (!input.empty()) program.type(input);
  return program.finish();
}

}  // namespace kvferry::e2e
