#include "attention.h"

#include <unistd.h>

#include <span>

namespace tandem::python {

using device::Device;
using device::DeviceKind;
using kernels::AttentionPath;
using kernels::AttentionSegment;
using kernels::FusedAttentionPlan;

namespace {

constexpr struct {
  AttentionPath path;
  const char* name;
} kPaths[] = {{AttentionPath::kCpu, "cpu"}, {AttentionPath::kSm80, "sm80"}, {AttentionPath::kSm90, "sm90"}};

Result<AttentionPath> parse_path(const std::optional<std::string>& name, Device device) {
  const AttentionPath best = TD_TRY(kernels::attention_path(device));
  if (!name) return best;
  for (const auto& [path, path_name] : kPaths) {
    if (*name != path_name) continue;
    if ((path == AttentionPath::kCpu) == (best == AttentionPath::kCpu) && path <= best) return path;
    return invalid_argument("path '{}' does not run on {}", *name, device::to_string(device));
  }
  return invalid_argument("path '{}'; expected 'cpu', 'sm80' or 'sm90'", *name);
}

Result<FusedAttentionPlan> make_plan(const std::vector<std::int32_t>& words, std::int32_t left, std::int32_t right,
                                     const kernels::AttentionShape& shape, AttentionPath path) {
  constexpr std::size_t kWords = 6;
  if (words.size() % kWords != 0) {
    return invalid_argument("{} numbers of segments; expected six for each", words.size());
  }
  std::vector<AttentionSegment> segments;
  segments.reserve(words.size() / kWords);
  for (std::size_t i = 0; i < words.size(); i += kWords) {
    segments.push_back({words[i], words[i + 1], words[i + 2], words[i + 3], words[i + 4], words[i + 5]});
  }
  return FusedAttentionPlan::create(segments, {left, right}, shape, path);
}

}  // namespace

CoreStream::CoreStream(const std::string& device, std::uintptr_t handle, int threads_count) : process_id_(getpid()) {
  const Device parsed = check(device::parse_device(device));
  if (threads_count < 0) raise(invalid_argument("{} threads; expected 0 (one per core) or more", threads_count));
  stream_ = parsed.kind == DeviceKind::kCpu
                ? device::Stream::create_cpu(threads_count)
                : device::Stream::borrow_cuda(parsed.index, reinterpret_cast<device::CudaStreamHandle>(handle));
}

CoreStream::~CoreStream() {
  // A forked child has none of the threads that the destructor would wait for.
  if (getpid() != process_id_) static_cast<void>(stream_.release());
}

CorePlan::CorePlan(const std::vector<std::int32_t>& segments, std::int32_t left, std::int32_t right,
                   const kernels::AttentionShape& shape, CoreStream& stream, const std::optional<std::string>& path) {
  stream.run([&](device::Stream& on) -> Status {
    device_ = on.device();
    plan_ = TD_TRY(make_plan(segments, left, right, shape, TD_TRY(parse_path(path, device_))));
    const auto words = plan_.words();
    if (words.empty()) return ok_status();
    words_ = TD_TRY(device::Memory::create(device_, words.size_bytes()));
    TD_TRY(device::copy(words_.data(), words.data(), words.size_bytes(), on));
    return on.synchronize();  // other streams may use the plan next
  });
}

tensor::TensorView CorePlan::words() const {
  if (plan_.path() == AttentionPath::kCpu) return {};
  return tensor::TensorView(words_.data(), tensor::DType::kI32, {static_cast<std::int64_t>(plan_.words().size())},
                            device_);
}

const char* CorePlan::path_name() const {
  for (const auto& [path, name] : kPaths) {
    if (path == plan_.path()) return name;
  }
  return "";
}

std::size_t CorePlan::forward_scratch_bytes(const CoreStream& stream) const {
  return kernels::fused_attention_forward_scratch_bytes(plan_, stream.threads_count());
}

std::size_t CorePlan::backward_scratch_bytes(const CoreStream& stream) const {
  return kernels::fused_attention_backward_scratch_bytes(plan_, stream.threads_count());
}

void attention_forward(const InputArray& q, const InputArray& k, const InputArray& v, const CorePlan& plan,
                       double scale, double softcap, const std::optional<InputArray>& sinks, const OutputArray& out,
                       const std::optional<OutputArray>& lse, const std::optional<OutputArray>& scratch,
                       CoreStream& stream) {
  const kernels::FusedAttentionInputs inputs{checked_view("q", q), checked_view("k", k), checked_view("v", v),
                                             checked_view("sinks", sinks)};
  const kernels::FusedAttentionParams params{.scale = scale, .softcap = softcap};
  const tensor::TensorView out_view = checked_view("out", out), lse_view = checked_view("lse", lse);
  const std::span<std::byte> bytes = scratch_of(scratch);
  stream.run([&](device::Stream& on) {
    return kernels::fused_attention_forward(inputs, plan.plan(), plan.words(), params, out_view, lse_view, bytes, on);
  });
}

void attention_backward(const InputArray& q, const InputArray& k, const InputArray& v, const CorePlan& plan,
                        double scale, double softcap, bool deterministic, const std::optional<InputArray>& sinks,
                        const InputArray& out, const InputArray& lse, const InputArray& dout,
                        const std::optional<InputArray>& dlse, const OutputArray& dq, const OutputArray& dk,
                        const OutputArray& dv, const std::optional<OutputArray>& dsinks,
                        const std::optional<OutputArray>& scratch, CoreStream& stream) {
  const kernels::FusedAttentionInputs inputs{checked_view("q", q), checked_view("k", k), checked_view("v", v),
                                             checked_view("sinks", sinks)};
  const kernels::FusedAttentionGradients gradients{checked_view("dq", dq), checked_view("dk", dk),
                                                   checked_view("dv", dv), checked_view("dsinks", dsinks)};
  const kernels::FusedAttentionParams params{.scale = scale, .softcap = softcap, .deterministic = deterministic};
  const tensor::TensorView out_view = checked_view("out", out), lse_view = checked_view("lse", lse),
                           dout_view = checked_view("dout", dout), dlse_view = checked_view("dlse", dlse);
  const std::span<std::byte> bytes = scratch_of(scratch);
  stream.run([&](device::Stream& on) {
    return kernels::fused_attention_backward(inputs, plan.plan(), plan.words(), params, out_view, lse_view, dout_view,
                                             dlse_view, gradients, bytes, on);
  });
}

}  // namespace tandem::python
