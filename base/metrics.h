// Prometheus metrics of a process, over prometheus-cpp. docs/metrics.md lists every one.
// Names start with kvferry_, end in the unit, and in _total when they are counters.
// Thread contract: any thread. References stay valid as long as the registry.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace kvferry {

class Counter {
 public:
  virtual ~Counter() = default;
  virtual void add(double amount = 1) = 0;
  virtual double value() const = 0;
};
class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual void set(double value) = 0;
  virtual void add(double amount) = 0;
  virtual double value() const = 0;
};
class Histogram {
 public:
  virtual ~Histogram() = default;
  virtual void observe(double value) = 0;
};

class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // The metric of that name and labels, made at the first call. Keep the reference: a look-up
  // locks. The same name must always come with the same kind and help text (anything else aborts).
  Counter& counter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge& gauge(const std::string& name, const std::string& help, const Labels& labels = {});
  // buckets: upper bounds, ascending; empty: kSecondsBuckets.
  Histogram& histogram(const std::string& name, const std::string& help, const Labels& labels = {},
                       const std::vector<double>& buckets = {});

  // Prometheus text format 0.0.4, as /metrics answers it.
  std::string serialize() const;

  // 0.5 ms to 60 s.
  static const std::vector<double> kSecondsBuckets;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry
