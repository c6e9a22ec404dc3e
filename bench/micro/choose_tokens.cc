// Choosing tokens on CUDA (kernels/sampling), one JSON line a case: what it takes with logits in memory ("us", L2
// overwritten before each call) and as the head leaves them ("us_again", calls one after another), beside the time in
// which the logits are read once. Rows fall like a language model's (logit = 20 - 2.2 ln(rank), shuffled, a little
// noise), or are normal with deviation 1 ("flat"), the worst case for top_p.
//
//   bench_choose_tokens [--smoke]
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/micro/cuda_timer.h"
#include "device/device.h"
#include "device/memory.h"
#include "kernels/sampling/choose.h"
#include "kernels/sampling/largest.h"

namespace tandem {
namespace {

using kernels::ChoiceLogprob;
using kernels::ChosenToken;
using kernels::TokenChoice;
using tensor::DType;
using tensor::Shape;
using tensor::TensorView;
using namespace bench;

device::Memory make_logits(std::int64_t N, std::int64_t V, bool flat, device::Stream& stream) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto width = static_cast<std::size_t>(V);
  std::vector<float> rows(static_cast<std::size_t>(N) * width);
  for (std::size_t n = 0; n < static_cast<std::size_t>(N); ++n) {
    const auto own = rows.begin() + static_cast<std::ptrdiff_t>(n * width);
    if (n >= 8) {  // one of the first, turned
      std::rotate_copy(own - 8 * V, own - 8 * V + 1009, own - 7 * V, own);
      continue;
    }
    for (std::size_t i = 0; i < width; ++i) {
      own[static_cast<std::ptrdiff_t>(i)] =
          flat ? normal(random) : 20.0f - 2.2f * std::log(static_cast<float>(i + 1)) + 0.3f * normal(random);
    }
    std::shuffle(own, own + V, random);
  }
  device::Memory memory = require(device::Memory::create(kCuda, rows.size() * sizeof(float)));
  require(device::copy(memory.data(), rows.data(), memory.bytes(), stream));
  require(stream.synchronize());
  return memory;
}

struct Mode {
  const char* name;
  TokenChoice choice;
  bool flat = false;
};

void run(const std::vector<std::int64_t>& batches, std::int64_t V, int repeats) {
  const auto stream = require(device::Stream::create_cuda(0));
  CudaTimer timer(*stream);
  const auto rows_max = static_cast<std::size_t>(*std::max_element(batches.begin(), batches.end()));
  const device::Memory falling = make_logits(static_cast<std::int64_t>(rows_max), V, false, *stream),
                       flat = make_logits(static_cast<std::int64_t>(rows_max), V, true, *stream);
  const device::Memory choices = require(device::Memory::create(kCuda, rows_max * sizeof(TokenChoice))),
                       ids = require(device::Memory::create(kCuda, rows_max * 4)),
                       scratch = require(device::Memory::create(
                           kCuda, kernels::largest_cuda_scratch_bytes(static_cast<std::int64_t>(rows_max)))),
                       chosen = require(device::Memory::create_pinned(rows_max * sizeof(ChosenToken)));
  const std::vector<Mode> modes = {
      {"largest", {}},
      {"greedy", {.temperature = 0.0f}},
      {"greedy_logprob", {.temperature = 0.0f, .logprob = ChoiceLogprob::kRaw}},
      {"plain", {.temperature = 1.0f}},
      {"plain_logprob", {.temperature = 1.0f, .logprob = ChoiceLogprob::kRaw}},
      {"temperature_logprob", {.temperature = 0.7f, .logprob = ChoiceLogprob::kRaw}},
      {"top_k_50", {.temperature = 0.7f, .top_k = 50}},
      {"top_p_0.9", {.temperature = 0.7f, .top_p = 0.9f}},
      {"top_k_50_top_p_0.9", {.temperature = 0.7f, .top_p = 0.9f, .top_k = 50}},
      {"top_p_0.9", {.temperature = 1.0f, .top_p = 0.9f}, true},
      {"top_k_1000_top_p_0.9", {.temperature = 1.0f, .top_p = 0.9f, .top_k = 1000}, true},
  };
  std::mt19937_64 random(7);
  for (const Mode& mode : modes) {
    std::vector<TokenChoice> asked(rows_max, mode.choice);
    for (TokenChoice& choice : asked) choice.uniform = random();
    require(device::copy(choices.data(), asked.data(), choices.bytes(), *stream));
    for (const std::int64_t N : batches) {
      const TensorView logits(mode.flat ? flat.data() : falling.data(), DType::kF32, Shape{N, V}, kCuda);
      const TensorView found(ids.data(), DType::kI32, Shape{N}, kCuda);
      const auto count = static_cast<std::size_t>(N);
      const std::span out(static_cast<ChosenToken*>(chosen.data()), count);
      const std::span in(static_cast<const TokenChoice*>(choices.data()), count);
      const auto call = [&] {
        if (std::string_view(mode.name) == "largest") {
          return kernels::largest_cuda(logits, found, out, scratch.span(), *stream);
        }
        return kernels::choose_tokens_cuda(logits, in, found, out, *stream);
      };
      const double once = timer.time({.repeats = repeats}, call).median;
      const double again = timer.time({.repeats = repeats, .calls = 20, .overwrites_l2_cache = false}, call).median;
      const double bound = static_cast<double>(logits.bytes()) / kBytesPeak * 1e6;
      std::uint32_t hash = 0;
      for (const ChosenToken& token : out) hash = hash * 31 + static_cast<std::uint32_t>(token.token);
      fmt::print(
          "{{\"op\":\"choose_{}\",\"logits\":\"{}\",\"rows\":{},\"vocab\":{},\"us\":{:.1f},\"us_again\":{:.1f},"
          "\"bound_us\":{:.2f},\"tokens_hash\":{}}}\n",
          mode.name, mode.flat ? "flat" : "falling", N, V, once, again, bound, hash);
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::string_view(argv[1]) == "--smoke";
  if (smoke) {
    tandem::run({1, 16}, 4096, 3);
  } else {
    tandem::run({1, 16, 64, 256}, 128256, 15);
  }
  return 0;
}
