#include "tests/kernels/cuda/emulated_lane.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

namespace kvferry::cuda {
namespace {

constexpr std::size_t kStackBytes = 128 << 10;

[[noreturn]] void stop(const char* why) {
  std::fprintf(stderr, "emulated block: %s\n", why);
  std::abort();
}

// Passes when `size` threads have come; `round` counts how often it passed.
struct Barrier {
  int size = 0, waiting = 0;
  unsigned round = 0;
};

// What a warp's lanes show each other.
struct Exchange {
  float value[kWarp];
  std::uint32_t a[kWarp][4], b[kWarp][2];
  const std::byte* row[kWarp];
};

struct Copy {
  std::byte* to;
  const std::byte* from;  // null: zeros
};

struct Thread {
  ucontext_t entry;  // where it begins
  jmp_buf place;     // where it waits
  bool begun = false;
  std::deque<std::vector<Copy>> copies;  // groups; the last is not committed yet
  bool done = false;
};

// A thread's stack, kept for the next block: thousands of blocks would else spend their time on
// fresh pages.
char* stack_of(std::size_t thread) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= thread) stacks.emplace_back(new char[kStackBytes]);
  return stacks[thread].get();
}

}  // namespace

class Emulator {
 public:
  Emulator(Grid block, int threads, std::size_t shared_bytes,
           const std::function<void(const EmulatedLane&)>& body)
      : body_(body),
        block_(block),
        shared_((shared_bytes + sizeof(Words)) / sizeof(Words)),
        threads_(static_cast<std::size_t>(threads)),
        warp_barriers_(threads_.size() / kWarp, {kWarp}),
        exchanges_(warp_barriers_.size()) {
    block_barrier_.size = threads;
    std::memset(shared_.data(), 0xff, shared_.size() * sizeof(Words));
  }

  void run() {
    current = this;
    for (std::size_t i = 0; i < threads_.size(); ++i) start(i);
    for (std::size_t left = threads_.size(); left != 0;) {
      const unsigned before = progress_;
      left = 0;
      for (std::size_t i = 0; i < threads_.size(); ++i) {
        if (threads_[i].done) continue;
        resume(i);
        left += threads_[i].done ? 0 : 1;
      }
      if (left != 0 && progress_ == before) stop("its threads wait for different things");
    }
    current = nullptr;
  }

  void wait(Barrier& barrier) {
    const unsigned round = barrier.round;
    if (++barrier.waiting == barrier.size) {
      barrier.waiting = 0;
      ++barrier.round;
      ++progress_;
      return;
    }
    while (barrier.round == round) {
      if (_setjmp(threads_[running_].place) == 0) _longjmp(scheduler_, 1);
    }
  }
  Barrier& warp_barrier(int warp) { return warp_barriers_[static_cast<std::size_t>(warp)]; }
  Barrier& block_barrier() { return block_barrier_; }
  Exchange& exchange(int warp) { return exchanges_[static_cast<std::size_t>(warp)]; }
  Thread& thread(int index) { return threads_[static_cast<std::size_t>(index)]; }
  std::byte* shared() { return reinterpret_cast<std::byte*>(shared_.data()); }

  static Emulator* current;

 private:
  void start(std::size_t index) {
    Thread& thread = threads_[index];
    thread.copies.emplace_back();
    getcontext(&thread.entry);
    thread.entry.uc_stack.ss_sp = stack_of(index);
    thread.entry.uc_stack.ss_size = kStackBytes;
    thread.entry.uc_link = nullptr;
    makecontext(&thread.entry, &Emulator::enter, 0);
  }
  // Until the thread waits or ends. Contexts only begin threads: switching them goes through the
  // kernel for the signal mask, five times the cost of a jump.
  void resume(std::size_t index) {
    running_ = index;
    Thread& thread = threads_[index];
    if (_setjmp(scheduler_) != 0) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    setcontext(&thread.entry);
  }
  static void enter() {
    Emulator& self = *current;
    const std::size_t index = self.running_;
    self.body_(EmulatedLane(static_cast<int>(index), self.block_));
    self.threads_[index].done = true;
    ++self.progress_;
    _longjmp(self.scheduler_, 1);
  }

  const std::function<void(const EmulatedLane&)>& body_;
  Grid block_;
  std::vector<Words> shared_;
  std::vector<Thread> threads_;
  std::vector<Barrier> warp_barriers_;
  Barrier block_barrier_;
  std::vector<Exchange> exchanges_;
  jmp_buf scheduler_;
  std::size_t running_ = 0;
  unsigned progress_ = 0;
};

Emulator* Emulator::current = nullptr;

std::byte* EmulatedLane::shared() const { return Emulator::current->shared(); }

void EmulatedLane::sync_warp() const {
  Emulator::current->wait(Emulator::current->warp_barrier(warp()));
}
void EmulatedLane::sync_block() const {
  Emulator::current->wait(Emulator::current->block_barrier());
}

