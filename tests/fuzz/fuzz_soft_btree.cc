// Bytes that claim to be a saved soft B-tree, with a checksum that is always right: they are refused, or they are a
// tree that says the same when it is saved again (but for the format: older ones are read).
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdlib>
#include <string>

#include "replay/soft_btree.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  const std::uint64_t hash = XXH3_64bits(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&hash), sizeof hash);
  auto tree = tandem::replay::SoftBTree<float>::from_bytes(bytes);
  if (!tree.ok()) return 0;
  std::string again = tree->to_bytes();
  again.replace(8, 4, bytes, 8, 4);
  if (again.compare(0, again.size() - sizeof hash, bytes, 0, bytes.size() - sizeof hash) != 0) std::abort();
  if (tree->oldest() && !tree->erase(*tree->oldest()).ok()) std::abort();
  return 0;
}
