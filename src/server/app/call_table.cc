#include "server/app/call_table.h"

#include "server/app/client.h"
#include "server/app/live_call.h"

namespace tandem::server {

void CallTable::on_events(std::vector<engine::TokenEvent> events) {
  std::lock_guard lock(mutex_);  // to the end: once close() has it, the loop may go
  if (closed_) return;
  inbox_.push_back({service_.clock.now(), std::move(events)});
  if (!std::exchange(woken_, true)) loop_.post([this] { drain(); });
}

void CallTable::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
}

void CallTable::drain() {
  {
    std::lock_guard lock(mutex_);
    batches_.swap(inbox_);
    woken_ = false;
  }
  for (Batch& batch : batches_) {
    for (engine::TokenEvent& event : batch.events) {
      const auto found = requests_.find(event.tag);
      if (found == requests_.end()) continue;  // its client has left
      const Destination destination = found->second;
      Client& client = destination.call->client();
      if (client.touch()) touched_.push_back(&client);
      destination.call->on_event(destination.index, event, batch.arrived);
    }
  }
  for (Client* client : touched_) client->flush();
  if (!touched_.empty()) {
    const TimePoint sent = service_.clock.now();
    for (const Batch& batch : batches_)
      service_.metrics.delivery_s.observe(static_cast<double>(sent.ns - batch.arrived.ns) * 1e-9);
  }
  touched_.clear();
  batches_.clear();
}

void CallTable::add(LiveCall& call) { calls_.emplace(call.id(), &call); }
void CallTable::remove(LiveCall& call) { calls_.erase(call.id()); }

LiveCall* CallTable::find(std::uint64_t call_id) {
  const auto found = calls_.find(call_id);
  return found == calls_.end() ? nullptr : found->second;
}

std::uint64_t CallTable::add_request(LiveCall& call, std::size_t index) {
  const std::uint64_t tag = service_.next_tag.fetch_add(1, std::memory_order_relaxed);
  requests_.emplace(tag, Destination{&call, index});
  return tag;
}

void CallTable::remove_request(std::uint64_t tag) { requests_.erase(tag); }

void CallTable::on_tick(TimePoint now) {
  std::vector<Client*> to_flush;  // flushing may end calls
  for (const auto& [id, call] : calls_)
    if (call->on_tick(now)) to_flush.push_back(&call->client());
  for (Client* client : to_flush) client->flush();
}

void CallTable::abort(const std::string& request_id, const std::string& reason) {
  std::vector<std::uint64_t> ids;  // aborting removes calls
  for (const auto& [id, call] : calls_)
    if (call->generating() && (request_id.empty() || call->request_id() == request_id)) ids.push_back(id);
  for (const std::uint64_t id : ids) {
    LiveCall* call = find(id);
    if (call == nullptr) continue;
    Client& client = call->client();
    call->abort(reason);
    client.flush();
  }
}

}  // namespace tandem::server
