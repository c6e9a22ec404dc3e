// A curriculum as bytes.
//
//   "TDCURRIC"   u32 format   f64 target, tau, prior_attempts, memory
//   the tree     (soft_btree_file.cc, from the bytes of a Real on)
//   f64          passes, attempts: of each prompt in the tree, in the order of their ids
//   u64          XXH3 of all before (saved.h)
#include <cmath>

#include "replay/curriculum.h"
#include "replay/saved.h"

namespace tandem::replay {
namespace {

constexpr std::string_view kName = "TDCURRIC";
constexpr std::uint32_t kFormat = 2, kOldest = 1;  // 1: the tree's leaves are sorted

}  // namespace

std::string Curriculum::to_bytes() const {
  SavedWriter writer(kName, kFormat);
  for (const double option : {options_.target, options_.tau, options_.prior_attempts, options_.memory}) {
    writer.put(option);
  }
  tree_.put(writer);
  for (PromptId prompt = 0; prompt < tree_.ids_end(); ++prompt) {
    if (!tree_.entry(prompt).ok()) continue;
    writer.put(seen_[prompt].passes);
    writer.put(seen_[prompt].attempts);
  }
  return std::move(writer).finish();
}

Result<Curriculum> Curriculum::from_bytes(std::string_view bytes) {
  SavedReader reader = TD_TRY(SavedReader::open("curriculum", kName, kOldest, kFormat, bytes));
  CurriculumOptions options;
  for (double* option : {&options.target, &options.tau, &options.prior_attempts, &options.memory}) {
    if (!reader.take(option)) return reader.damaged("it ends in its header");
  }
  auto created = create(options);
  if (!created.ok()) return reader.damaged("its options make no sense");
  Curriculum curriculum = std::move(created).value();
  auto tree = TD_TRY(SoftBTree<double>::take(reader));
  const SoftBTreeOptions<double> of_tree = tree.options();
  if (of_tree.value_width != 1 || of_tree.tau != options.tau || of_tree.kernel != SoftKernel::kLaplace) {
    return reader.damaged("its tree is of something else");
  }
  curriculum.seen_.resize(tree.ids_end());
  for (PromptId prompt = 0; prompt < tree.ids_end(); ++prompt) {
    const auto entry = tree.entry(prompt);
    if (!entry.ok()) continue;
    Seen& seen = curriculum.seen_[prompt];
    if (!reader.take(&seen.passes) || !reader.take(&seen.attempts)) return reader.damaged("prompts are missing");
    const bool sane = seen.passes >= 0 && seen.passes <= seen.attempts && seen.attempts > 0 &&
                      std::isfinite(seen.attempts) && entry->key >= 0 && entry->key <= 1 && entry->weight > 0;
    if (!sane) return reader.damaged("a prompt makes no sense");
  }
  if (!reader.at_end()) return reader.damaged("there is more behind its end");
  curriculum.tree_ = std::move(tree);
  return curriculum;
}

Status Curriculum::save(const std::filesystem::path& path) const { return write_file_atomic(path, to_bytes()); }

Result<Curriculum> Curriculum::load(const std::filesystem::path& path) { return load_saved<Curriculum>(path); }

}  // namespace tandem::replay
