// Http1Connection: from bytes to requests.
#include <algorithm>
#include <utility>

#include "server/http/http1_connection.h"

namespace tandem::server {

void Http1Connection::feed(std::string_view bytes, TimePoint now) {
  if (finished()) return;
  stamp(now);
  cancel_behind();
  if (held_.empty()) {
    const std::size_t taken = read(bytes, now);
    if (input_ != Input::kClosed) held_.append(bytes.substr(taken));
  } else {
    held_.append(bytes);
    read_held(now);
  }
}

// True if any of it could be read.
bool Http1Connection::read_held(TimePoint now) {
  if (held_.empty()) return false;
  std::string bytes = std::exchange(held_, {});  // events may end the input, which empties held_
  const std::size_t taken = read(bytes, now);
  bytes.erase(0, taken);
  if (input_ != Input::kClosed) held_ = std::move(bytes);
  return taken > 0;
}

std::size_t Http1Connection::read(std::string_view bytes, TimePoint now) {
  std::size_t taken = 0;
  while (taken < bytes.size()) {
    const std::string_view rest = bytes.substr(taken);
    switch (input_) {
      case Input::kHead:
        if (exchanges_.size() >= static_cast<std::size_t>(limits_.pipelined_max)) return taken;
        taken += read_head(rest, now);
        break;
      case Input::kBody: taken += read_body(rest, now); break;
      case Input::kDiscard: taken += read_discarded(rest, now); break;
      case Input::kClosed:
        lingered_bytes_ += rest.size();
        if (lingered_bytes_ > kLingerBytes) lingering_ = false;
        return bytes.size();
    }
  }
  return taken;
}

std::size_t Http1Connection::read_head(std::string_view bytes, TimePoint now) {
  if (!scanner_.started()) head_since_ = now;
  const std::size_t taken = scanner_.scan(bytes);
  if (scanner_.refusal()) {
    push_exchange();
    refuse(Refusal(*scanner_.refusal()), now);
  } else if (scanner_.done()) {
    begin_request(now);
  }
  return taken;
}

void Http1Connection::begin_request(TimePoint now) {
  Http1Head head;
  const auto refusal = parse_http1_head(scanner_.head(), limits_, head);
  scanner_.reset();
  Exchange& exchange = push_exchange();
  exchange.http10 = head.request.version == HttpVersion::k10;
  exchange.head_method = head.request.method == "HEAD";
  // A body on GET or HEAD is read, but whoever stands before us may not have seen one: no further request is taken.
  const bool odd_body = head.has_body() && (head.request.method == "GET" || exchange.head_method);
  exchange.close = !head.keep_alive || odd_body || requests_count_ >= limits_.requests_max || draining_;
  if (refusal) return refuse(*refusal, now);
  if (head.body_bytes > limits_.body_bytes_max) return refuse({413, "the body is too large"}, now);
  if (static_cast<std::int64_t>(head.body_bytes) > budget_.left())
    return refuse({503, "the server holds too many requests' bodies: try again later"}, now);
  if (accept_head(head, now) && !head.has_body()) announce();
}

// Asks for the owner's word on the head. False: the request ends here.
bool Http1Connection::accept_head(Http1Head& head, TimePoint now) {
  const StreamId id = exchanges_.back().id;
  chunks_.reset();
  body_left_ = head.body_bytes;
  if (head.chunked) chunks_.emplace(limits_);
  if (head.has_body()) input_ = Input::kBody;
  body_clock_ = BodyClock(now);
  request_body_.clear();

  std::optional<Response> answer = events_.on_head(id, head.request);
  if (failed_ || cancels_due_) return false;  // what the owner did meanwhile
  Exchange& exchange = exchanges_.back();
  if (!answer) {
    request_ = std::move(head.request);
    exchange.continue_due = head.has_body() && head.expects_continue;
    return true;
  }
  if (exchange.close) {
    close_input(head.has_body());
  } else if (head.has_body()) {
    if (head.chunked || head.expects_continue || head.body_bytes > kDiscardBytes) {
      exchange.close = true;
      close_input(true);
    } else {
      input_ = Input::kDiscard;
    }
  }
  set_answer(exchange, std::move(*answer));
  return false;
}

void Http1Connection::announce() {
  Exchange& exchange = exchanges_.back();
  exchange.continue_due = false;
  exchange.open = true;
  exchange.close |= draining_;
  ++requests_open_;
  input_ = Input::kHead;
  std::string body = std::exchange(request_body_, {});
  if (exchange.close) close_input(false);
  events_.on_request(exchange.id, std::move(request_), std::move(body));
}

std::size_t Http1Connection::read_body(std::string_view bytes, TimePoint now) {
  exchanges_.back().continue_due = false;
  if (!chunks_) {
    const std::string_view data = bytes.substr(0, std::min<std::uint64_t>(body_left_, bytes.size()));
    body_left_ -= data.size();
    if (take_body(data, now) && body_left_ == 0) announce();
    return data.size();
  }
  std::string_view data;
  const std::size_t taken = chunks_->decode(bytes, data);
  body_clock_.read(0, now);
  if (!data.empty() && !take_body(data, now)) return taken;
  switch (chunks_->state()) {
    case ChunkDecoder::State::kDone: announce(); break;
    case ChunkDecoder::State::kMalformed: refuse({400, "the chunked body is malformed"}, now); break;
    case ChunkDecoder::State::kTooLarge: refuse({413, "the body is too large"}, now); break;
    default: break;
  }
  return taken;
}

bool Http1Connection::take_body(std::string_view data, TimePoint now) {
  if (!budget_.take(data.size())) {
    refuse({503, "the server holds too many requests' bodies: try again later"}, now);
    return false;
  }
  exchanges_.back().body_taken += data.size();
  request_body_.append(data);
  body_clock_.read(data.size(), now);
  return true;
}

std::size_t Http1Connection::read_discarded(std::string_view bytes, TimePoint now) {
  const std::size_t taken = std::min<std::uint64_t>(body_left_, bytes.size());
  body_left_ -= taken;
  body_clock_.read(taken, now);
  if (body_left_ > 0) return taken;
  input_ = Input::kHead;
  if (exchanges_.empty()) idle_since_ = now;
  if (draining_) drain();
  return taken;
}

// Answers the last exchange by ourselves, and reads no further request.
void Http1Connection::refuse(const Refusal& refusal, TimePoint now) {
  scanner_.reset();
  close_input(true);
  Response response = events_.on_refusal(refusal.status, refusal.reason);
  if (failed_) return;
  Exchange& exchange = exchanges_.back();
  drop_body(exchange);
  exchange.continue_due = false;
  exchange.close = true;
  set_answer(exchange, std::move(response));
  stamp(now);
}

void Http1Connection::feed_end(TimePoint now) {
  if (finished()) return;
  stamp(now);
  cancel_behind();
  if (input_ == Input::kBody) {  // not announced yet: nobody waits for it
    drop_body(exchanges_.back());
    exchanges_.pop_back();
  }
  if (!exchanges_.empty() && input_ != Input::kClosed) exchanges_.back().close = true;
  close_input(false);
  linger_until_.reset();
}

}  // namespace tandem::server
