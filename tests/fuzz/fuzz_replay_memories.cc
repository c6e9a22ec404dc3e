// Bytes that claim to be a saved memory (which one says the first byte), with a checksum that is always right: they are
// refused, or they are a memory that says the same when it is saved again (but for the format: older ones are read),
// and works.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
#include <cstdlib>
#include <string>

#include "replay/curriculum.h"
#include "replay/episodic_value.h"
#include "replay/prioritized_replay.h"

namespace {

using namespace tandem::replay;

void require(bool holds) {
  if (!holds) std::abort();
}

void use(PrioritizedReplay& replay) {
  replay.check_invariants();
  require(replay.add(1).ok());
  std::array<SlotId, 2> slots;
  require(replay.sample(std::array<double, 2>{0, 0.9}, slots).ok());
  replay.check_invariants();
}
void use(EpisodicValue& memory) {
  const std::vector<float> zero(memory.projection().size());
  require(memory.add(zero, 1).ok());
  std::vector<float> value(1);
  require(memory.values(zero, value).ok());
}
void use(Curriculum& curriculum) {
  const PromptId prompt = curriculum.add().value();
  std::array<PromptId, 4> prompts;
  require(curriculum.sample({1, 2}, 3, prompts).ok());
  require(curriculum.observe(prompt, 1, 2).ok());
  require(curriculum.remove(prompts[0]).ok());
}

template <class Memory>
void load(const std::string& bytes) {
  auto memory = Memory::from_bytes(bytes);
  if (!memory.ok()) return;
  std::string again = memory->to_bytes();
  again.replace(8, 4, bytes, 8, 4);
  constexpr std::size_t kHash = sizeof(std::uint64_t);
  require(again.compare(0, again.size() - kHash, bytes, 0, bytes.size() - kHash) == 0);
  use(*memory);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::uint64_t hash = XXH3_64bits(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&hash), sizeof hash);
  switch (data[0] % 3) {
    case 0: load<PrioritizedReplay>(bytes); break;
    case 1: load<EpisodicValue>(bytes); break;
    default: load<Curriculum>(bytes);
  }
  return 0;
}
