// The tree as bytes: every entry, the shape, ids still to be given out and the order of insertion, so that what is
// loaded reads with the same bits and goes on as the saved one would have.
//
//   "TDSBTREE"   u32 format, bytes of Real, value width, kernel   f64 tau   u64 version, entries, ids_end
//   nodes        depth first: u8 level, u16 size; a leaf's keys, ids, weights, values [size,D], as they lie; or the
//                children
//   u32          ids that are free, the next one last             u32 ids from the oldest to the newest
//   u64          XXH3 of all before                               (saved.h)
// Sums are not stored but made again, in the one order there is.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/file.h"
#include "replay/saved.h"
#include "replay/soft_btree_writer.h"

namespace tandem::replay {
namespace {

using tree::Node;
using tree::Nodes;

constexpr std::string_view kMagic = "TDSBTREE";
constexpr std::uint32_t kFormat = 3, kOldest = 2;  // 1: leaves of up to 64 entries; 2: their entries are sorted
constexpr int kLevelMost = 16;                     // far above what 2^32 ids can fill

template <class Real>
void put_node(const Nodes<Real>& nodes, const Node* node, SavedWriter& writer) {
  writer.put(node->level);
  writer.put(node->size);
  if (!node->leaf()) {
    for (int j = 0; j < node->size; ++j) put_node(nodes, Nodes<Real>::inner(node)->children[j], writer);
    return;
  }
  const auto* const leaf = Nodes<Real>::leaf(node);
  const auto size = static_cast<std::size_t>(leaf->size);
  writer.put(leaf->keys, size);
  writer.put(leaf->ids, size);
  writer.put(leaf->weights, size);
  for (int i = 0; i < leaf->size; ++i) writer.put(nodes.value(leaf, i), static_cast<std::size_t>(nodes.width));
}

template <class Real>
bool all_finite(const Nodes<Real>& nodes, const Node* node) {
  for (int j = 0; j < node->size; ++j) {
    if (!node->leaf()) {
      if (!all_finite(nodes, Nodes<Real>::inner(node)->children[j])) return false;
      continue;
    }
    const Real* const value = nodes.value(Nodes<Real>::leaf(node), j);
    if (!std::all_of(value, value + nodes.width, [](Real x) { return std::isfinite(x); })) return false;
  }
  return true;
}

// Reads nodes and checks that they are a tree; fills the table of keys.
template <class Real>
class NodeReader {
 public:
  NodeReader(const Nodes<Real>& nodes, tree::KeyTable<Real>& keys, EntryId ids_end, std::uint64_t entries,
             SavedReader& reader)
      : nodes_(nodes), keys_(keys), ids_end_(ids_end), entries_(entries), reader_(reader) {}

  // `level` < 0: the root, of any. On an error `node` is a tree all the same, which its owner drops.
  Status take(int level, Node*& node) {
    std::uint8_t own_level;
    std::uint16_t size;
    if (!reader_.take(&own_level) || !reader_.take(&size)) return reader_.damaged("it ends in a node");
    const bool is_root = level < 0;
    if (own_level > kLevelMost || (!is_root && own_level != level))
      return reader_.damaged("a node is at the wrong level");
    const bool is_leaf = own_level == 0;
    const int least = is_root ? (is_leaf ? 0 : 2) : is_leaf ? tree::kLeafLeast : tree::kInnerLeast;
    if (size < least || size > (is_leaf ? tree::kLeafMost : tree::kInnerMost)) {
      return reader_.damaged("a node is too full or too empty");
    }
    std::uint64_t below = size;  // entries, at least
    for (int l = 0; l < own_level; ++l) below *= l == 0 ? tree::kLeafLeast : tree::kInnerLeast;
    if (below > entries_ - static_cast<std::uint64_t>(count_)) return reader_.damaged("a node wants too many entries");
    Node* const made = node = nodes_.make(own_level);
    if (is_leaf) return take_entries(Nodes<Real>::leaf(made), size);
    auto* const inner = Nodes<Real>::inner(made);
    for (int j = 0; j < size; ++j) {
      Node* child = nullptr;
      const Status status = take(own_level - 1, child);
      if (child != nullptr) {
        inner->children[j] = child;
        inner->size = static_cast<std::uint16_t>(j + 1);
      }
      TD_TRY(status);
      nodes_.summarise(inner, j);
    }
    nodes_.refresh(inner);
    return ok_status();
  }
  std::int64_t count() const { return count_; }

