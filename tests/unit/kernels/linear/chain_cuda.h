// A linear layer on a CUDA device, as slow and plain as its contract (linear.h): what the fast kernels are compared
// with, bit for bit.
#pragma once

#include <vector>

#include "kernels/linear/paths.h"

namespace tandem::kernels::testing {

// One warp for 16 rows and 8 outputs: tensor products (mma.sync m16n8k16) in steps of 16 from k = 0 on, their operands
// read element by element from where they lie. x is normalised and rounded by one block a row. Waits for the stream.
void linear_by_chain(const LinearCall& call, device::Stream& stream);

// <a row of x, a row of w> for each row of w [rows,K] and of x [columns,K], both bf16 on the host, as one chain on the
// tensor cores, by one instruction.
enum class ChainBy {
  kWarpLeft,   // mma.sync, w the left side
  kWarpRight,  // mma.sync, w the right side
  kGroup8,     // wgmma, w the left side, 8 ... 256 of x's rows the right side
  kGroup16,
  kGroup32,
  kGroup64,
  kGroup128,
  kGroup256,
  kGroupRegisters64,  // wgmma of 64 of x's rows, w from registers
};
inline constexpr int kChainRows = 64, kChainColumns = 256;
// K a multiple of 64.   Returns [rows][columns].
std::vector<float> sums_by(ChainBy by, const std::vector<std::uint16_t>& w, const std::vector<std::uint16_t>& x, int K,
                           device::Stream& stream);

}  // namespace tandem::kernels::testing
