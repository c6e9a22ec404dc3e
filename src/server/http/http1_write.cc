// Http1Connection: from answers to bytes.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "server/http/answer_head.h"
#include "server/http/http1_connection.h"

namespace tandem::server {

void Http1Connection::pull(std::string& out, std::size_t bytes_max, TimePoint now) {
  if (finished()) return;
  now_ = now;
  cancel_behind();
  const std::size_t begin = out.size(), end = begin + std::max<std::size_t>(bytes_max, 1);
  // Answers that left make room for requests that were read ahead, whose answers may be there at once.
  do {
    write_answers(out, end, now);
  } while (!failed_ && out.size() < end && read_held(now));
  stall_.sent(out.size() - begin, now);
  if (!front_waits()) stall_.stop();
  stamp(now);
}

void Http1Connection::write_answers(std::string& out, std::size_t end, TimePoint now) {
  while (!failed_ && !exchanges_.empty() && out.size() < end) {
    Exchange& front = exchanges_.front();
    if (front.aborted) return fail();
    const bool done = write_exchange(front, out, end, now);
    if (done) {
      const bool close = front.close;
      exchanges_.pop_front();
      on_exchange_done(close, now);
    } else if (front.body.take_drained() && front.open) {
      events_.on_drained(front.id);  // and on with what it gave
    } else {
      return;
    }
  }
}

bool Http1Connection::front_waits() const {
  if (failed_ || exchanges_.empty()) return false;
  const Exchange& front = exchanges_.front();
  return front.ended || !front.body.empty() || front.continue_due || (front.head && !front.head_written);
}

// Appends what the exchange has, up to about `end`. True: that was its last.
bool Http1Connection::write_exchange(Exchange& exchange, std::string& out, std::size_t end, TimePoint now) {
  if (std::exchange(exchange.continue_due, false)) {
    out += "HTTP/1.1 100 Continue\r\n\r\n";
    body_clock_ = BodyClock(now);
  }
  if (!exchange.head) return false;
  if (!std::exchange(exchange.head_written, true)) write_head(exchange, out);
  const bool chunked = !exchange.whole && !exchange.http10 && exchange.has_body();
  if (!exchange.body.empty() && out.size() < end) {
    const std::size_t bytes = std::min(exchange.body.size(), end - out.size());
    if (chunked) fmt::format_to(std::back_inserter(out), "{:x}\r\n", bytes);
    out.append(exchange.body.view().substr(0, bytes));
    if (chunked) out += "\r\n";
    exchange.body.sent(bytes, now);
  }
  if (!exchange.ended || !exchange.body.empty()) return false;
  if (chunked) out += "0\r\n\r\n";
  return true;
}

void Http1Connection::write_head(Exchange& exchange, std::string& out) {
  write_answer_head(*exchange.head, out);
  if (exchange.whole && status_has_body(exchange.head->status)) {
    fmt::format_to(std::back_inserter(out), "content-length: {}\r\n", exchange.body.size());
  } else if (!exchange.whole && exchange.has_body() && !exchange.http10) {
    out += "transfer-encoding: chunked\r\n";
  }
  if (exchange.close) {
    out += "connection: close\r\n";
  } else if (exchange.http10) {
    out += "connection: keep-alive\r\n";
  }
  out += "\r\n";
  if (!exchange.has_body()) exchange.body.clear();
}

void Http1Connection::on_exchange_done(bool close, TimePoint now) {
  stall_.stop();
  if (close && input_ != Input::kClosed) close_input(false);
  if (!exchanges_.empty()) return;
  idle_since_ = now;
  if (lingering_) linger_until_ = after(now, kLingerNs);
}

}  // namespace tandem::server
