// The other side of an HTTP/2 connection in tests: nghttp2's client, and frames made by hand for what no client does.
#pragma once

#include <gtest/gtest.h>
#include <nghttp2/nghttp2.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/connection_impl.h"
#include "unit/server/http/recorder.h"

namespace tandem::server {

// One frame.
inline std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t stream, std::string_view payload) {
  std::string bytes;
  for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<char>(payload.size() >> shift & 0xff));
  bytes.push_back(static_cast<char>(type));
  bytes.push_back(static_cast<char>(flags));
  for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<char>(stream >> shift & 0xff));
  return bytes.append(payload);
}
inline std::string number32(std::uint32_t value) {
  std::string bytes;
  for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<char>(value >> shift & 0xff));
  return bytes;
}
// A header, literal and not indexed (RFC 7541 section 6.2.2), shorter than 127 bytes each.
inline std::string literal(std::string_view name, std::string_view value) {
  std::string bytes(1, '\0');
  bytes.push_back(static_cast<char>(name.size()));
  bytes.append(name);
  bytes.push_back(static_cast<char>(value.size()));
  return bytes.append(value);
}
inline std::string simple_head(std::string_view method = "GET") {
  return literal(":method", method) + literal(":scheme", "http") + literal(":path", "/") + literal(":authority", "h");
}
inline constexpr std::uint8_t kData = 0, kHeaders = 1, kPriority = 2, kReset = 3, kSettings = 4, kPing = 6, kGoaway = 7,
                              kWindowUpdate = 8, kContinuation = 9;
inline constexpr std::uint8_t kEndStream = 1, kEndHeaders = 4, kPadded = 8;

class Http2Client {
 public:
  struct Answer {
    std::vector<int> statuses;  // interim ones, too
    std::map<std::string, std::string> headers;
    std::string body;
    bool ended = false;  // END_STREAM
    bool closed = false;
    std::uint32_t error = 0;
    int data_frames = 0;
  };

