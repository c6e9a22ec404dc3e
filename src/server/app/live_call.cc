#include "server/app/live_call.h"

#include "base/json.h"
#include "base/log.h"
#include "server/app/control.h"

namespace tandem::server {
namespace {

constexpr int kClientLeft = 499;  // for logs and counts; nobody is there to read it

double seconds_between(TimePoint begin, TimePoint end) { return static_cast<double>(end.ns - begin.ns) * 1e-9; }

// On a worker's thread: all that may take long.
CallResult prepare(Service& service, Handler handler, const CallInfo& info, const std::string& body) {
  switch (handler) {
    case Handler::kChatCompletions: return prepare_chat_completion(service.api, info, body);
    case Handler::kCompletions: return prepare_completion(service.api, info, body);
    case Handler::kResponses: return prepare_response(service.api, info, body);
    case Handler::kEmbeddings: return answer_embeddings(service.api, body);
    case Handler::kTokenize: return answer_tokenize(service.api, body);
    case Handler::kDetokenize: return answer_detokenize(service.api, body);
    case Handler::kApplyTemplate: return answer_apply_template(service.api, body);
    default: return answer_control(service, handler, body);
  }
}

}  // namespace

ApiError LiveCall::too_many(const Admission::Refusal& refusal) {
  return {.status = 429,
          .type = "rate_limit_error",
          .code = "queue_full",
          .message = fmt::format("the server is at its limit ({}): try again in {:.1f} s", refusal.reason,
                                 refusal.retry_after_s),
          .retry_after_s = refusal.retry_after_s};
}

LiveCall::~LiveCall() {
  cancel_running();
  table_.remove(*this);
  if (admitted_) service_.admission.leave(service_.clock.now());
}

bool LiveCall::enter_admission() {
  const auto refusal = service_.admission.enter(exchange_.arrived);
  admitted_ = !refusal;
  if (!refusal) return true;
  service_.metrics.count_refusal(refusal->reason);
  refuse(too_many(*refusal));
  return false;
}

void LiveCall::start(std::string body) {
  if (generates(exchange_.route->handler) && !enter_admission()) return;
  service_.metrics.tasks.fetch_add(1, std::memory_order_relaxed);
  // The call may be gone when the worker is done: it is looked up again.
  auto task = [&service = service_, &table = table_, id = id_, handler = exchange_.route->handler,
               info = CallInfo{service_.new_call_id(), service_.unix_seconds()}, body = std::move(body)] {
    auto result = std::make_shared<CallResult>(prepare(service, handler, info, body));
    service.metrics.tasks.fetch_sub(1, std::memory_order_relaxed);
    table.loop().post([&table, id, result] {
      LiveCall* call = table.find(id);
      if (call == nullptr) return;
      Client& client = call->client();
      call->on_prepared(std::move(*result));
      client.flush();
    });
  };
  if (service_.workers.post(std::move(task))) return;
  service_.metrics.tasks.fetch_sub(1, std::memory_order_relaxed);
  service_.metrics.count_refusal("workers_busy");
  refuse(too_many({"workers_busy", 1.0}));
}

void LiveCall::on_prepared(CallResult result) {
  if (ApiError* error = std::get_if<ApiError>(&result)) {
    refuse(*error);
  } else if (Response* response = std::get_if<Response>(&result)) {
    status_ = response->head.status;
    client_.respond(exchange_, std::move(*response));
    end();
  } else {
    submit(std::move(std::get<PreparedCall>(result)));
  }
}

void LiveCall::submit(PreparedCall prepared) {
  prepared_ = std::move(prepared);
  double timeout_s = static_cast<double>(exchange_.timeout_ms) * 1e-3;
  const double timeout_s_max = service_.options.request_timeout_s_max;
  if (timeout_s_max > 0 && (timeout_s == 0 || timeout_s > timeout_s_max)) timeout_s = timeout_s_max;

  running_.reserve(prepared_.requests.size());
  for (std::size_t i = 0; i < prepared_.requests.size(); ++i) {
    engine::Request& request = prepared_.requests[i];
    Running running;
    running.prompt_tokens = static_cast<std::int64_t>(request.prompt.size());
    if (const auto refusal = service_.admission.add_prompt(running.prompt_tokens)) {
      service_.metrics.count_refusal(refusal->reason);
      refuse(too_many(*refusal));
      return;
    }
    running.prompt_queued = true;
    running.unfinished = request.samples_count;
    running.last_token.resize(static_cast<std::size_t>(request.samples_count));
    running.tag = table_.add_request(*this, i);
    request.tag = running.tag;
    // What one key's prompts left in the prefix cache, no other key can find out.
    if (!service_.keys.empty()) request.cache_salt = exchange_.caller + '\n' + request.cache_salt;
    if (timeout_s > 0) request.deadline = TimePoint{exchange_.arrived.ns + static_cast<std::int64_t>(timeout_s * 1e9)};
    service_.metrics.prompt_tokens.observe(static_cast<double>(running.prompt_tokens));
    const Result<engine::RequestId> id = service_.engine.submit(std::move(request), table_.sink());
    if (id.ok()) running.id = *id;
    running_.push_back(std::move(running));
    if (!id.ok()) {
      running_.back().unfinished = 0;
      if (id.code() == StatusCode::kResourceExhausted) service_.metrics.count_refusal("queue_full");
      refuse(error_of(id.status()));
      return;
    }
  }
  prepared_.requests.clear();
  last_write_ = service_.clock.now();
}

void LiveCall::observe(Running& running, const engine::TokenEvent& event, TimePoint arrived) {
  Metrics& metrics = service_.metrics;
  if (!event.tokens.empty()) {
    generated_tokens_ += static_cast<std::int64_t>(event.tokens.size());
    cached_tokens_ = std::max(cached_tokens_, event.cached_tokens);
    if (first_token_ == TimePoint()) {
      first_token_ = arrived;
      metrics.time_to_first_token_s.observe(seconds_between(exchange_.arrived, arrived));
      metrics.queue_s.observe(seconds_between(exchange_.arrived, event.admitted));
      metrics.prefill_s.observe(seconds_between(event.admitted, arrived));
    }
    TimePoint& last = running.last_token[static_cast<std::size_t>(event.sample)];
    if (last != TimePoint())
      metrics.inter_token_s.observe(seconds_between(last, arrived) / static_cast<double>(event.tokens.size()),
                                    event.tokens.size());
    last = last_token_ = arrived;
  }
  if (running.prompt_queued) end_prompt(running);
  if (event.finish != engine::FinishReason::kNone) {
    running.unfinished -= 1;
    finish_ = engine::finish_reason_name(event.finish);
    metrics.count_finish(finish_);
  }
}

void LiveCall::end_prompt(Running& running) {
  service_.admission.end_prompt(running.prompt_tokens);
  running.prompt_queued = false;
}

void LiveCall::on_event(std::size_t index, engine::TokenEvent& event, TimePoint arrived) {
  Running& running = running_[index];
  observe(running, event, arrived);
  if (event.finish == engine::FinishReason::kCancelled) {
    // Not by the client, who would have taken this call away: by whoever looks after the server.
    event.finish = engine::FinishReason::kError;
    event.error = Status(StatusCode::kCancelled, "the request was ended by the server's operator");
  }
  if (prepared_.stream) body_.clear();
  prepared_.writer->write(index, event, body_);
  const std::optional<ApiError>& error = prepared_.writer->error();
  if (error && !head_sent_) {
    refuse(*error);
    return;
  }
  if (prepared_.stream && !body_.empty()) {
    begin_stream();
    write(body_);
  }
  if (!prepared_.writer->done()) return;
  if (error) cancel_running();
  if (prepared_.stream) {
    begin_stream();
    client_.connection().end_body(exchange_.stream);
  } else {
    client_.respond(exchange_, {{200, {{"content-type", "application/json"}}}, std::move(body_)});
  }
  end();
}

void LiveCall::begin_stream() {
  if (std::exchange(head_sent_, true)) return;
  ResponseHead head{200,
                    {{"content-type", "text/event-stream; charset=utf-8"},
                     {"cache-control", "no-cache"},
                     {"x-accel-buffering", "no"}}};
  client_.add_common_headers(exchange_, head.headers);
  service_.metrics.count_request(exchange_.route->path, 200);
  client_.connection().begin_response(exchange_.stream, std::move(head));
}

void LiveCall::write(std::string_view bytes) {
  Connection& connection = client_.connection();
  connection.send_body(exchange_.stream, bytes);
  last_write_ = service_.clock.now();
  if (held_ || connection.backlog(exchange_.stream) <= service_.options.connection.backlog_high_bytes) return;
  held_ = true;
  service_.metrics.paused_streams.fetch_add(1, std::memory_order_relaxed);
  for (const Running& running : running_)
    if (running.unfinished > 0) service_.engine.hold(running.id, true);
}

void LiveCall::on_drained() {
  if (!std::exchange(held_, false)) return;
  for (const Running& running : running_)
    if (running.unfinished > 0) service_.engine.hold(running.id, false);
}

bool LiveCall::on_tick(TimePoint now) {
  const double ping_s = service_.options.ping_s;
  if (!prepared_.stream || held_ || ping_s <= 0 || seconds_between(last_write_, now) < ping_s) return false;
  begin_stream();
  write(": ping\n\n");
  return true;
}

void LiveCall::on_client_left() {
  service_.metrics.cancelled.fetch_add(1, std::memory_order_relaxed);
  service_.metrics.count_request(exchange_.route->path, kClientLeft);
  finish_ = "cancelled";
  if (service_.options.log_requests) log(kClientLeft);
}

void LiveCall::abort(const std::string& reason) {
  refuse({.status = 503, .type = "unavailable_error", .code = "aborted", .message = reason});
}

void LiveCall::refuse(const ApiError& error) {
  cancel_running();
  status_ = error.status;
  if (finish_[0] == '\0') finish_ = "refused";
  if (head_sent_) {
    client_.connection().send_body(exchange_.stream, "data: " + error_json(error) + "\n\n");
    client_.connection().end_body(exchange_.stream);
  } else {
    client_.respond(exchange_, error_response(error));
  }
  end();
}

void LiveCall::cancel_running() {
  for (Running& running : running_) {
    if (running.prompt_queued) end_prompt(running);
    if (running.unfinished > 0) service_.engine.cancel(running.id);
    running.unfinished = 0;
    table_.remove_request(running.tag);
  }
  running_.clear();
}

void LiveCall::end() {
  const TimePoint now = service_.clock.now();
  if (first_token_ != TimePoint()) {
    service_.metrics.end_to_end_s.observe(seconds_between(exchange_.arrived, now));
    service_.metrics.decode_s.observe(seconds_between(first_token_, last_token_));
    service_.metrics.generation_tokens.observe(static_cast<double>(generated_tokens_));
  }
  if (service_.options.log_requests) log(status_);
  client_.end_call(exchange_.stream);
}

void LiveCall::log(int status) const {
  const auto ms = [&](TimePoint end) { return seconds_between(exchange_.arrived, end) * 1e3; };
  json::object line{{"request_id", exchange_.request_id},
                    {"key", exchange_.caller},
                    {"route", exchange_.route->path},
                    {"status", status},
                    {"total_ms", ms(service_.clock.now())}};
  if (generated_tokens_ > 0) {
    line["ttft_ms"] = ms(first_token_);
    line["output_tokens"] = generated_tokens_;
    line["cached_tokens"] = cached_tokens_;
    line["finish"] = finish_;
  }
  log_line(LogLevel::kInfo, to_json_text(line));
}

}  // namespace tandem::server
