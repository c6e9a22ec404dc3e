// Http2Connection: from answers to frames.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "server/http/answer_head.h"
#include "server/http/http2_connection.h"

namespace tandem::server {

void Http2Connection::pull(std::string& out, std::size_t bytes_max, TimePoint now) {
  if (finished()) return;
  now_ = now;
  const std::size_t begin = out.size(), end = begin + std::max<std::size_t>(bytes_max, 1);
  bool more = true;
  while (more && !failed_) {
    while (out.size() < end && !failed_) {
      const std::uint8_t* bytes = nullptr;
      const ssize_t count = nghttp2_session_mem_send(session_, &bytes);
      if (count < 0) return fail();
      if (count == 0) break;
      out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
      if (meter_.flooded()) calm();
    }
    // Events wait until nghttp2 is done: their handlers give more to be sent.
    more = !drained_.empty() && out.size() < end;
    const std::vector<std::int32_t> drained = std::exchange(drained_, {});
    for (const std::int32_t id : drained)
      if (find_open(StreamId(id)) != nullptr) events_.on_drained(StreamId(id));
  }
  if (failed_) return;
  if (nghttp2_session_want_read(session_) == 0) cancel_all();  // a GOAWAY with an error was sent
  stall_.sent(out.size() - begin, now);
  stamp(now);
}

void Http2Connection::send_response(StreamId stream, Response response) {
  Stream* found = find_open(stream);
  if (found == nullptr) return;
  TD_CHECK(!found->answered, stream.value());
  end_request(*found);
  answer(*found, std::move(response));
}

void Http2Connection::answer(Stream& stream, Response response) {
  check_answer_head(response.head);
  stream.ended = true;
  std::optional<std::size_t> body_bytes;
  if (status_has_body(response.head.status)) {
    body_bytes = response.body.size();
    if (stream.request.method != "HEAD") stream.body.append(std::move(response.body));
    note_backlog(stream);
  }
  submit_head(stream, response.head, body_bytes);
}

void Http2Connection::begin_response(StreamId stream, ResponseHead head) {
  Stream* found = find_open(stream);
  if (found == nullptr) return;
  TD_CHECK(!found->answered, stream.value());
  check_answer_head(head);
  submit_head(*found, head, std::nullopt);
}

void Http2Connection::submit_head(Stream& stream, const ResponseHead& head, std::optional<std::size_t> body_bytes) {
  stream.answered = true;
  const std::string status = std::to_string(head.status);
  const std::string length = body_bytes ? std::to_string(*body_bytes) : std::string();
  std::vector<nghttp2_nv> fields;
  fields.reserve(head.headers.size() + 2);
  const auto push = [&](std::string_view name, std::string_view value) {
    // nghttp2 copies both; its type has no const.
    fields.push_back({reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
                      reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
                      NGHTTP2_NV_FLAG_NONE});
  };
  push(":status", status);
  for (const Header& header : head.headers) push(header.name, header.value);
  if (body_bytes) push("content-length", length);

  nghttp2_data_provider provider;
  provider.source.ptr = &stream;
  provider.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* bytes, std::size_t bytes_max,
                              std::uint32_t* flags, nghttp2_data_source* source, void* user) -> ssize_t {
    return static_cast<Http2Connection*>(user)->read_answer(*static_cast<Stream*>(source->ptr), bytes, bytes_max,
                                                            *flags);
  };
  stream.bodiless =
      stream.request.method == "HEAD" || !status_has_body(head.status) || (stream.ended && stream.body.empty());
  if (nghttp2_submit_response(session_, stream.id, fields.data(), fields.size(),
                              stream.ended && stream.body.empty() ? nullptr : &provider) != 0)
    fail();
}

// Called by nghttp2 for the payload of the stream's next DATA frame.
ssize_t Http2Connection::read_answer(Stream& stream, std::uint8_t* bytes, std::size_t bytes_max, std::uint32_t& flags) {
  if (stream.reset || (stream.body.empty() && !stream.ended)) {
    stream.deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  const std::size_t count = std::min(bytes_max, stream.body.size());
  std::memcpy(bytes, stream.body.view().data(), count);
  stream.body.sent(count, now_);
  if (stream.body.take_drained() && stream.open) drained_.push_back(stream.id);
  if (stream.ended && stream.body.empty()) flags |= NGHTTP2_DATA_FLAG_EOF;
  return static_cast<ssize_t>(count);
}

void Http2Connection::note_backlog(Stream& stream) {
  if (stream.unstamped || !stream.body.unstamped()) return;
  stream.unstamped = true;
  unstamped_.push_back(stream.id);
}

void Http2Connection::resume(Stream& stream) {
  if (std::exchange(stream.deferred, false) && nghttp2_is_fatal(nghttp2_session_resume_data(session_, stream.id)))
    fail();
}

void Http2Connection::send_body(StreamId stream, std::string_view bytes) {
  Stream* found = find_open(stream);
  if (found == nullptr) return;
  TD_CHECK(found->answered, stream.value());
  if (found->bodiless || bytes.empty()) return;
  found->body.append(bytes);
  note_backlog(*found);
  resume(*found);
}

void Http2Connection::end_body(StreamId stream) {
  Stream* found = find_open(stream);
  if (found == nullptr) return;
  TD_CHECK(found->answered, stream.value());
  found->ended = true;
  end_request(*found);
  resume(*found);
}

// The rest of the request's body is not wanted; says so once the answer is out.
void Http2Connection::stop_peer(Stream& stream) {
  stream.stop_peer = stream.blameless = true;
  if (stream.end_sent) reset(stream, NGHTTP2_NO_ERROR);
}

void Http2Connection::on_frame_sent(const nghttp2_frame& frame) {
  switch (frame.hd.type) {
    case NGHTTP2_DATA: meter_.count_data_sent(); [[fallthrough]];
    case NGHTTP2_HEADERS:
      if ((frame.hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return;
      if (Stream* stream = find(StreamId(frame.hd.stream_id))) {
        stream->end_sent = true;
        if (stream->stop_peer) stop_peer(*stream);
      }
      return;
    case NGHTTP2_RST_STREAM: {
      const Stream* stream = find(StreamId(frame.hd.stream_id));
      if (stream == nullptr || !stream->blameless) meter_.count_reset(now_);
      return;
    }
    default: return;
  }
}

}  // namespace tandem::server
