#include "server/http/http1_connection.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tandem::server {

std::unique_ptr<Connection> create_http1_connection(const ConnectionLimits& limits, ByteBudget& body_budget,
                                                    ConnectionEvents& events, TimePoint now) {
  return std::make_unique<Http1Connection>(limits, body_budget, events, now);
}

Http1Connection::Http1Connection(const ConnectionLimits& limits, ByteBudget& body_budget, ConnectionEvents& events,
                                 TimePoint now)
    : limits_(limits), budget_(body_budget), events_(events), now_(now), scanner_(limits_), idle_since_(now) {}

Http1Connection::~Http1Connection() {
  for (Exchange& exchange : exchanges_) drop_body(exchange);
}

Http1Connection::Exchange* Http1Connection::find(StreamId stream) {
  if (exchanges_.empty()) return nullptr;
  const std::int64_t index = stream.value() - exchanges_.front().id.value();
  return index >= 0 && index < static_cast<std::int64_t>(exchanges_.size())
             ? &exchanges_[static_cast<std::size_t>(index)]
             : nullptr;
}

Http1Connection::Exchange* Http1Connection::find_open(StreamId stream) {
  Exchange* exchange = find(stream);
  return exchange != nullptr && exchange->open ? exchange : nullptr;
}

Http1Connection::Exchange& Http1Connection::push_exchange() {
  return exchanges_.emplace_back(StreamId(++requests_count_), limits_);
}

void Http1Connection::drop_body(Exchange& exchange) { budget_.give_back(std::exchange(exchange.body_taken, 0)); }

void Http1Connection::end_request(Exchange& exchange) {
  exchange.open = false;
  --requests_open_;
  drop_body(exchange);
}

bool Http1Connection::wants_input() const {
  if (finished()) return false;
  switch (input_) {
    case Input::kHead: return exchanges_.size() < static_cast<std::size_t>(limits_.pipelined_max);
    case Input::kBody:
    case Input::kDiscard: return true;
    case Input::kClosed: return lingering_;
  }
  return false;
}

bool Http1Connection::finished() const {
  return failed_ || (input_ == Input::kClosed && exchanges_.empty() && !lingering_);
}

void Http1Connection::fail() {
  if (failed_) return;
  failed_ = true;
  close_input(false);
  for (std::size_t i = 0; i < exchanges_.size(); ++i) {
    Exchange& exchange = exchanges_[i];
    drop_body(exchange);
    exchange.body.clear();
    if (!exchange.open) continue;
    end_request(exchange);
    events_.on_cancel(exchange.id);
  }
}

void Http1Connection::send_response(StreamId stream, Response response) {
  Exchange* exchange = find_open(stream);
  if (exchange == nullptr) return;
  TD_CHECK(!exchange->head, stream.value());
  set_answer(*exchange, std::move(response));
  end_request(*exchange);
}

void Http1Connection::set_answer(Exchange& exchange, Response response) {
  check_answer_head(response.head);
  exchange.head = std::move(response.head);
  exchange.whole = exchange.ended = true;
  exchange.body.append(std::move(response.body));
}

void Http1Connection::begin_response(StreamId stream, ResponseHead head) {
  Exchange* exchange = find_open(stream);
  if (exchange == nullptr) return;
  TD_CHECK(!exchange->head, stream.value());
  check_answer_head(head);
  exchange->head = std::move(head);
  if (exchange->http10 && exchange->has_body()) cut_behind(*exchange);  // the connection's end is the body's
}

void Http1Connection::send_body(StreamId stream, std::string_view bytes) {
  Exchange* exchange = find_open(stream);
  if (exchange == nullptr) return;
  TD_CHECK(exchange->head.has_value(), stream.value());
  if (exchange->has_body()) exchange->body.append(bytes);
}

void Http1Connection::end_body(StreamId stream) {
  Exchange* exchange = find_open(stream);
  if (exchange == nullptr) return;
  TD_CHECK(exchange->head.has_value(), stream.value());
  exchange->ended = true;
  end_request(*exchange);
}

void Http1Connection::abort(StreamId stream) {
  Exchange* exchange = find_open(stream);
  if (exchange == nullptr) return;
  end_request(*exchange);
  exchange->aborted = true;
  exchange->body.clear();
  cut_behind(*exchange);
}

// Those behind `exchange` can never be answered; they hear of it when the next event may be sent.
void Http1Connection::cut_behind(Exchange& exchange) {
  exchange.close = true;
  close_input(false);
  cancels_due_ = true;
}

std::size_t Http1Connection::backlog(StreamId stream) const {
  const Exchange* exchange = const_cast<Http1Connection*>(this)->find(stream);
  return exchange == nullptr ? 0 : exchange->body.size();
}

void Http1Connection::drain() {
  draining_ = true;
  if (input_ != Input::kHead || scanner_.started()) return;  // what has begun is read and answered
  if (!exchanges_.empty()) exchanges_.back().close = true;
  close_input(false);
}

void Http1Connection::close_input(bool linger) {
  input_ = Input::kClosed;
  lingering_ = linger;
  held_ = {};
  request_body_ = {};
}

void Http1Connection::cancel_behind() {
  if (!std::exchange(cancels_due_, false) || failed_) return;
  std::size_t kept = 0;
  while (!exchanges_[kept++].close) {
  }
  for (std::size_t i = kept; i < exchanges_.size(); ++i) {
    if (!exchanges_[i].open) continue;
    end_request(exchanges_[i]);
    events_.on_cancel(exchanges_[i].id);
  }
  while (exchanges_.size() > kept) {
    drop_body(exchanges_.back());
    exchanges_.pop_back();
  }
}

void Http1Connection::stamp(TimePoint now) {
  now_ = now;
  if (!front_waits()) return;
  stall_.wait(now);
  exchanges_.front().body.stamp(now);
}

TimePoint Http1Connection::input_due() const {
  switch (input_) {
    case Input::kHead:
      if (scanner_.started()) return after(head_since_, limits_.head_timeout_ns);
      return exchanges_.empty() ? after(idle_since_, limits_.idle_timeout_ns) : kNever;
    case Input::kBody:
      if (exchanges_.back().continue_due) return kNever;  // the peer waits for us
      return body_clock_.due(limits_);
    case Input::kDiscard: return body_clock_.due(limits_);
    case Input::kClosed: return linger_until_.value_or(kNever);
  }
  return kNever;
}

TimePoint Http1Connection::output_due() const {
  if (exchanges_.empty()) return kNever;
  if (cancels_due_ || exchanges_.front().aborted) return now_;
  const Backlog& body = exchanges_.front().body;
  const TimePoint due = std::min(stall_.due(limits_.stall_timeout_ns), body.due());
  const bool unstamped = (front_waits() && !stall_.running()) || body.unstamped();
  return unstamped ? std::min(due, after(now_, limits_.stall_timeout_ns)) : due;
}

TimePoint Http1Connection::deadline() const { return finished() ? kNever : std::min(input_due(), output_due()); }

void Http1Connection::on_time(TimePoint now) {
  if (finished()) return;
  stamp(now);
  cancel_behind();
  if (failed_) return;
  if (now >= output_due()) return fail();  // a stalled answer cannot be reset without the connection
  if (now < input_due()) return;
  switch (input_) {
    case Input::kHead:
      if (!scanner_.started()) return close_input(false);  // idle
      push_exchange();
      return refuse({408, "the request's head took too long"}, now);
    case Input::kBody: return refuse({408, "the request's body took too long"}, now);
    case Input::kDiscard: return close_input(false);
    case Input::kClosed: lingering_ = false;
  }
}

}  // namespace tandem::server
