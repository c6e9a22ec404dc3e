#include "tensor/dlpack.h"

#include <gtest/gtest.h>

namespace tandem::tensor {
namespace {

TEST(Dlpack, ATensorGoesOutAndComesBackWithoutACopy) {
  Tensor tensor(DType::kF32, Shape{2, 3});
  tensor.span<float>()[4] = 5.0f;
  const void* data = tensor.view().data();
  const DlpackTensor back = DlpackTensor::import(to_dlpack(std::move(tensor))).value();
  EXPECT_EQ(back.view().data(), data);
  EXPECT_EQ(back.view().shape(), (Shape{2, 3}));
  EXPECT_EQ(back.view().dtype(), DType::kF32);
  EXPECT_EQ(back.view().as<float>()[4], 5.0f);
}

TEST(Dlpack, WhatHasNoWordIsRefusedAndDeleted) {
  static int deleted;
  deleted = 0;
  DLManagedTensor managed{};
  std::int64_t shape[] = {1};
  managed.dl_tensor.shape = shape;
  managed.dl_tensor.ndim = 1;
  managed.dl_tensor.device = {kDLCUDA, 0};
  managed.dl_tensor.dtype = {kDLFloat, 32, 1};
  managed.deleter = [](DLManagedTensor*) { ++deleted; };
  EXPECT_EQ(DlpackTensor::import(&managed).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(deleted, 1);
  managed.dl_tensor.device = {kDLCPU, 0};
  managed.dl_tensor.dtype = {kDLFloat, 32, 4};
  EXPECT_EQ(DlpackTensor::import(&managed).code(), StatusCode::kInvalidArgument);
  managed.dl_tensor.dtype = {kDLFloat, 32, 1};
  shape[0] = -1;
  EXPECT_EQ(DlpackTensor::import(&managed).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(deleted, 3);
}

}  // namespace
}  // namespace tandem::tensor
