#include "model/checkpoint/safetensors_writer.h"

#include <algorithm>
#include <atomic>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "model/config/shown_text.h"

namespace tandem::model {
namespace {

// Appends a strided view row by row; gapless inner axes go in one piece.
Status append_view(SafetensorsWriter& writer, const tensor::TensorView& view) {
  if (view.count() == 0) return ok_status();
  if (view.is_dense()) {
    return writer.append({static_cast<const std::byte*>(view.data()), static_cast<std::size_t>(view.bytes())});
  }
  const std::int64_t stride_bytes = view.stride(0) * tensor::dtype_bytes(view.dtype());
  const tensor::Shape inner(view.shape().extents().subspan(1));
  std::vector<std::int64_t> strides;
  for (int axis = 1; axis < view.rank(); ++axis) strides.push_back(view.stride(axis));
  for (std::int64_t row = 0; row < view.extent(0); ++row) {
    void* data = static_cast<std::byte*>(view.data()) + row * stride_bytes;
    TD_TRY(append_view(writer, tensor::TensorView(data, view.dtype(), inner, strides)));
  }
  return ok_status();
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::create(const std::filesystem::path& path, std::vector<TensorEntry> entries,
                                                    const std::map<std::string, std::string>& metadata) {
  std::unordered_set<std::string_view> names = {"__metadata__"};
  for (const TensorEntry& entry : entries) {
    if (!names.insert(entry.name).second) {
      return invalid_argument("{}: cannot hold a tensor named {}: the name is taken", path.string(),
                              shown_text(entry.name));
    }
  }
  std::ranges::stable_sort(entries, std::greater<>(), [](const TensorEntry& e) { return dtype_bytes(*e.dtype); });

  const std::string header = make_safetensors_header(entries, metadata);
  SafetensorsWriter writer(TD_TRY(AtomicFile::create(path)));
  writer.entries_ = std::move(entries);
  TD_TRY(writer.file_.write_at(0, std::as_bytes(std::span(header))));
  writer.data_begin_ = header.size();
  return writer;
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) { return write_at(written_, bytes); }

Status SafetensorsWriter::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  TD_TRY(file_.write_at(data_begin_ + offset, bytes));
  std::atomic_ref(written_).fetch_add(bytes.size(), std::memory_order_relaxed);
  return ok_status();
}

Status SafetensorsWriter::commit(Sync sync) {
  TD_CHECK(written_ == (entries_.empty() ? 0 : entries_.back().end), written_);
  return file_.commit(sync);
}

Status write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  std::unordered_map<std::string_view, const NamedTensor*> by_name;
  for (const NamedTensor& named : tensors) {
    TD_CHECK(named.view.device().kind == device::DeviceKind::kCpu, named.name);
    entries.push_back({.name = named.name, .dtype = named.view.dtype(), .shape = named.view.shape()});
    by_name.emplace(named.name, &named);
  }
  SafetensorsWriter writer = TD_TRY(SafetensorsWriter::create(path, std::move(entries), metadata));
  for (const TensorEntry& entry : writer.entries()) TD_TRY(append_view(writer, by_name.at(entry.name)->view));
  return writer.commit();
}

}  // namespace tandem::model
