// Inputs, guarded outputs and a double-precision reference for the tests of linear layers.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/linear/linear.h"

namespace tandem::kernels {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

inline float uniform_value(std::uint64_t stream, std::uint64_t i) {
  return static_cast<float>(2.0 * philox_uniform({7, stream}, i) - 1.0);
}

// A matrix of f32, bf16 or f16 whose rows lie `stride` elements apart, in exactly as many bytes as it needs (so that
// a sanitizer sees any read beyond it), starting at an address aligned to the element only. Bytes between the rows
// are a pattern that must_be_intact() looks for.
class Matrix {
 public:
  Matrix(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t stride)
      : dtype_(dtype), rows_(rows), columns_(columns), stride_(stride) {
    const std::int64_t elements = rows > 0 ? (rows - 1) * stride + columns : 0;
    bytes_ = static_cast<std::size_t>((elements + 1) * tensor::dtype_bytes(dtype));
    storage_.reset(new std::byte[bytes_]);
    std::memset(storage_.get(), kPattern, bytes_);
  }

  template <class Value>
  static Matrix of(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t stride, Value&& value) {
    Matrix matrix(dtype, rows, columns, stride);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) matrix.set(r, c, value(r, c));
    }
    return matrix;
  }
  static Matrix random(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t stride,
                       std::uint64_t stream) {
    return of(dtype, rows, columns, stride, [&](std::int64_t r, std::int64_t c) {
      return uniform_value(stream, static_cast<std::uint64_t>(r * columns + c));
    });
  }

  void set(std::int64_t row, std::int64_t column, float value) {
    std::byte* const to = at(row, column);
    if (dtype_ == DType::kF32) {
      std::memcpy(to, &value, 4);
    } else {
      const std::uint16_t bits = dtype_ == DType::kBf16 ? tensor::bf16_from_f32(value) : tensor::f16_from_f32(value);
      std::memcpy(to, &bits, 2);
    }
  }
  float get(std::int64_t row, std::int64_t column) const {
    const std::byte* const from = const_cast<Matrix*>(this)->at(row, column);
    if (dtype_ == DType::kF32) {
      float value;
      std::memcpy(&value, from, 4);
      return value;
    }
    std::uint16_t bits;
    std::memcpy(&bits, from, 2);
    return dtype_ == DType::kBf16 ? tensor::f32_from_bf16(bits) : tensor::f32_from_f16(bits);
  }
  bool same_bits(std::int64_t row, const Matrix& other, std::int64_t other_row) const {
    return columns_ == other.columns_ &&
           std::memcmp(const_cast<Matrix*>(this)->at(row, 0), const_cast<Matrix&>(other).at(other_row, 0),
                       static_cast<std::size_t>(columns_) * 4) == 0;
  }
  bool guards_intact() const {
    const std::size_t element = static_cast<std::size_t>(tensor::dtype_bytes(dtype_));
    for (std::size_t i = 0; i < bytes_; ++i) {
      const std::int64_t offset = static_cast<std::int64_t>(i / element) - 1;
      const bool inside = offset >= 0 && offset % stride_ < columns_;
      if (!inside && storage_[i] != static_cast<std::byte>(kPattern)) return false;
    }
    return true;
  }

  TensorView view() {
    const std::int64_t strides[] = {stride_, 1};
    return TensorView(static_cast<void*>(at(0, 0)), dtype_, Shape{rows_, columns_}, strides);
  }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }

 private:
  static constexpr int kPattern = 0x5a;
  std::byte* at(std::int64_t row, std::int64_t column) {
    return storage_.get() + (1 + row * stride_ + column) * tensor::dtype_bytes(dtype_);
  }

  DType dtype_;
  std::int64_t rows_, columns_, stride_;
  std::size_t bytes_ = 0;
  std::unique_ptr<std::byte[]> storage_;
};

// Scratch of exactly the bytes asked for, at an odd address.
class Scratch {
 public:
  Scratch(std::int64_t T, std::int64_t K) : bytes_(linear_scratch_bytes(T, K)), storage_(new std::byte[bytes_ + 1]) {}
  std::span<std::byte> span() { return {storage_.get() + 1, bytes_}; }

 private:
  std::size_t bytes_;
  std::unique_ptr<std::byte[]> storage_;
};

inline float operand(float value, Compute compute) {
  return compute == Compute::kBf16 ? tensor::f32_from_bf16(tensor::bf16_from_f32(value)) : value;
}

struct Dot {
  double exact = 0;  // in double precision
  float plain = 0;   // the formula as written, in f32
  double sum_of_magnitudes = 0;
};

inline Dot reference_dot(const Matrix& x, std::int64_t t, const Matrix& weight, std::int64_t n, Compute compute) {
  Dot dot;
  for (std::int64_t k = 0; k < x.columns(); ++k) {
    const float a = operand(x.get(t, k), compute), b = operand(weight.get(n, k), compute);
    dot.exact += static_cast<double>(a) * b;
    dot.plain += a * b;
    dot.sum_of_magnitudes += std::fabs(static_cast<double>(a) * b);
  }
  return dot;
}

struct Setting {
  LinearPath path;
  Compute compute;
  DType weight;
  std::string name() const {
    return std::string(linear_path_name(path)) + (compute == Compute::kF32 ? " f32 " : " bf16 ") +
           tensor::dtype_name(weight);
  }
};

// Every path of this machine, compute type and weight type.
inline std::vector<Setting> all_settings() {
  std::vector<Setting> settings;
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    for (const LinearPath path : linear_paths(compute)) {
      for (const DType weight : {DType::kBf16, DType::kF16, DType::kF32}) settings.push_back({path, compute, weight});
    }
  }
  return settings;
}

struct Sizes {
  std::int64_t N, K;
};

// One of everything: a single element, tiles of every path and their neighbours, blocks of K and their neighbours.
inline std::vector<Sizes> all_sizes() {
  return {{1, 1},    {1, 64},   {5, 31},   {16, 32},   {17, 33}, {33, 100},
          {150, 65}, {9, 1024}, {7, 2048}, {35, 2049}, {6, 4100}};
}

}  // namespace tandem::kernels
