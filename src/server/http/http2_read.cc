// Http2Connection: from frames to requests.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "server/http/http2_connection.h"

namespace tandem::server {

// nghttp2 calls plain functions. None of them may delete the session or throw through C; a failed connection lets the
// library finish the bytes in hand, and looks at nothing.
struct Http2Callbacks {
  static Http2Connection& self(void* user) { return *static_cast<Http2Connection*>(user); }

  static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST && !self(user).failed_) self(user).on_begin_headers(*frame);
    return 0;
  }
  static int header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                    std::size_t name_bytes, const std::uint8_t* value, std::size_t value_bytes, std::uint8_t,
                    void* user) {
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST || self(user).failed_) return 0;  // trailers
    void* stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream == nullptr) return 0;
    self(user).on_header(*static_cast<Http2Connection::Stream*>(stream),
                         {reinterpret_cast<const char*>(name), name_bytes},
                         {reinterpret_cast<const char*>(value), value_bytes});
    return 0;
  }
  static int invalid_header(nghttp2_session*, const nghttp2_frame*, const std::uint8_t*, std::size_t,
                            const std::uint8_t*, std::size_t, std::uint8_t, void*) {
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // the request is malformed: its stream is reset
  }
  static int frame_received(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if (!self(user).failed_) self(user).on_frame_received(*frame);
    return 0;
  }
  static int invalid_frame(nghttp2_session*, const nghttp2_frame* frame, int, void* user) {
    // The stream will be reset; its request is cancelled before that is sent.
    if (Http2Connection::Stream* stream = self(user).find(StreamId(frame->hd.stream_id))) {
      stream->reset = true;
      self(user).cancel(*stream);
    }
    return 0;
  }
  static int data(nghttp2_session* session, std::uint8_t, std::int32_t id, const std::uint8_t* bytes, std::size_t size,
                  void* user) {
    void* stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream != nullptr && !self(user).failed_)
      self(user).on_data(*static_cast<Http2Connection::Stream*>(stream), {reinterpret_cast<const char*>(bytes), size});
    return 0;
  }
  static int stream_closed(nghttp2_session*, std::int32_t id, std::uint32_t, void* user) {
    self(user).on_stream_closed(id);
    return 0;
  }
  static int frame_sent(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    self(user).on_frame_sent(*frame);
    return 0;
  }
};

nghttp2_session* Http2Connection::create_session(Http2Connection* self, const ConnectionLimits& limits) {
  nghttp2_session_callbacks* callbacks = nullptr;
  TD_CHECK(nghttp2_session_callbacks_new(&callbacks) == 0);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, Http2Callbacks::begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, Http2Callbacks::header);
  nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks, Http2Callbacks::invalid_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Http2Callbacks::frame_received);
  nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, Http2Callbacks::invalid_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, Http2Callbacks::data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, Http2Callbacks::stream_closed);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, Http2Callbacks::frame_sent);
  nghttp2_option* option = nullptr;
  TD_CHECK(nghttp2_option_new(&option) == 0);
  nghttp2_option_set_no_closed_streams(option, 1);
  // The meter counts resets, by the caller's clock; nghttp2 would ask the machine's.
  nghttp2_option_set_stream_reset_rate_limit(option, 1u << 30, 1u << 30);
  nghttp2_option_set_max_outbound_ack(option, static_cast<std::size_t>(std::max(100.0, 20 * limits.controls_per_s)));
  nghttp2_session* session = nullptr;
  TD_CHECK(nghttp2_session_server_new2(&session, callbacks, self, option) == 0);
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  return session;
}

void Http2Connection::feed(std::string_view bytes, TimePoint now) {
  if (calmed_ || finished()) return;
  stamp(now);
  const std::string_view good = bytes.substr(0, meter_.advance(bytes, now));
  const ssize_t read =
      nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(good.data()), good.size());
  if (failed_) return;
  if (read < 0) return fail();  // not HTTP/2, or a flood that nghttp2 counted
  if (meter_.flooded()) calm();
  stamp(now);
}

void Http2Connection::on_begin_headers(const nghttp2_frame& frame) {
  const std::int32_t id = frame.hd.stream_id;
  Stream* stream = streams_.emplace_back(std::make_unique<Stream>(id, streams_.size(), limits_)).get();
  nghttp2_session_set_stream_user_data(session_, id, stream);
  const nghttp2_extpri evenly{NGHTTP2_EXTPRI_DEFAULT_URGENCY, 1};
  nghttp2_session_change_extpri_stream_priority(session_, id, &evenly, 1);
  if (++requests_count_ >= limits_.requests_max) drain();
}

void Http2Connection::on_header(Stream& stream, std::string_view name, std::string_view value) {
  if (stream.head_refusal) return;
  if (name == ":path") {
    if (value.size() > limits_.target_bytes_max) {
      stream.head_refusal = Refusal{414, "the request target is too long"};
    } else {
      stream.target = value;
    }
    return;
  }
  stream.header_bytes += name.size() + value.size();
  if (stream.header_bytes > limits_.header_bytes_max) {
    stream.head_refusal = Refusal{431, "the headers are too large"};
  } else if (name == ":method") {
    stream.request.method = value;
  } else if (name == ":authority") {
    stream.authority = value;
  } else if (!name.starts_with(':')) {
    if (stream.request.headers.size() >= limits_.headers_max) {
      stream.head_refusal = Refusal{431, "there are too many headers"};
    } else {
      stream.request.headers.push_back({std::string(name), std::string(value)});
    }
  }
}

