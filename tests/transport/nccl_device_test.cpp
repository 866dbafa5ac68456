// NCCL itself: two processes, on one GPU where NCCL lets them (different NCCL_HOSTID, so that it
// takes them for two machines and goes through sockets) or on two. Status 77 where there is no GPU.
#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "transport/nccl_library.h"

namespace kvferry::transport {
namespace {

constexpr std::size_t kSizes[] = {1, 1000, std::size_t{4} << 20, 77};

std::vector<std::byte> payload_of(std::size_t index) {
  std::vector<std::byte> bytes(kSizes[index]);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + index);
  return bytes;
}

// Polls until `done` says yes; an error after 60 s.
template <class Done>
Status wait(Done done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < end) {
    KVF_ASSIGN_OR_RETURN(const bool is, done());
    if (is) return ok_status();
  }
  return unavailable("it takes too long");
}

Status run(NcclApi& api, const NcclApi::Id& id, int rank) {
  KVF_ASSIGN_OR_RETURN(const NcclApi::Comm comm, api.init(id, rank));
  KVF_RETURN_IF_ERROR(wait([&] { return api.ready(comm); }).with_context("communicator"));
  std::vector<NcclApi::Operation> operations;
  for (std::size_t i = 0; i < std::size(kSizes); ++i) {
    const auto posted = rank == 0 ? api.send(comm, payload_of(i)) : api.receive(comm, kSizes[i]);
    KVF_RETURN_IF_ERROR(posted.status());
    operations.push_back(*posted);
  }
  for (std::size_t i = 0; i < operations.size(); ++i) {
    KVF_RETURN_IF_ERROR(wait([&] { return api.finished(comm, operations[i]); }));
    if (rank == 0) {
      api.forget(operations[i]);
      continue;
    }
    std::vector<std::byte> got(kSizes[i]);
    api.take(operations[i], got);
    if (got != payload_of(i)) return data_loss("payload " + std::to_string(i) + " differs");
  }
  api.abort(comm);
  return wait([&]() -> Result<bool> { return api.aborted(comm); }).with_context("abort");
}

// Which GPU a rank has; each process looks for itself, since CUDA does not survive a fork.
int side(int rank, int to_peer, int from_peer) {
  setenv("NCCL_HOSTID", rank == 0 ? "kvferry-test-0" : "kvferry-test-1", 1);
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 77;
  NcclLibraryConfig config;
  config.device = devices > 1 ? rank : 0;
  auto api = make_nccl_library(config);
  if (!api.ok()) {
    std::fprintf(stderr, "rank %d: %s\n", rank, api.status().to_string().c_str());
    return 1;
  }
  NcclApi::Id id{};
  if (rank == 0) {
    const auto made = (*api)->unique_id();
    if (!made.ok() || write(to_peer, made->data(), made->size()) != ssize_t(made->size())) return 1;
    id = *made;
  } else if (read(from_peer, id.data(), id.size()) != ssize_t(id.size())) {
    return 1;
  }
  const Status status = run(**api, id, rank);
  if (!status.ok()) std::fprintf(stderr, "rank %d: %s\n", rank, status.to_string().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace kvferry::transport

int main() {
  int ends[2];
  if (pipe(ends) != 0) return 1;
  const pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) {
    close(ends[1]);  // so that it reads an end when rank 0 has no GPU
    _exit(kvferry::transport::side(1, -1, ends[0]));
  }
  close(ends[0]);
  const int mine = kvferry::transport::side(0, ends[1], -1);
  close(ends[1]);
  int status = 0;
  waitpid(child, &status, 0);
  if (mine == 77) {
    std::puts("no GPU: nothing ran");
    return 77;
  }
  return mine == 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
