#include "transport/nccl_library.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"

namespace kvferry::transport {
namespace {

Status from_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return ok_status();
  const std::string text = std::string(what) + ": " + cudaGetErrorString(error);
  return error == cudaErrorMemoryAllocation ? resource_exhausted(text) : internal_error(text);
}

Status from_nccl(ncclResult_t result, const char* what, ncclComm_t comm) {
  if (result == ncclSuccess || result == ncclInProgress) return ok_status();
  std::string text = std::string(what) + ": " + ncclGetErrorString(result);
  if (const char* last = ncclGetLastError(comm); last != nullptr && *last != '\0') {
    text += std::string(" (") + last + ")";
  }
  return result == ncclRemoteError ? unavailable(text) : internal_error(text);
}

// Pinned host memory and device memory of the same size.
class Buffer {
 public:
  static Result<std::unique_ptr<Buffer>> create(std::size_t bytes) {
    std::unique_ptr<Buffer> buffer(new Buffer);
    KVF_RETURN_IF_ERROR(from_cuda(cudaMallocHost(&buffer->host_, bytes), "pinned host memory"));
    KVF_RETURN_IF_ERROR(from_cuda(cudaMalloc(&buffer->device_, bytes), "device memory"));
    KVF_RETURN_IF_ERROR(from_cuda(cudaEventCreateWithFlags(&buffer->event_, cudaEventDisableTiming),
                                  "cudaEventCreate"));
    return buffer;
  }
  ~Buffer() {
    if (event_ != nullptr) cudaEventDestroy(event_);
    if (device_ != nullptr) cudaFree(device_);
    if (host_ != nullptr) cudaFreeHost(host_);
  }
  void* host() const { return host_; }
  void* device() const { return device_; }
  cudaEvent_t event() const { return event_; }

 private:
  Buffer() = default;
  void* host_ = nullptr;
  void* device_ = nullptr;
  cudaEvent_t event_ = nullptr;
};

class NcclLibrary : public NcclApi {
 public:
  explicit NcclLibrary(const NcclLibraryConfig& config) : config_(config) {}
  // Communicators end with it, without waiting: their threads own what they need.
  ~NcclLibrary() override {
    while (!comms_.empty()) abort(comms_.begin()->first);
  }

