// Errors are values. A Status is a code and a message that says what happened and what to do next;
// a Result<T> is a T or the Status that says why there is none.
//
// Thread contract: values; distinct objects may be used from distinct threads.
// Nothing here throws. Accessing the value of a failed Result is a programming error and aborts.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace kvferry {

// Why something failed. The names are those of metrics labels and log lines.
enum class Code {
  kOk = 0,
  kInvalidArgument,    // the caller's input is wrong, now and always: bad config, bad request
  kNotFound,           // a file, model, codec or worker that was named does not exist
  kUnsupported,        // well-formed, but this build or version does not do it
  kResourceExhausted,  // a documented limit was hit: pool, queue, descriptor; trying later may help
  kUnavailable,        // a peer is gone or not ready; trying elsewhere or later may help
  kDeadlineExceeded,   // time ran out
  kCancelled,          // the client went away or the request was superseded
  kDataLoss,           // a checksum, identity or coverage check failed; the data was not used
  kFailedPrecondition,  // the object is not in a state that allows the call
  kInternal,            // a bug or an error of a library that has no better name
};

// Snake-case name of a code: "invalid_argument".
std::string_view code_name(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

  // "data_loss: layer 3: payload checksum differs", or "ok".
  std::string to_string() const;

  // The same code with "context: " put before the message. OK stays OK.
  Status with_context(std::string_view context) const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

inline Status ok_status() { return {}; }
inline Status invalid_argument(std::string m) { return {Code::kInvalidArgument, std::move(m)}; }
inline Status not_found(std::string m) { return {Code::kNotFound, std::move(m)}; }
inline Status unsupported(std::string m) { return {Code::kUnsupported, std::move(m)}; }
inline Status resource_exhausted(std::string m) { return {Code::kResourceExhausted, std::move(m)}; }
inline Status unavailable(std::string m) { return {Code::kUnavailable, std::move(m)}; }
inline Status deadline_exceeded(std::string m) { return {Code::kDeadlineExceeded, std::move(m)}; }
inline Status cancelled(std::string m) { return {Code::kCancelled, std::move(m)}; }
inline Status data_loss(std::string m) { return {Code::kDataLoss, std::move(m)}; }
inline Status failed_precondition(std::string m) {
  return {Code::kFailedPrecondition, std::move(m)};
}
inline Status internal_error(std::string m) { return {Code::kInternal, std::move(m)}; }

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}        // NOLINT: implicit
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) {  // NOLINT: implicit
    if (std::get<1>(state_).ok()) std::abort();  // a failed Result needs a cause
  }

  bool ok() const { return state_.index() == 0; }
  Status status() const { return ok() ? Status() : std::get<1>(state_); }

  T& value() & { return checked(); }
  const T& value() const& { return const_cast<Result*>(this)->checked(); }
  // By value, so that `for (x : f().value())` does not walk through what is gone.
  T value() && { return std::move(checked()); }
  T& operator*() & { return checked(); }
  const T& operator*() const& { return value(); }
  T operator*() && { return std::move(checked()); }
  T* operator->() { return &checked(); }
  const T* operator->() const { return &value(); }

 private:
  T& checked() {
    if (!ok()) std::abort();
    return std::get<0>(state_);
  }
  std::variant<T, Status> state_;
};

}  // namespace kvferry

// Returns from the enclosing function when `expression` (a Status) is not OK.
#define KVF_RETURN_IF_ERROR(expression)           \
  do {                                            \
    ::kvferry::Status kvf_status_ = (expression); \
    if (!kvf_status_.ok()) return kvf_status_;    \
  } while (false)

// KVF_ASSIGN_OR_RETURN(auto x, f()): declares x from a Result, or returns its Status.
#define KVF_ASSIGN_OR_RETURN(declaration, expression) \
  KVF_ASSIGN_OR_RETURN_IMPL_(KVF_CONCAT_(kvf_result_, __LINE__), declaration, expression)
#define KVF_ASSIGN_OR_RETURN_IMPL_(result, declaration, expression) \
  auto result = (expression);                                       \
  if (!result.ok()) return result.status();                         \
  declaration = std::move(result).value()
#define KVF_CONCAT_(a, b) KVF_CONCAT_IMPL_(a, b)
#define KVF_CONCAT_IMPL_(a, b) a##b
