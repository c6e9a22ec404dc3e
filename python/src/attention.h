// tandem._core: streams, plans and fused attention (kernels/fused_attention), the arguments as that header has them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "convert.h"
#include "device/device.h"
#include "device/memory.h"
#include "kernels/fused_attention/fused_attention.h"

namespace tandem::python {

// Where work runs: the CPU's threads, or somebody's CUDA stream, borrowed.
// Threads: any; calls on one stream take turns.
class CoreStream {
 public:
  // `handle` is a cudaStream_t as an integer, 0 the default stream; `threads_count` is for the CPU, 0 one per core.
  CoreStream(const std::string& device, std::uintptr_t handle, int threads_count);
  ~CoreStream();

  std::string device_name() const { return device::to_string(stream_->device()); }
  int threads_count() const { return is_cpu() ? stream_->pool().threads_count() : 1; }
  bool is_cpu() const { return stream_->device().kind == device::DeviceKind::kCpu; }
  // Runs `work(stream)` without the GIL and raises what it returns.
  template <class Work>
  void run(Work&& work) {
    Status status;
    {
      nanobind::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      status = work(*stream_);
    }
    check(status);
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<device::Stream> stream_;
  int process_id_;
};

// A FusedAttentionPlan for one device and shape of heads, and its words on that device.
class CorePlan {
 public:
  // `segments`: query begin and count, prefix begin and count, key begin and count of each, one after another. A CUDA
  // plan waits for its upload on `stream`. `path`: "cpu", "sm80" or "sm90"; absent: the best of the device.
  CorePlan(const std::vector<std::int32_t>& segments, std::int32_t left, std::int32_t right,
           const kernels::AttentionShape& shape, CoreStream& stream, const std::optional<std::string>& path);

  const kernels::FusedAttentionPlan& plan() const { return plan_; }
  tensor::TensorView words() const;
  const char* path_name() const;
  std::size_t forward_scratch_bytes(const CoreStream& stream) const;
  std::size_t backward_scratch_bytes(const CoreStream& stream) const;

 private:
  kernels::FusedAttentionPlan plan_;
  device::Device device_;
  device::Memory words_;
};

void attention_forward(const InputArray& q, const InputArray& k, const InputArray& v, const CorePlan& plan,
                       double scale, double softcap, const std::optional<InputArray>& sinks, const OutputArray& out,
                       const std::optional<OutputArray>& lse, const std::optional<OutputArray>& scratch,
                       CoreStream& stream);

void attention_backward(const InputArray& q, const InputArray& k, const InputArray& v, const CorePlan& plan,
                        double scale, double softcap, bool deterministic, const std::optional<InputArray>& sinks,
                        const InputArray& out, const InputArray& lse, const InputArray& dout,
                        const std::optional<InputArray>& dlse, const OutputArray& dq, const OutputArray& dk,
                        const OutputArray& dv, const std::optional<OutputArray>& dsinks,
                        const std::optional<OutputArray>& scratch, CoreStream& stream);

}  // namespace tandem::python
