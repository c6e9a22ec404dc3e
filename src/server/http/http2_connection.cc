#include "server/http/http2_connection.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tandem::server {
std::unique_ptr<Connection> create_http2_connection(const ConnectionLimits& limits, ByteBudget& body_budget,
                                                    ConnectionEvents& events, TimePoint now) {
  return std::make_unique<Http2Connection>(limits, body_budget, events, now);
}

Http2Connection::Http2Connection(const ConnectionLimits& limits, ByteBudget& body_budget, ConnectionEvents& events,
                                 TimePoint now)
    : limits_(limits),
      budget_(body_budget),
      events_(events),
      now_(now),
      meter_(limits_, now),
      session_(create_session(this, limits_)),
      idle_since_(now) {
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, static_cast<std::uint32_t>(limits_.streams_max)},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(kWindowBytes)},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
       static_cast<std::uint32_t>(limits_.header_bytes_max + limits_.target_bytes_max + 32 * limits_.headers_max)},
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
  };
  TD_CHECK(nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings)) == 0);
  TD_CHECK(nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindowBytes) == 0);
}

Http2Connection::~Http2Connection() {
  for (const auto& stream : streams_) drop_body(*stream);
  nghttp2_session_del(session_);
}

Http2Connection::Stream* Http2Connection::find(StreamId stream) const {
  if (stream.value() <= 0 || stream.value() > std::numeric_limits<std::int32_t>::max()) return nullptr;
  return static_cast<Stream*>(
      nghttp2_session_get_stream_user_data(session_, static_cast<std::int32_t>(stream.value())));
}

Http2Connection::Stream* Http2Connection::find_open(StreamId stream) const {
  Stream* found = find(stream);
  return found != nullptr && found->open ? found : nullptr;
}

void Http2Connection::drop_body(Stream& stream) { budget_.give_back(std::exchange(stream.body_taken, 0)); }

void Http2Connection::end_request(Stream& stream) {
  stream.open = false;
  --requests_open_;
  drop_body(stream);
}

void Http2Connection::cancel(Stream& stream) {
  drop_body(stream);
  stream.request_body = {};
  stream.body.clear();
  if (!stream.open) return;
  end_request(stream);
  events_.on_cancel(StreamId(stream.id));
}

void Http2Connection::cancel_all() {
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    streams_[i]->reset = true;
    cancel(*streams_[i]);
  }
}

void Http2Connection::fail() {
  if (failed_) return;
  failed_ = true;
  cancel_all();
}

void Http2Connection::feed_end(TimePoint now) {
  now_ = now;
  fail();
}

// The peer asks too much: one last GOAWAY.
void Http2Connection::calm() {
  if (failed_ || std::exchange(calmed_, true)) return;
  if (nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM) != 0) return fail();
  cancel_all();
}

void Http2Connection::reset(Stream& stream, std::uint32_t error_code) {
  if (std::exchange(stream.reset, true)) return;
  stream.body.clear();
  if (nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id, error_code) != 0) fail();
}

void Http2Connection::abort(StreamId stream) {
  Stream* found = find_open(stream);
  if (found == nullptr) return;
  end_request(*found);
  found->blameless = true;
  reset(*found, NGHTTP2_INTERNAL_ERROR);
}

void Http2Connection::drain() {
  if (failed_ || std::exchange(draining_, true) || goaway_submitted_) return;
  if (nghttp2_submit_shutdown_notice(session_) != 0) return fail();
  if (nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kDrainPing) != 0) return fail();
}

void Http2Connection::submit_last_goaway() {
  if (failed_ || std::exchange(goaway_submitted_, true)) return;
  goaway_at_.reset();
  const std::int32_t last = nghttp2_session_get_last_proc_stream_id(session_);
  if (nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, nullptr, 0) != 0) fail();
}

bool Http2Connection::finished() const {
  return failed_ || (nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0);
}

bool Http2Connection::wants_input() const {
  // What waits to be sent without being an answer is only there because of what was read.
  return !calmed_ && !finished() && nghttp2_session_get_outbound_queue_size(session_) < 1000;
}

std::size_t Http2Connection::backlog(StreamId stream) const {
  const Stream* found = find(stream);
  return found == nullptr ? 0 : found->body.size();
}

void Http2Connection::stamp(TimePoint now) {
  now_ = now;
  if (failed_) return;
  if (draining_ && !goaway_submitted_ && !goaway_at_) goaway_at_ = after(now, kDrainNoticeNs);
  if (nghttp2_session_want_write(session_) != 0) {
    stall_.wait(now);
  } else {
    stall_.stop();
  }
  for (const std::int32_t id : unstamped_) {
    Stream* stream = find(StreamId(id));
    if (stream == nullptr) continue;
    stream->unstamped = false;
    stream->body.stamp(now);
  }
  unstamped_.clear();
}

TimePoint Http2Connection::due(const Stream& stream) const {
  if (stream.reset) return kNever;
  TimePoint due = stream.body.due();
  if (stream.input == Input::kBody || (stream.input == Input::kDiscard && !stream.stop_peer))
    due = std::min(due, stream.body_clock.due(limits_));
  return due;
}

TimePoint Http2Connection::connection_due() const {
  TimePoint due = stall_.due(limits_.stall_timeout_ns);
  if (calmed_) return due;
  if (meter_.partial_since()) due = std::min(due, after(*meter_.partial_since(), limits_.head_timeout_ns));
  if (streams_.empty() && !goaway_submitted_) due = std::min(due, after(idle_since_, limits_.idle_timeout_ns));
  if (goaway_at_) due = std::min(due, *goaway_at_);
  return due;
}

TimePoint Http2Connection::deadline() const {
  if (finished()) return kNever;
  TimePoint earliest = connection_due();
  const bool output_unstamped = nghttp2_session_want_write(session_) != 0 && !stall_.running();
  if (output_unstamped || !unstamped_.empty()) earliest = std::min(earliest, after(now_, limits_.stall_timeout_ns));
  if (draining_ && !goaway_submitted_ && !goaway_at_) earliest = std::min(earliest, after(now_, kDrainNoticeNs));
  for (const auto& stream : streams_) earliest = std::min(earliest, due(*stream));
  return earliest;
}

void Http2Connection::on_time(TimePoint now) {
  if (finished()) return;
  stamp(now);
  if (now >= stall_.due(limits_.stall_timeout_ns)) return fail();
  if (calmed_) return;
  if (meter_.partial_since() && now >= after(*meter_.partial_since(), limits_.head_timeout_ns)) return calm();
  if (goaway_at_ && now >= *goaway_at_) submit_last_goaway();
  if (streams_.empty() && now >= after(idle_since_, limits_.idle_timeout_ns)) submit_last_goaway();
  for (std::size_t i = 0; i < streams_.size() && !failed_; ++i) {
    Stream& stream = *streams_[i];
    if (now < due(stream)) continue;
    if (now >= stream.body.due()) {
      reset(stream, NGHTTP2_CANCEL);  // the peer does not read it
      cancel(stream);
    } else if (stream.input == Input::kBody) {
      refuse(stream, {408, "the request's body took too long"});
      stop_peer(stream);
    } else {
      stop_peer(stream);
    }
  }
  if (!failed_) stamp(now);
}

}  // namespace tandem::server
