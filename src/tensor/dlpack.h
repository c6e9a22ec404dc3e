// Exchange of tensors with other libraries without a copy, through DLPack (github.com/dmlc/dlpack, version 0.6).
//
// Out: the receiver owns the memory until it calls the deleter. In: the view lives as long as the DlpackTensor.
// Errors: kInvalidArgument (a dtype, device, rank or stride that Tandem has no word for).   Threads: as for Tensor.
#pragma once

#include <dlpack/dlpack.h>

#include <memory>

#include "base/status.h"
#include "tensor/tensor.h"

namespace tandem::tensor {

// Gives `tensor` away. The caller must see that the result's deleter is called once.
DLManagedTensor* to_dlpack(Tensor tensor);

// Somebody else's tensor, borrowed from a capsule that is now ours to delete.
class DlpackTensor {
 public:
  // Takes `managed` in any case: on an error it is deleted at once.
  [[nodiscard]] static Result<DlpackTensor> import(DLManagedTensor* managed);
  TensorView view() const { return view_; }

 private:
  struct Deleter {
    void operator()(DLManagedTensor* managed) const {
      if (managed->deleter != nullptr) managed->deleter(managed);
    }
  };
  std::unique_ptr<DLManagedTensor, Deleter> managed_;
  TensorView view_;
};

}  // namespace tandem::tensor
