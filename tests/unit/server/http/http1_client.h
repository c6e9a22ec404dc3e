// The other side of an HTTP/1.1 connection in tests: takes answers apart as they come.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace tandem::server {

class Http1Client {
 public:
  struct Answer {
    int status = 0;
    bool close = false, chunked = false, ended = false;
    std::size_t left = 0;  // of the body, or of the chunk
    std::string body;
  };

  // Of the requests, in their order: whether each is a HEAD.
  std::vector<bool> head_requests;
  std::vector<Answer> answers;
  int continues = 0;

  void feed(std::string_view bytes) {
    held_.append(bytes);
    while (step()) {
    }
  }
  // Nothing is half parsed but a body.
  bool at_rest() const { return held_.empty(); }

 private:
  bool in_body() const { return !answers.empty() && !answers.back().ended; }

  bool step() {
    if (!in_body()) return parse_head();
    Answer& answer = answers.back();
    if (answer.chunked && answer.left == 0) {
      const std::size_t end = held_.find("\r\n");
      if (end == std::string::npos) return false;
      answer.left = std::stoul(held_.substr(0, end), nullptr, 16);
      if (answer.left == 0) {
        if (held_.size() < end + 4) return false;
        EXPECT_EQ(held_.substr(end, 4), "\r\n\r\n");
        held_.erase(0, end + 4);
        answer.ended = true;
        return true;
      }
      held_.erase(0, end + 2);
      answer.left += 2;
    }
    if (held_.empty()) return false;
    const std::size_t count = std::min(answer.left, held_.size());
    const std::size_t line_end = answer.chunked ? 2 : 0;
    const std::size_t data = answer.left - std::min(answer.left, line_end);
    answer.body.append(held_, 0, std::min(data, count));
    answer.left -= count;
    held_.erase(0, count);
    answer.ended = !answer.chunked && answer.left == 0;
    return true;
  }

  bool parse_head() {
    const std::size_t end = held_.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    const std::string head = held_.substr(0, end + 2);
    held_.erase(0, end + 4);
    EXPECT_TRUE(head.starts_with("HTTP/1.1 ")) << head;
    const int status = std::stoi(head.substr(9, 3));
    if (status == 100) {
      ++continues;
      return true;
    }
    EXPECT_TRUE(answers.empty() || !answers.back().close) << "nothing follows the last answer";
    const bool is_head = answers.size() < head_requests.size() && head_requests[answers.size()];
    Answer& answer = answers.emplace_back();
    answer.status = status;
    answer.close = head.find("\r\nconnection: close\r\n") != std::string::npos;
    answer.chunked = head.find("\r\ntransfer-encoding: chunked\r\n") != std::string::npos;
    const std::size_t length = head.find("\r\ncontent-length: ");
    if (length != std::string::npos) answer.left = std::stoul(head.substr(length + 18));
    EXPECT_TRUE(is_head || status == 204 || status == 304 || answer.chunked != (length != std::string::npos)) << head;
    answer.ended = is_head || status == 204 || status == 304 || (!answer.chunked && answer.left == 0);
    return true;
  }

  std::string held_;
};

}  // namespace tandem::server
