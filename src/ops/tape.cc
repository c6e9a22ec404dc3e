#include "ops/tape.h"

namespace tandem::ops {

Status Tape::backward() {
  while (!entries_.empty()) {
    const Entry entry = std::move(entries_.back());
    entries_.pop_back();
    const Status status = entry.backward();
    if (!status.ok()) return status.with_context(std::string("backward of ") + std::string(entry.op));
  }
  return ok_status();
}

}  // namespace tandem::ops
