// A plain HTTP/1.1 client on a blocking socket: sends any bytes, reads one answer at a time.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <utility>

namespace tandem::server {

struct Answer {
  int status = 0;  // 0: the connection ended first
  std::string head, body;
  bool whole = false;  // the body ended as its framing says
  std::string header(const std::string& name) const {
    std::string lower = head;
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    const auto at = lower.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const auto begin = at + name.size() + 4;
    return head.substr(begin, head.find("\r\n", begin) - begin);
  }
};

class TestClient {
 public:
  explicit TestClient(int port, int receive_buffer_bytes = 0) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer_bytes > 0)
      ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  explicit TestClient(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    connected_ = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~TestClient() { close(); }
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  bool connected() const { return connected_; }
  int socket() const { return socket_; }
  void close() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }
  bool send(const std::string& bytes) {
    for (std::size_t sent = 0; sent < bytes.size();) {
      const ssize_t count = ::send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return false;
      sent += static_cast<std::size_t>(count);
    }
    return true;
  }
  bool get(const std::string& path, const std::string& headers = "") {
    return send("GET " + path + " HTTP/1.1\r\nhost: localhost\r\n" + headers + "\r\n");
  }
  bool post(const std::string& path, const std::string& body, const std::string& headers = "") {
    return send("POST " + path + " HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" + headers +
                "content-length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  }

  // Reads until `text` has come, the peer closed, or ten seconds passed.
  bool read_until(const std::string& text) {
    while (buffer_.find(text) == std::string::npos)
      if (!read_more()) return false;
    return true;
  }
  // True if the peer closes; what it sends meanwhile is kept.
  bool read_to_end() {
    while (read_more()) {
    }
    return ended_;
  }
  const std::string& buffered() const { return buffer_; }

  Answer answer() {
    Answer answer;
    if (!read_until("\r\n\r\n")) return answer;
    const auto end = buffer_.find("\r\n\r\n") + 4;
    answer.head = buffer_.substr(0, end);
    buffer_.erase(0, end);
    answer.status = std::stoi(answer.head.substr(9, 3));
    if (answer.status == 100) return this->answer();
    if (const std::string length = answer.header("content-length"); !length.empty()) {
      const std::size_t bytes = std::stoul(length);
      while (buffer_.size() < bytes && read_more()) {
      }
      answer.whole = buffer_.size() >= bytes;
      answer.body = buffer_.substr(0, bytes);
      buffer_.erase(0, bytes);
    } else if (answer.header("transfer-encoding") == "chunked") {
      while (read_until("\r\n")) {
        const auto line = buffer_.find("\r\n");
        const std::size_t bytes = std::stoul(buffer_.substr(0, line), nullptr, 16);
        while (buffer_.size() < line + 2 + bytes + 2 && read_more()) {
        }
        if (buffer_.size() < line + 2 + bytes + 2) break;
        answer.body += buffer_.substr(line + 2, bytes);
        buffer_.erase(0, line + 2 + bytes + 2);
        if (bytes == 0) {
          answer.whole = true;
          break;
        }
      }
    }
    return answer;
  }

 private:
  bool read_more() {
    pollfd waiting{socket_, POLLIN, 0};
    if (::poll(&waiting, 1, 10'000) <= 0) return false;
    char bytes[16384];
    const ssize_t count = ::recv(socket_, bytes, sizeof(bytes), 0);
    if (count <= 0) {
      ended_ = true;
      return false;
    }
    buffer_.append(bytes, static_cast<std::size_t>(count));
    return true;
  }

  int socket_ = -1;
  bool connected_ = false, ended_ = false;
  std::string buffer_;
};

}  // namespace tandem::server