 private:
  Status take_entries(tree::Leaf<Real>* leaf, int size) {
    const auto count = static_cast<std::size_t>(size);
    if (!reader_.take(leaf->keys, count) || !reader_.take(leaf->ids, count) || !reader_.take(leaf->weights, count)) {
      return reader_.damaged("it ends in a leaf");
    }
    for (int i = 0; i < size; ++i) {
      const Real key = leaf->keys[i], weight = leaf->weights[i];
      const EntryId id = leaf->ids[i];
      Real* const value = nodes_.value(leaf, i);
      if (!reader_.take(value, static_cast<std::size_t>(nodes_.width))) return reader_.damaged("it ends in a value");
      for (int k = 0; k < nodes_.width; ++k) {
        if (!std::isfinite(value[k])) return reader_.damaged("a value is not finite");
      }
      if (!std::isfinite(key) || !std::isfinite(weight) || weight < 0) return reader_.damaged("an entry is not finite");
      if (id >= ids_end_ || keys_.has(id)) return reader_.damaged("an id is there twice, or too large");
      keys_.set(id, key);
    }
    leaf->size = static_cast<std::uint16_t>(size);
    if (size == 0) return ok_status();
    const auto order = Nodes<Real>::order_of(leaf);
    const int first = order[0], last = order[size - 1];
    if (count_ > 0 && !tree::before(last_key_, last_id_, leaf->keys[first], leaf->ids[first])) {
      return reader_.damaged("entries are out of order");
    }
    last_key_ = leaf->keys[last];
    last_id_ = leaf->ids[last];
    count_ += size;
    return ok_status();
  }

