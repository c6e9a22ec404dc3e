// What a backward does with the memory that its gradients go to.
#pragma once

#include <cstdint>

namespace tandem::kernels {

enum class GradientMode : std::uint8_t {
  kWrite,  // what was there is not read
  kAdd,    // gradients are added to what is there, in f32, and rounded once
};

}  // namespace tandem::kernels
