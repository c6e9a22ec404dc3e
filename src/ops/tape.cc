#include "ops/tape.h"

#include <algorithm>
#include <string>
#include <utility>

#include "ops/support.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::TensorView;

std::uintptr_t address_of(const TensorView& view) { return reinterpret_cast<std::uintptr_t>(view.data()); }

// Bytes from a view's first element to the end of its last.
std::uintptr_t span_bytes(const TensorView& view) {
  std::int64_t last = 0;
  for (int axis = 0; axis < view.rank(); ++axis) last += (view.extent(axis) - 1) * view.stride(axis);
  return static_cast<std::uintptr_t>((last + 1) * tensor::dtype_bytes(view.dtype()));
}

bool is_empty(const TensorView& view) { return view.count() == 0; }
bool is_absent(const TensorView& view) { return view.data() == nullptr && view.rank() == 0; }

}  // namespace

Status Tape::watch(TensorView leaf) { return add("watch", leaf, Kind::kWatched); }
Status Tape::freeze(TensorView constant) { return add("freeze", constant, Kind::kFrozen); }

Status Tape::add(std::string_view who, TensorView tensor, Kind kind) {
  if (is_absent(tensor) || is_empty(tensor)) return ok_status();
  if (tensor.data() == nullptr || !tensor.is_dense()) {
    return invalid_argument("tape: {} of {}, which is not dense memory; give the whole buffer it is a view of", who,
                            tensor.shape().to_string());
  }
  const std::uintptr_t begin = address_of(tensor), end = begin + span_bytes(tensor);
  auto next = buffers_.lower_bound(begin);
  if (kind != Kind::kMade && next != buffers_.end() && next->first == begin && next->second.end == end &&
      next->second.kind == kind) {
    return ok_status();
  }
  const bool overlaps = (next != buffers_.end() && next->first < end) ||
                        (next != buffers_.begin() && std::prev(next)->second.end > begin);
  if (overlaps) {
    return invalid_argument(
        "tape: {} of {} overlaps memory that is on the tape already; give each buffer once and whole, and keep the "
        "arena's scopes open until backward()",
        who, tensor.shape().to_string());
  }
  buffers_.emplace_hint(next, begin, Buffer{end, kind, tensor.count(), nullptr});
  return ok_status();
}

Tape::Buffers::const_iterator Tape::find(TensorView view) const {
  if (view.data() == nullptr || is_empty(view)) return buffers_.end();
  auto after = buffers_.upper_bound(address_of(view));
  if (after == buffers_.begin()) return buffers_.end();
  const auto buffer = std::prev(after);
  return address_of(view) + span_bytes(view) <= buffer->second.end ? buffer : buffers_.end();
}

Status Tape::expect(std::string_view op, std::string_view name, TensorView input) const {
  if (is_absent(input) || is_empty(input) || find(input) != buffers_.end()) return ok_status();
  return invalid_argument("{}: {} is not on the tape; watch() it if its gradient is wanted, freeze() it if not", op,
                          name);
}

Status Tape::expect_made(std::string_view op, TensorView changed) const {
  if (is_empty(changed)) return ok_status();
  const auto buffer = find(changed);
  if (buffer != buffers_.end() && buffer->second.kind == Kind::kMade) return ok_status();
  return invalid_argument("{}: changes what no op on the tape has made; copy it first", op);
}

bool Tape::wants(TensorView input) const {
  const auto buffer = find(input);
  return buffer != buffers_.end() && buffer->second.kind != Kind::kFrozen;
}

bool Tape::has_grad(TensorView view) const {
  const auto buffer = find(view);
  return buffer != buffers_.end() && buffer->second.grad != nullptr;
}

Result<TensorView> Tape::grad_if_wanted(TensorView input) {
  if (!wants(input)) return TensorView();
  return grad(input);
}

Result<TensorView> Tape::grad(TensorView view) {
  std::int64_t strides[tensor::kRankMax] = {};
  for (int axis = 0; axis < view.rank(); ++axis) strides[axis] = view.stride(axis);
  const auto like_view = [&](float* data) {
    return TensorView(data, DType::kF32, view.shape(), std::span(strides, static_cast<std::size_t>(view.rank())),
                      view.device());
  };
  if (is_empty(view)) return like_view(nullptr);
  const auto found = find(view);
  if (found == buffers_.end()) {
    return invalid_argument(
        "tape: there is no gradient of {}: nothing on the tape lies there; watch() it before the forward (a gradient "
        "of what an op made lasts until that op has run backward)",
        view.shape().to_string());
  }
  if (found->second.kind == Kind::kFrozen) {
    return invalid_argument("tape: {} is frozen, so it has no gradient; watch() it instead", view.shape().to_string());
  }
  Buffer& buffer = buffers_.find(found->first)->second;
  if (buffer.grad == nullptr) buffer.grad = TD_TRY(take_grad(buffer));
  return like_view(buffer.grad +
                   (address_of(view) - found->first) / static_cast<std::uintptr_t>(tensor::dtype_bytes(view.dtype())));
}

Result<float*> Tape::take_grad(const Buffer& buffer) {
  const std::int64_t count = buffer.count;
  float* grad = nullptr;
  // A watched buffer's gradient stays: from what was given back, it would be missing in the next step.
  if (const auto block = given_back_.find(count); buffer.kind == Kind::kMade && block != given_back_.end()) {
    grad = block->second;
    given_back_.erase(block);
  } else {
    grad = static_cast<float*>(gradients_.take(static_cast<std::size_t>(count) * sizeof(float)));
  }
  if (!gradients_.is_planning())
    TD_TRY(fill_zeros(stream_, TensorView(grad, DType::kF32, tensor::Shape{count}, stream_.device())));
  return grad;
}

Status Tape::record(std::string_view op, std::initializer_list<TensorView> made, Backward backward) {
  Entry entry{op, {}, false, std::move(backward)};
  for (const TensorView& output : made) {
    TD_TRY(add(op, output, Kind::kMade));
    if (!is_empty(output)) entry.outputs.push_back(address_of(output));
  }
  if (!entry.outputs.empty()) entries_.push_back(std::move(entry));
  return ok_status();
}

Status Tape::record_in_place(std::string_view op, TensorView changed, Backward backward) {
  TD_TRY(expect_made(op, changed));
  if (!is_empty(changed)) entries_.push_back({op, {find(changed)->first}, true, std::move(backward)});
  return ok_status();
}

void Tape::forget(const Entry& entry) {
  if (entry.in_place) return;
  for (const std::uintptr_t begin : entry.outputs) {
    const auto buffer = buffers_.find(begin);
    if (buffer->second.grad != nullptr) given_back_.emplace(buffer->second.count, buffer->second.grad);
    buffers_.erase(buffer);
  }
}

void Tape::clear() {
  while (!entries_.empty()) {
    forget(entries_.back());
    entries_.pop_back();
  }
}

Status Tape::backward() {
  bool started = entries_.empty();
  while (!entries_.empty()) {
    const Entry& entry = entries_.back();
    if (std::any_of(entry.outputs.begin(), entry.outputs.end(),
                    [&](std::uintptr_t begin) { return buffers_.at(begin).grad != nullptr; })) {
      started = true;
      if (const Status status = entry.backward(); !status.ok()) {
        const std::string context = "backward of " + std::string(entry.op);
        clear();
        return status.with_context(context);
      }
    }
    forget(entry);
    entries_.pop_back();
  }
  if (started) return ok_status();
  return invalid_argument("tape: there is no gradient to start from; fill grad() of the output before backward()");
}

}  // namespace tandem::ops
