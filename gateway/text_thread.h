// Work on long texts (parsing, tokenizing megabytes) beside the reactor, so that no stream waits
// for it: one thread, in the order of arrival. Thread contract: the reactor's thread; work runs on
// the other one.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>

namespace kvferry::gateway {

class TextThread {
 public:
  // What is left to do on the reactor's thread.
  using Rest = std::function<void()>;

  explicit TextThread(boost::asio::io_context& io);
  // Waits for what runs. Work that has not begun is dropped, and so is every rest.
  ~TextThread();

  // `work` must hand what only the reactor may destroy on to its rest, and keep no copy.
  void run(std::function<Rest()> work);

 private:
  struct Done;  // rests, on their way to the reactor

  boost::asio::io_context& io_;
  std::shared_ptr<Done> done_;
  boost::asio::thread_pool pool_{1};
};

}  // namespace kvferry::gateway