float EmulatedLane::shuffle(float v, int from) const {
  Exchange& exchange = Emulator::current->exchange(warp());
  exchange.value[lane()] = v;
  sync_warp();
  const float got = exchange.value[from];
  sync_warp();
  return got;
}

void EmulatedLane::copy_async(std::byte* to, const std::byte* from) const {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0 ||
      reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
    stop("a copy of 16 bytes is not aligned");
  }
  Emulator::current->thread(thread_).copies.back().push_back({to, from});
}
void EmulatedLane::copy_async_or_zero(std::byte* to, const std::byte* from, bool there) const {
  if (there) return copy_async(to, from);
  Emulator::current->thread(thread_).copies.back().push_back({to, nullptr});
}
void EmulatedLane::commit_copies() const {
  Emulator::current->thread(thread_).copies.emplace_back();
}
void EmulatedLane::wait_copies(int left) const {
  auto& groups = Emulator::current->thread(thread_).copies;
  while (groups.size() > static_cast<std::size_t>(left) + 1) {
    for (const Copy& copy : groups.front()) {
      if (copy.from != nullptr) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    groups.pop_front();
  }
}

Words EmulatedLane::load16(const void* p) const {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) stop("a load of 16 bytes is not aligned");
  Words words;
  std::memcpy(&words, p, sizeof(words));
  return words;
}

void EmulatedLane::dots(DotKind kind, std::int32_t (&acc)[4], const std::uint32_t (&a)[4],
                        std::uint32_t b0, std::uint32_t b1) const {
  Exchange& exchange = Emulator::current->exchange(warp());
  std::memcpy(exchange.a[lane()], a, sizeof(a));
  exchange.b[lane()][0] = b0;
  exchange.b[lane()][1] = b1;
  sync_warp();
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int high_row = i / 2, column = 2 * t + i % 2;
    for (int k = 0; k < 32; ++k) {
      const int half = k / 16, quad = k % 16 / 4, shift = 8 * (k % 4);
      const std::uint32_t left = exchange.a[4 * g + quad][2 * half + high_row] >> shift & 0xffu;
      const std::uint32_t right = exchange.b[4 * column + quad][half] >> shift & 0xffu;
      acc[i] += static_cast<std::int32_t>(left) * (kind == DotKind::kUnsignedSigned
                                                       ? static_cast<std::int8_t>(right)
                                                       : static_cast<std::int32_t>(right));
    }
  }
  sync_warp();
}

void EmulatedLane::dots_bf16(float (&acc)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                             std::uint32_t b1) const {
  Exchange& exchange = Emulator::current->exchange(warp());
  std::memcpy(exchange.a[lane()], a, sizeof(a));
  exchange.b[lane()][0] = b0;
  exchange.b[lane()][1] = b1;
  sync_warp();
  const int g = lane() / 4, t = lane() % 4;
  const auto half_of = [](std::uint32_t pair, int k) {
    return as_float(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
  };
  for (int i = 0; i < 4; ++i) {
    const int high_row = i / 2, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int half = k / 8, pair = k % 8 / 2;
      acc[i] = fma(half_of(exchange.a[4 * g + pair][2 * half + high_row], k),
                   half_of(exchange.b[4 * column + pair][half], k), acc[i]);
    }
  }
  sync_warp();
}

void EmulatedLane::load_transposed(const std::byte* p, std::uint32_t (&a)[4]) const {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) stop("a row of a matrix is not aligned");
  Exchange& exchange = Emulator::current->exchange(warp());
  exchange.row[lane()] = p;
  sync_warp();
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    std::uint16_t value[2];
    for (int n = 0; n < 2; ++n) {
      std::memcpy(&value[n], exchange.row[8 * i + 2 * t + n] + 2 * g, sizeof(value[n]));
    }
    a[i] = value[0] | static_cast<std::uint32_t>(value[1]) << 16;
  }
  sync_warp();
}

std::uint32_t EmulatedLane::transpose(std::uint32_t pair) const {
  Exchange& exchange = Emulator::current->exchange(warp());
  exchange.b[lane()][0] = pair;
  sync_warp();
  const int g = lane() / 4, t = lane() % 4;
  std::uint32_t out = 0;
  for (int n = 0; n < 2; ++n) {
    const std::uint32_t from = exchange.b[4 * (2 * t + n) + g / 2][0];
    out |= (from >> (16 * (g % 2)) & 0xffffu) << (16 * n);
  }
  sync_warp();
  return out;
}

void emulate(Grid grid, int threads, std::size_t shared_bytes,
             const std::function<void(const EmulatedLane&)>& body) {
  for (std::uint32_t z = 0; z < grid.z; ++z) {
    for (std::uint32_t y = 0; y < grid.y; ++y) {
      for (std::uint32_t x = 0; x < grid.x; ++x) {
        Emulator(Grid{x, y, z}, threads, shared_bytes, body).run();
      }
    }
  }
}

}  // namespace kvferry::cuda