  explicit Http2Client(int window_bytes = 1 << 20, bool auto_window = true) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* f, const std::uint8_t* name, std::size_t name_bytes,
                      const std::uint8_t* value, std::size_t value_bytes, std::uint8_t, void* user) {
          Answer& answer = static_cast<Http2Client*>(user)->answers[f->hd.stream_id];
          const std::string key(reinterpret_cast<const char*>(name), name_bytes);
          const std::string text(reinterpret_cast<const char*>(value), value_bytes);
          if (key == ":status")
            answer.statuses.push_back(std::stoi(text));
          else
            answer.headers[key] = text;
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks,
        [](nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* bytes, std::size_t size, void* user) {
          static_cast<Http2Client*>(user)->answers[id].body.append(reinterpret_cast<const char*>(bytes), size);
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* f, void* user) {
          Http2Client& self = *static_cast<Http2Client*>(user);
          if (f->hd.type == NGHTTP2_GOAWAY) self.goaways.push_back({f->goaway.error_code, f->goaway.last_stream_id});
          if (f->hd.type == NGHTTP2_DATA) ++self.answers[f->hd.stream_id].data_frames;
          if ((f->hd.type == NGHTTP2_DATA || f->hd.type == NGHTTP2_HEADERS) && (f->hd.flags & NGHTTP2_FLAG_END_STREAM))
            self.answers[f->hd.stream_id].ended = true;
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        callbacks, [](nghttp2_session*, std::int32_t id, std::uint32_t error, void* user) {
          Answer& answer = static_cast<Http2Client*>(user)->answers[id];
          answer.closed = true;
          answer.error = error;
          return 0;
        });
    nghttp2_option* option = nullptr;
    nghttp2_option_new(&option);
    if (!auto_window) nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_session_client_new2(&session_, callbacks, this, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(window_bytes)}};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, 1);
    if (window_bytes > 65535) nghttp2_session_set_local_window_size(session_, 0, 0, window_bytes * 64);
  }
  ~Http2Client() { nghttp2_session_del(session_); }
  Http2Client(const Http2Client&) = delete;
  Http2Client& operator=(const Http2Client&) = delete;

  // `body`: null for none. Without `end` the stream stays open for more.
  std::int32_t request(const std::string& method, const std::string& path, const std::string* body = nullptr,
                       Headers headers = {}, bool end = true) {
    Headers all = {{":method", method}, {":scheme", "http"}, {":authority", "h"}, {":path", path}};
    all.insert(all.end(), headers.begin(), headers.end());
    std::vector<nghttp2_nv> fields;
    for (Header& header : all)
      fields.push_back({reinterpret_cast<std::uint8_t*>(header.name.data()),
                        reinterpret_cast<std::uint8_t*>(header.value.data()), header.name.size(), header.value.size(),
                        NGHTTP2_NV_FLAG_NONE});
    nghttp2_data_provider provider;
    provider.source.ptr = this;
    provider.read_callback = [](nghttp2_session*, std::int32_t id, std::uint8_t* bytes, std::size_t bytes_max,
                                std::uint32_t* flags, nghttp2_data_source*, void* user) -> ssize_t {
      Upload& upload = static_cast<Http2Client*>(user)->uploads_[id];
      if (upload.bytes.empty() && !upload.end) return NGHTTP2_ERR_DEFERRED;
      const std::size_t count = std::min(bytes_max, upload.bytes.size());
      std::copy_n(upload.bytes.data(), count, bytes);
      upload.bytes.erase(0, count);
      if (upload.bytes.empty() && upload.end) *flags |= NGHTTP2_DATA_FLAG_EOF;
      return static_cast<ssize_t>(count);
    };
    const bool has_body = body != nullptr || !end;
    const std::int32_t id = nghttp2_submit_request(session_, nullptr, fields.data(), fields.size(),
                                                   has_body ? &provider : nullptr, nullptr);
    EXPECT_GT(id, 0);
    if (has_body) uploads_[id] = {body != nullptr ? *body : "", end};
    return id;
  }
  void upload(std::int32_t id, std::string_view bytes, bool end) {
    uploads_[id].bytes.append(bytes);
    uploads_[id].end = end;
    nghttp2_session_resume_data(session_, id);
  }
  void reset(std::int32_t id) { nghttp2_submit_rst_stream(session_, 0, id, NGHTTP2_CANCEL); }
  void window_update(std::int32_t id, int bytes) {
    nghttp2_session_consume(session_, id, 0);
    nghttp2_submit_window_update(session_, 0, id, bytes);
  }

  std::string pull() {
    std::string out;
    for (;;) {
      const std::uint8_t* bytes = nullptr;
      const ssize_t count = nghttp2_session_mem_send(session_, &bytes);
      if (count <= 0) break;
      out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
    }
    return out;
  }
  void feed(std::string_view bytes) {
    received_bytes += bytes.size();
    const ssize_t read =
        nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    EXPECT_EQ(read, static_cast<ssize_t>(bytes.size()));
  }
  // A client that has ended reads no more of it.
  void feed_some(std::string_view bytes) {
    received_bytes += bytes.size();
    EXPECT_GE(nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()), 0);
  }
  // Carries bytes both ways until nothing moves.
  void talk(Peer& server) {
    for (int i = 0; i < 10'000; ++i) {
      const std::string up = pull();
      if (!up.empty()) server.feed(up);
      const std::string down = server.pull();
      if (!down.empty()) feed(down);
      if (up.empty() && down.empty()) return;
    }
    ADD_FAILURE() << "the connection never falls silent";
  }

  std::map<std::int32_t, Answer> answers;
  std::vector<std::pair<std::uint32_t, std::int32_t>> goaways;  // error, last stream
  std::size_t received_bytes = 0;

 private:
  struct Upload {
    std::string bytes;
    bool end = true;
  };
  nghttp2_session* session_ = nullptr;
  std::map<std::int32_t, Upload> uploads_;
};

}  // namespace tandem::server
