// Memories that are saved in the middle of a history and loaded go on as those that were not; a file that is damaged is
// refused by name, and one that could not be written whole leaves the old one.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/rng.h"
#include "replay/curriculum.h"
#include "replay/episodic_value.h"
#include "replay/prioritized_replay.h"
#include "replay/saved.h"

namespace tandem::replay {
namespace {

double uniform(std::uint64_t stream, std::uint64_t at) { return philox_uniform({11, stream}, at); }
float symmetric(std::uint64_t stream, std::uint64_t at) { return static_cast<float>(2 * uniform(stream, at) - 1); }

// Each history is a function of its step: applied to two memories alike. What it says goes to `said`.
struct Priorities {
  using Memory = PrioritizedReplay;
  ReplayEviction eviction = ReplayEviction::kOldest;
  Memory make() const { return Memory::create({100, 0.7f, eviction}).value(); }
  void step(Memory& memory, std::uint64_t t, std::vector<double>& said) const {
    const auto added = memory.add(static_cast<float>(5 * uniform(1, t))).value();
    said.insert(said.end(), {static_cast<double>(added.slot), static_cast<double>(added.evicted)});
    const std::vector<SlotId> slots = {
        static_cast<SlotId>(uniform(2, t) * static_cast<double>(memory.size())),
        static_cast<SlotId>(uniform(3, t) * static_cast<double>(memory.size())),
    };
    EXPECT_TRUE(
        memory.update(slots, std::vector<float>{static_cast<float>(uniform(4, t)), t % 5 == 4 ? 0.f : 9.f}).ok());
    std::vector<SlotId> drawn(3);
    EXPECT_TRUE(memory.sample(std::vector<double>{uniform(5, t), uniform(6, t), uniform(7, t)}, drawn).ok());
    std::vector<float> weights(3);
    EXPECT_TRUE(memory.importance_weights(drawn, 0.4f, weights).ok());
    said.insert(said.end(), drawn.begin(), drawn.end());
    said.insert(said.end(), weights.begin(), weights.end());
    said.insert(said.end(), {memory.mass(), static_cast<double>(memory.priority_max())});
  }
};

struct Episodes {
  using Memory = EpisodicValue;
  SoftKernel kernel = SoftKernel::kLaplace;
  Memory make() const { return Memory::create({2, 90, 0.3f, kernel}, std::vector<float>{1, -0.5f}).value(); }
  void step(Memory& memory, std::uint64_t t, std::vector<double>& said) const {
    const std::vector<float> state = {symmetric(1, t), symmetric(2, t)}, asked = {symmetric(3, t), symmetric(4, t)};
    const EntryId id = memory.add(state, symmetric(5, t)).value();
    if (t % 17 == 3) {
      EXPECT_TRUE(memory.set_projection(std::vector<float>{symmetric(6, t), symmetric(7, t)}).ok());
    }
    if (t % 23 == 5) {
      EXPECT_TRUE(memory.set_tau(static_cast<float>(0.1 + uniform(8, t))).ok());
    }
    std::vector<float> value(1), advantage(1);
    EXPECT_TRUE(memory.values(asked, value).ok());
    said.insert(said.end(), {static_cast<double>(id), static_cast<double>(value[0])});
    if (t == 0) return;
    EXPECT_TRUE(memory.advantages({&id, 1}, advantage).ok());
    const auto error = memory.squared_error(asked, std::vector<float>{0.5f}).value();
    said.insert(said.end(), {static_cast<double>(advantage[0]), error.loss, static_cast<double>(error.d_projection[1]),
                             static_cast<double>(error.d_tau)});
  }
};

struct Prompts {
  using Memory = Curriculum;
  Memory make() const { return Memory::create({.target = 0.4, .tau = 0.2, .memory = 0.8}).value(); }
  void step(Memory& memory, std::uint64_t t, std::vector<double>& said) const {
    const PromptId prompt = memory.add(uniform(1, t), 0.5 + uniform(2, t)).value();
    std::vector<PromptId> drawn(4);
    EXPECT_TRUE(memory.sample({3, 1}, 4 * t, drawn).ok());
    const double attempts = 1 + std::floor(8 * uniform(3, t));
    EXPECT_TRUE(memory.observe(drawn[0], std::floor(attempts * uniform(4, t)), attempts).ok());
    if (t % 7 == 0) {
      EXPECT_TRUE(memory.set_rate(drawn[1], uniform(5, t)).ok());
    }
    if (t % 3 == 0) {
      EXPECT_TRUE(memory.remove(drawn[2]).ok());
    }
    said.push_back(prompt);
    said.insert(said.end(), drawn.begin(), drawn.end());
    if (memory.rate(drawn[0]).ok()) said.push_back(memory.rate(drawn[0]).value());
  }
};

class MemoryFiles : public testing::Test {
 protected:
  MemoryFiles() : path_(std::filesystem::temp_directory_path() / fmt::format("tandem_memory_files_{}", getpid())) {}
  ~MemoryFiles() override { std::filesystem::remove(path_); }