  Result<Id> unique_id() override {
    ncclUniqueId id;
    KVF_RETURN_IF_ERROR(from_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId", nullptr));
    Id bytes;
    static_assert(sizeof(bytes) == sizeof(id));
    std::memcpy(bytes.data(), &id, sizeof(id));
    return bytes;
  }

  Result<Comm> init(const Id& bytes, int rank) override {
    KVF_RETURN_IF_ERROR(from_cuda(cudaSetDevice(config_.device), "cudaSetDevice"));
    ncclUniqueId id;
    std::memcpy(&id, bytes.data(), sizeof(id));
    ncclConfig_t settings = NCCL_CONFIG_INITIALIZER;
    settings.blocking = 0;
    settings.maxCTAs = 4;  // each costs buffers of megabytes; a link needs few
    Joined joined;
    joined.peer = 1 - rank;
    KVF_RETURN_IF_ERROR(from_cuda(cudaStreamCreateWithFlags(&joined.stream, cudaStreamNonBlocking),
                                  "cudaStreamCreate"));
    const Status begun = from_nccl(ncclCommInitRankConfig(&joined.comm, 2, id, rank, &settings),
                                   "ncclCommInitRankConfig", nullptr);
    if (!begun.ok()) {
      cudaStreamDestroy(joined.stream);
      return begun;
    }
    comms_.emplace(++last_, std::move(joined));
    return last_;
  }

  Result<bool> ready(Comm comm) override {
    return settled(comms_.at(comm), "making a communicator");
  }

  Result<Operation> send(Comm comm, std::span<const std::byte> payload) override {
    KVF_ASSIGN_OR_RETURN(Posted posted, post(comm, payload.size()));
    posted.sends = true;
    std::memcpy(posted.buffer->host(), payload.data(), payload.size());
    return add(comm, std::move(posted));
  }
  Result<Operation> receive(Comm comm, std::size_t bytes) override {
    KVF_ASSIGN_OR_RETURN(Posted posted, post(comm, bytes));
    return add(comm, std::move(posted));
  }

  Result<bool> finished(Comm comm, Operation operation) override {
    Joined& joined = comms_.at(comm);
    KVF_RETURN_IF_ERROR(hand_over(joined));
    const Posted& posted = operations_.at(operation);
    if (posted.state != State::kRecorded) return false;
    const cudaError_t event = cudaEventQuery(posted.buffer->event());
    if (event == cudaSuccess) return true;
    if (event != cudaErrorNotReady) return from_cuda(event, "a transfer");
    KVF_RETURN_IF_ERROR(settled(joined, "a transfer").status());
    return false;
  }

  void take(Operation operation, std::span<std::byte> to) override {
    std::memcpy(to.data(), operations_.at(operation).buffer->host(), to.size());
    forget(operation);
  }
  void forget(Operation operation) override {
    const auto found = operations_.find(operation);
    free_.push_back(std::move(found->second.buffer));
    operations_.erase(found);
  }

  void abort(Comm comm) override {
    auto ended = std::make_shared<Ended>();
    Joined joined = std::move(comms_.at(comm));
    comms_.erase(comm);
    for (auto at = operations_.begin(); at != operations_.end();) {
      if (at->second.comm != comm) {
        ++at;
        continue;
      }
      ended->buffers.push_back(std::move(at->second.buffer));
      at = operations_.erase(at);
    }
    aborting_[comm] = ended;
    std::thread([ended, device = config_.device, handle = joined.comm, stream = joined.stream] {
      cudaSetDevice(device);
      if (ncclCommAbort(handle) != ncclSuccess) log_warn("transport", "ncclCommAbort failed");
      cudaStreamDestroy(stream);
      ended->done = true;
    }).detach();
  }
  bool aborted(Comm comm) override {
    const auto found = aborting_.find(comm);
    if (found == aborting_.end()) return true;
    if (!found->second->done) return false;
    for (auto& buffer : found->second->buffers) free_.push_back(std::move(buffer));
    aborting_.erase(found);
    return true;
  }

 private:
  enum class State : std::uint8_t {
    kWaiting,     // for those before it
    kHandedOver,  // to NCCL, which may not have put it on the stream yet
    kRecorded,    // on the stream, with an event behind it
  };
  struct Posted {
    Comm comm = 0;
    std::size_t bytes = 0;
    bool sends = false;
    State state = State::kWaiting;
    std::unique_ptr<Buffer> buffer;
  };
  struct Joined {
    ncclComm_t comm = nullptr;
    cudaStream_t stream = nullptr;
    int peer = 0;
    std::deque<Operation> waiting;  // not recorded yet, in order
  };
  struct Ended {  // shared with the thread that aborts
    std::atomic<bool> done = false;
    std::vector<std::unique_ptr<Buffer>> buffers;
  };

  // Whether NCCL has done what it was last asked.
  Result<bool> settled(const Joined& joined, const char* what) const {
    ncclResult_t state = ncclSuccess;
    KVF_RETURN_IF_ERROR(from_nccl(ncclCommGetAsyncError(joined.comm, &state), what, joined.comm));
    KVF_RETURN_IF_ERROR(from_nccl(state, what, joined.comm));
    return state == ncclSuccess;
  }

  Result<Posted> post(Comm comm, std::size_t bytes) {
    if (bytes > config_.max_bytes) return invalid_argument("longer than an operation may be");
    if (operations_.size() >= config_.max_operations) {
      return resource_exhausted("too many NCCL operations at one time");
    }
    Posted posted;
    posted.comm = comm;
    posted.bytes = bytes;
    if (free_.empty()) {
      KVF_ASSIGN_OR_RETURN(posted.buffer, Buffer::create(config_.max_bytes));
    } else {
      posted.buffer = std::move(free_.back());
      free_.pop_back();
    }
    return posted;
  }
  Result<Operation> add(Comm comm, Posted posted) {
    const Operation operation = ++last_;
    operations_.emplace(operation, std::move(posted));
    comms_.at(comm).waiting.push_back(operation);
    KVF_RETURN_IF_ERROR(hand_over(comms_.at(comm)));
    return operation;
  }

  // Gives NCCL as many of the waiting operations as it takes over at once.
  Status hand_over(Joined& joined) {
    while (!joined.waiting.empty()) {
      Posted& posted = operations_.at(joined.waiting.front());
      if (posted.state == State::kWaiting) KVF_RETURN_IF_ERROR(start(joined, posted));
      KVF_ASSIGN_OR_RETURN(const bool taken, settled(joined, "a transfer"));
      if (!taken) return ok_status();
      KVF_RETURN_IF_ERROR(record(joined, posted));
      joined.waiting.pop_front();
    }
    return ok_status();
  }
  Status start(const Joined& joined, Posted& posted) {
    posted.state = State::kHandedOver;
    void* const device = posted.buffer->device();
    if (!posted.sends) {
      return from_nccl(
          ncclRecv(device, posted.bytes, ncclUint8, joined.peer, joined.comm, joined.stream),
          "ncclRecv", joined.comm);
    }
    KVF_RETURN_IF_ERROR(from_cuda(cudaMemcpyAsync(device, posted.buffer->host(), posted.bytes,
                                                  cudaMemcpyHostToDevice, joined.stream),
                                  "copying to the device"));
    return from_nccl(
        ncclSend(device, posted.bytes, ncclUint8, joined.peer, joined.comm, joined.stream),
        "ncclSend", joined.comm);
  }
  Status record(const Joined& joined, Posted& posted) {
    if (!posted.sends) {
      KVF_RETURN_IF_ERROR(
          from_cuda(cudaMemcpyAsync(posted.buffer->host(), posted.buffer->device(), posted.bytes,
                                    cudaMemcpyDeviceToHost, joined.stream),
                    "copying from the device"));
    }
    posted.state = State::kRecorded;
    return from_cuda(cudaEventRecord(posted.buffer->event(), joined.stream), "cudaEventRecord");
  }

  const NcclLibraryConfig config_;
  std::uint64_t last_ = 0;
  std::map<Comm, Joined> comms_;
  std::map<Operation, Posted> operations_;
  std::map<Comm, std::shared_ptr<Ended>> aborting_;
  std::vector<std::unique_ptr<Buffer>> free_;
};

}  // namespace

Result<std::unique_ptr<NcclApi>> make_nccl_library(const NcclLibraryConfig& config) {
  const cudaError_t error = cudaSetDevice(config.device);
  if (error != cudaSuccess) {
    return unavailable("GPU " + std::to_string(config.device) +
                       " cannot be used: " + cudaGetErrorString(error));
  }
  return std::unique_ptr<NcclApi>(std::make_unique<NcclLibrary>(config));
}

}  // namespace kvferry::transport