  const Nodes<Real>& nodes_;
  tree::KeyTable<Real>& keys_;
  const EntryId ids_end_;
  const std::uint64_t entries_;  // of the whole tree; no more are taken
  SavedReader& reader_;
  std::int64_t count_ = 0;
  Real last_key_ = 0;
  EntryId last_id_ = 0;
};

}  // namespace

template <class Real>
void SoftBTree<Real>::put(SavedWriter& writer) const {
  impl_->settle();
  for (const std::uint32_t word :
       {static_cast<std::uint32_t>(sizeof(Real)), static_cast<std::uint32_t>(options().value_width),
        static_cast<std::uint32_t>(options().kernel)}) {
    writer.put(word);
  }
  writer.put(static_cast<double>(options().tau));
  for (const std::uint64_t word :
       {impl_->version, static_cast<std::uint64_t>(impl_->size), std::uint64_t{impl_->keys.end()}}) {
    writer.put(word);
  }
  put_node(impl_->nodes, impl_->root.node, writer);
  writer.put(impl_->free_ids.data(), impl_->free_ids.size());
  const std::vector<EntryId> order = impl_->order.ids();
  writer.put(order.data(), order.size());
}

template <class Real>
Result<SoftBTree<Real>> SoftBTree<Real>::take(SavedReader& reader) {
  std::uint32_t real_bytes, width, kernel;
  double tau;
  std::uint64_t version, size, ids_end;
  if (!reader.take(&real_bytes) || !reader.take(&width) || !reader.take(&kernel) || !reader.take(&tau) ||
      !reader.take(&version) || !reader.take(&size) || !reader.take(&ids_end)) {
    return reader.damaged("it ends in its header");
  }
  if (real_bytes != sizeof(Real)) {
    return invalid_argument("soft B-tree: saved with {} bytes a number, opened with {}", real_bytes, sizeof(Real));
  }
  // What is claimed cannot make this take more than a multiple of the file: each id takes bytes and each entry its
  // value's, and a node is made only if the entries that it must hold are claimed. So where the nodes end early, just
  // those on the way to one leaf are too many. (A tree without entries takes a leaf of its width, as create() does.)
  if (width < 1 || width > static_cast<std::uint32_t>(kSoftWidthMax) ||
      kernel > static_cast<std::uint32_t>(SoftKernel::kEpanechnikov) || ids_end > reader.left() / sizeof(EntryId) ||
      size > ids_end || (size > 0 && width > reader.left() / sizeof(Real) / size)) {
    return reader.damaged("its header makes no sense");
  }
  auto created = create({static_cast<int>(width), static_cast<Real>(tau), static_cast<SoftKernel>(kernel)});
  if (!created.ok() || static_cast<double>(static_cast<Real>(tau)) != tau)
    return reader.damaged("its temperature makes no sense");
  SoftBTree tree = std::move(created).value();
  Impl& impl = *tree.impl_;
  for (std::uint64_t id = 0; id < ids_end; ++id) impl.keys.remove(static_cast<EntryId>(id));  // until it turns up
  Node* root = nullptr;
  NodeReader<Real> nodes(impl.nodes, impl.keys, static_cast<EntryId>(ids_end), size, reader);
  const Status status = nodes.take(-1, root);
  if (root != nullptr) {
    Nodes<Real>::drop(impl.root.node);
    impl.root.node = root;
  }
  TD_TRY(status);
  if (nodes.count() != static_cast<std::int64_t>(size)) return reader.damaged("entries are missing");
  impl.size = static_cast<std::int64_t>(size);
  impl.version = version;

  std::vector<EntryId> order(size);
  impl.free_ids.resize(ids_end - size);
  if (!reader.take(impl.free_ids.data(), impl.free_ids.size()) || !reader.take(order.data(), order.size())) {
    return reader.damaged("its lists of ids are too short");
  }
  std::vector<bool> seen(ids_end);
  const auto is_new = [&](EntryId id, bool there) {
    if (id >= ids_end || seen[id] || impl.keys.has(id) != there) return false;
    seen[id] = true;
    return true;
  };
  for (const EntryId id : order) {
    if (!is_new(id, true)) return reader.damaged("its order names an entry that is not there, or twice");
    impl.order.append(id);
  }
  for (const EntryId id : impl.free_ids) {
    if (!is_new(id, false)) return reader.damaged("its free ids name an entry, or one twice");
  }
  return tree;
}

template <class Real>
std::string SoftBTree<Real>::to_bytes() const {
  SavedWriter writer(kMagic, kFormat);
  put(writer);
  return std::move(writer).finish();
}

template <class Real>
Result<SoftBTree<Real>> SoftBTree<Real>::from_bytes(std::string_view bytes) {
  SavedReader reader = TD_TRY(SavedReader::open("soft B-tree", kMagic, kOldest, kFormat, bytes));
  auto tree = TD_TRY(take(reader));
  if (!reader.at_end()) return reader.damaged("there is more behind its end");
  return tree;
}

template <class Real>
Status SoftBTree<Real>::check_savable() const {
  impl_->settle();
  if (all_finite(impl_->nodes, impl_->root.node)) return ok_status();
  return invalid_argument("not written: steps have made values of the tree infinite; load an earlier one");
}

template <class Real>
Status SoftBTree<Real>::save(const std::filesystem::path& path) const {
  if (const Status savable = check_savable(); !savable.ok()) {
    return invalid_argument("{}: {}", path.string(), savable.message());
  }
  return write_file_atomic(path, to_bytes());
}

template <class Real>
Result<SoftBTree<Real>> SoftBTree<Real>::load(const std::filesystem::path& path) {
  return load_saved<SoftBTree>(path);
}

#define TD_INSTANTIATE(Real)                                                      \
  template void SoftBTree<Real>::put(SavedWriter&) const;                         \
  template Result<SoftBTree<Real>> SoftBTree<Real>::take(SavedReader&);           \
  template std::string SoftBTree<Real>::to_bytes() const;                         \
  template Status SoftBTree<Real>::check_savable() const;                         \
  template Result<SoftBTree<Real>> SoftBTree<Real>::from_bytes(std::string_view); \
  template Status SoftBTree<Real>::save(const std::filesystem::path&) const;      \
  template Result<SoftBTree<Real>> SoftBTree<Real>::load(const std::filesystem::path&);
TD_INSTANTIATE(float)
TD_INSTANTIATE(double)
#undef TD_INSTANTIATE

}  // namespace tandem::replay