void Http2Connection::on_frame_received(const nghttp2_frame& frame) {
  if (frame.hd.type == NGHTTP2_PING && (frame.hd.flags & NGHTTP2_FLAG_ACK) != 0) {
    if (draining_ && std::equal(std::begin(kDrainPing), std::end(kDrainPing), frame.ping.opaque_data))
      submit_last_goaway();
    return;
  }
  if (frame.hd.type != NGHTTP2_HEADERS && frame.hd.type != NGHTTP2_DATA) return;
  Stream* stream = find(StreamId(frame.hd.stream_id));
  if (stream == nullptr || stream->reset) return;
  const bool whole = (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  if (stream->input == Input::kHead) {
    finish_head(*stream, whole);
  } else if (whole) {
    const Input before = std::exchange(stream->input, Input::kEnded);
    if (before == Input::kBody) announce(*stream);
  }
}

// What a head must be beyond what nghttp2 checks.
std::optional<Refusal> Http2Connection::check_head(Stream& stream, std::uint64_t& body_bytes, bool& expects_continue) {
  RequestHead& request = stream.request;
  request.version = HttpVersion::k2;
  if (stream.head_refusal) return stream.head_refusal;
  if (request.method.size() > 32) return Refusal{400, "the method is too long"};
  Target target;
  if (auto refusal = parse_target(request.method, stream.target, limits_.target_bytes_max, target)) return refusal;
  if (!target.host.empty()) return Refusal{400, "the request target does not begin with /"};
  request.path = std::move(target.path);
  request.query = std::move(target.query);

  const std::string* host = request.header("host");
  request.host = !stream.authority.empty() || host == nullptr ? std::move(stream.authority) : *host;
  if (!is_host(request.host)) return Refusal{400, "the host is malformed"};
  if (host != nullptr && !equals_ignoring_case(*host, request.host))
    return Refusal{400, "the Host header and :authority differ"};

  if (const std::string* length = request.header("content-length")) {
    if (length->size() > 18) return Refusal{413, "the body is too large"};
    for (const char c : *length) body_bytes = body_bytes * 10 + static_cast<std::uint64_t>(c - '0');
  }
  if (body_bytes > limits_.body_bytes_max) return Refusal{413, "the body is too large"};
  if (static_cast<std::int64_t>(body_bytes) > budget_.left())
    return Refusal{503, "the server holds too many requests' bodies: try again later"};
  if (const std::string* expected = request.header("expect")) {
    if (!equals_ignoring_case(*expected, "100-continue"))
      return Refusal{417, "the only expectation supported is 100-continue"};
    expects_continue = true;
  }
  return std::nullopt;
}

void Http2Connection::finish_head(Stream& stream, bool whole) {
  stream.input = whole ? Input::kEnded : Input::kBody;
  stream.body_clock = BodyClock(now_);
  std::uint64_t body_bytes = 0;
  bool expects_continue = false;
  if (const auto refusal = check_head(stream, body_bytes, expects_continue)) return refuse(stream, *refusal);
  std::optional<Response> rejection = events_.on_head(StreamId(stream.id), stream.request);
  if (failed_ || stream.reset) return;
  if (rejection) {
    if (!whole) stream.input = Input::kDiscard;
    return answer(stream, std::move(*rejection));
  }
  if (whole) return announce(stream);
  if (!expects_continue) return;
  std::uint8_t name[] = ":status", value[] = "100";
  const nghttp2_nv status{name, value, 7, 3, NGHTTP2_NV_FLAG_NONE};
  if (nghttp2_submit_headers(session_, NGHTTP2_FLAG_NONE, stream.id, nullptr, &status, 1, nullptr) != 0) fail();
}

void Http2Connection::announce(Stream& stream) {
  stream.open = true;
  ++requests_open_;
  // The answer still asks for the method.
  RequestHead head = std::exchange(stream.request, {});
  stream.request.method = head.method;
  events_.on_request(StreamId(stream.id), std::move(head), std::exchange(stream.request_body, {}));
}

void Http2Connection::on_data(Stream& stream, std::string_view data) {
  if (stream.reset) return;
  stream.body_clock.read(data.size(), now_);
  if (stream.input == Input::kDiscard) {
    stream.discarded_bytes += data.size();
    if (stream.discarded_bytes > kDiscardBytes) stop_peer(stream);
    return;
  }
  if (stream.input != Input::kBody) return;
  if (data.size() > limits_.body_bytes_max - stream.body_taken) return refuse(stream, {413, "the body is too large"});
  if (!budget_.take(data.size()))
    return refuse(stream, {503, "the server holds too many requests' bodies: try again later"});
  stream.body_taken += data.size();
  stream.request_body.append(data);
}

void Http2Connection::refuse(Stream& stream, const Refusal& refusal) {
  if (stream.input != Input::kEnded) stream.input = Input::kDiscard;
  drop_body(stream);
  stream.request_body = {};
  Response response = events_.on_refusal(refusal.status, refusal.reason);
  if (!failed_ && !stream.reset) answer(stream, std::move(response));
}

void Http2Connection::on_stream_closed(std::int32_t id) {
  Stream* stream = find(StreamId(id));
  if (stream == nullptr) return;
  nghttp2_session_set_stream_user_data(session_, id, nullptr);
  stream->reset = true;
  cancel(*stream);
  if (stream->index + 1 < streams_.size()) {
    std::swap(streams_[stream->index], streams_.back());
    streams_[stream->index]->index = stream->index;
  }
  streams_.pop_back();
  if (streams_.empty()) idle_since_ = now_;
}

}  // namespace tandem::server
