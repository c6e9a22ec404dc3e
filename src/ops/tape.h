// The record of a forward that is to be differentiated, and the gradients of what took part in it.
//
// A null Tape* is inference: nothing is recorded and ops may reuse their inputs' memory. An op that has no backward yet
// refuses a tape by name rather than record a wrong gradient.
//
// Gradients go by memory. The tape knows *buffers*, dense ranges of memory that do not overlap: those the caller
// watch()es, whose gradients are wanted; those it freeze()s, which are constants; and those that ops made. A buffer's
// gradient has an f32 for each of its elements, and grad(view) of any view into it is the same view of that: q, k and v
// inside one packed buffer need no rule of their own. Each backward adds to the gradients of its inputs, so what is
// used twice gets the sum. Order of additions: that of the recorded ops, last first.
//
//   tape.watch(weight); tape.freeze(x);        every float input of an op must be one or the other, or made by an op
//   y = op(context, x, weight, &tape);
//   fill tape.grad(y); tape.backward();        then tape.grad(weight) holds the sum
//
// Life of memory: what ops made must stay until backward() is through, so no scope of their arena may end before (a
// buffer that overlaps another is an error). Gradients lie in an arena of their own, zeroed when first asked for. That
// of a buffer that an op made is given back once the op's backward has run, and its memory used for the next one of its
// size that an op made; those of watched buffers stay, and further forwards and backwards add to them, in no more
// memory than the first. backward() forgets what was recorded and made, not what was watched or frozen. Planning
// (device/arena.h): with both arenas planning, the same calls run no kernel and touch no memory, and the arenas' peaks
// are what a step takes, backward included. Tensors that take part then need addresses of their own: take them from the
// planning arena, or use the real ones.
//
// Errors: kInvalidArgument with a remedy, for what is not on the tape, overlaps, or starts from no gradient.
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "device/arena.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::ops {

class Tape {
 public:
  using Backward = std::function<Status()>;

  // Both outlive the tape. `gradients` is not the arena that the ops take their outputs from.
  Tape(device::Stream& stream, device::Arena& gradients) : stream_(stream), gradients_(gradients) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // A dense tensor whose gradient is wanted; one that is a constant. Saying the same again changes nothing,
  // nor does an absent tensor: an optional weight that a model lacks.
  [[nodiscard]] Status watch(tensor::TensorView leaf);
  [[nodiscard]] Status freeze(tensor::TensorView constant);

  // The gradient of `view`, a view of the same shape and strides, f32. Zeros if nothing was added to it yet.
  // Valid until the op that made the tensor has run backward; for what is watched, as long as the arena.
  [[nodiscard]] Result<tensor::TensorView> grad(tensor::TensorView view);

  // Runs the backwards of what was recorded, last first, and forgets it. Ops whose outputs have no gradient are left
  // out. Errors: the first one of a backward, naming its op; kInvalidArgument if there was no gradient to start from.
  [[nodiscard]] Status backward();

  // Forgets what was recorded and made, as backward() does, without running it: for a forward that is given up.
  void clear();

  std::size_t size() const { return entries_.size(); }

  // ---- For ops. ----

  // kInvalidArgument unless `input` lies in a buffer of the tape, or is absent.
  [[nodiscard]] Status expect(std::string_view op, std::string_view name, tensor::TensorView input) const;
  // kInvalidArgument unless an op on the tape made the buffer that `changed` lies in: what record_in_place() asks for.
  [[nodiscard]] Status expect_made(std::string_view op, tensor::TensorView changed) const;
  // Whether a gradient of `input` is of use: it is neither frozen nor absent.
  bool wants(tensor::TensorView input) const;
  // grad() where that is wanted, else absent.
  [[nodiscard]] Result<tensor::TensorView> grad_if_wanted(tensor::TensorView input);
  // Whether anybody has asked for a gradient in the buffer of `view`.
  bool has_grad(tensor::TensorView view) const;
  // `made` are the op's outputs, dense, at least one. `backward` runs only if one of them has a gradient.
  [[nodiscard]] Status record(std::string_view op, std::initializer_list<tensor::TensorView> made, Backward backward);
  // The op changed `changed`, all or part of what one op made, where it lies; `backward` turns the gradient of the new
  // values into that of the old, where it lies. No op recorded before may need the old values.
  [[nodiscard]] Status record_in_place(std::string_view op, tensor::TensorView changed, Backward backward);
  const device::Arena& arena() const { return gradients_; }

 private:
  enum class Kind : std::uint8_t { kWatched, kFrozen, kMade };
  struct Buffer {
    std::uintptr_t end = 0;
    Kind kind = Kind::kMade;
    std::int64_t count = 0;
    float* grad = nullptr;  // null: not asked for yet
  };
  struct Entry {
    std::string_view op;                  // a literal
    std::vector<std::uintptr_t> outputs;  // first bytes of their buffers
    bool in_place;
    Backward backward;
  };
  using Buffers = std::map<std::uintptr_t, Buffer>;  // by first byte

  Status add(std::string_view who, tensor::TensorView tensor, Kind kind);
  Buffers::const_iterator find(tensor::TensorView view) const;  // of the buffer that contains it; end() if none does
  Result<float*> take_grad(const Buffer& buffer);
  void forget(const Entry& entry);

  device::Stream& stream_;
  device::Arena& gradients_;
  Buffers buffers_;
  std::vector<Entry> entries_;
  std::multimap<std::int64_t, float*> given_back_;  // by count
};

}  // namespace tandem::ops