  template <class History>
  void expect_to_go_on(const History& history) {
    using Memory = typename History::Memory;
    for (const std::uint64_t middle : {0u, 1u, 40u, 170u}) {
      Memory memory = history.make();
      std::vector<double> said, loaded_said;
      for (std::uint64_t t = 0; t < middle; ++t) history.step(memory, t, said);
      ASSERT_TRUE(memory.save(path_).ok());
      Memory loaded = Memory::load(path_).value();
      ASSERT_EQ(loaded.to_bytes(), memory.to_bytes());
      said.clear();
      for (std::uint64_t t = middle; t < middle + 150; ++t) {
        history.step(memory, t, said);
        history.step(loaded, t, loaded_said);
      }
      ASSERT_EQ(said.size(), loaded_said.size());
      EXPECT_EQ(std::memcmp(said.data(), loaded_said.data(), said.size() * sizeof(double)), 0) << middle;
      EXPECT_EQ(loaded.to_bytes(), memory.to_bytes());
    }
  }

  template <class History>
  void expect_refusals(const History& history, const char* name) {
    using Memory = typename History::Memory;
    Memory memory = history.make();
    std::vector<double> said;
    for (std::uint64_t t = 0; t < 20; ++t) history.step(memory, t, said);
    const std::string bytes = memory.to_bytes();
    const auto expect_loss = [&](const std::string& damaged, std::size_t i) {
      const auto loaded = Memory::from_bytes(damaged);
      ASSERT_EQ(loaded.code(), StatusCode::kDataLoss) << i;
      ASSERT_NE(loaded.status().message().find(name), std::string::npos);
    };
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x20);
      expect_loss(damaged, i);
      expect_loss(bytes.substr(0, i), i);
    }
    expect_loss(bytes + std::string(8, '\0'), bytes.size());

    // A disk that fills up in the middle: the old file is there, and can be read.
    ASSERT_TRUE(memory.save(path_).ok());
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small = {bytes.size() / 2, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    history.step(memory, 20, said);
    const Status status = memory.save(path_);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    std::signal(SIGXFSZ, handler);
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.to_string();
    EXPECT_EQ(read_file(path_).value(), bytes);
    EXPECT_EQ(Memory::load(path_).value().to_bytes(), bytes);
    for (const auto& file : std::filesystem::directory_iterator(path_.parent_path())) {
      EXPECT_FALSE(file.path().string().starts_with(path_.string() + ".")) << file.path();
    }

    // A file cut short, or of a later program, is named with its path.
    ASSERT_TRUE(write_file_atomic(path_, std::string_view(bytes).substr(0, bytes.size() - 9)).ok());
    const auto torn = Memory::load(path_);
    EXPECT_EQ(torn.code(), StatusCode::kDataLoss);
    EXPECT_NE(torn.status().message().find(path_.string()), std::string::npos);
  }

  const std::filesystem::path path_;
};

TEST_F(MemoryFiles, PrioritizedReplayGoesOn) {
  expect_to_go_on(Priorities{});
  expect_to_go_on(Priorities{ReplayEviction::kLowestPriority});
}
TEST_F(MemoryFiles, EpisodicValueGoesOn) {
  expect_to_go_on(Episodes{});
  expect_to_go_on(Episodes{SoftKernel::kMatern32});
}
TEST_F(MemoryFiles, CurriculumGoesOn) { expect_to_go_on(Prompts{}); }

TEST_F(MemoryFiles, PrioritizedReplayRefusesDamage) {
  expect_refusals(Priorities{ReplayEviction::kLowestPriority}, "prioritized replay");
}
TEST_F(MemoryFiles, EpisodicValueRefusesDamage) { expect_refusals(Episodes{}, "episodic value"); }
TEST_F(MemoryFiles, CurriculumRefusesDamage) { expect_refusals(Prompts{}, "curriculum"); }

// Files of before entries lay in a leaf in any order.
template <class History>
void expect_older_format(const History& history, const char* name) {
  auto memory = history.make();
  std::vector<double> said;
  for (std::uint64_t t = 0; t < 20; ++t) history.step(memory, t, said);
  const std::string bytes = memory.to_bytes();
  const auto of_format = [&](std::uint32_t format) {
    SavedWriter writer(name, format);
    writer.put(bytes.data() + 12, bytes.size() - 12 - 8);
    return History::Memory::from_bytes(std::move(writer).finish());
  };
  EXPECT_EQ(of_format(1).value().to_bytes(), bytes);
  EXPECT_EQ(of_format(0).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(of_format(3).code(), StatusCode::kInvalidArgument);
}

TEST_F(MemoryFiles, TheFormatBeforeIsRead) {
  expect_older_format(Episodes{}, "TDEPVALU");
  expect_older_format(Prompts{}, "TDCURRIC");
}

TEST_F(MemoryFiles, AFileOfAnotherKindOrFormatIsRefused) {
  const std::string replay = Priorities{}.make().to_bytes();
  EXPECT_EQ(Curriculum::from_bytes(replay).code(), StatusCode::kDataLoss);
  EXPECT_EQ(EpisodicValue::from_bytes(replay).code(), StatusCode::kDataLoss);
  EXPECT_EQ(PrioritizedReplay::from_bytes({}).code(), StatusCode::kDataLoss);
  EXPECT_EQ(PrioritizedReplay::load(path_).code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace tandem::replay
