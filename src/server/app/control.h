// What operators and trainers ask on the control listener.
#pragma once

#include <string_view>

#include "server/app/router.h"
#include "server/app/service.h"

namespace tandem::server {

// Answers a control route; `body` is a JSON object or empty. May wait for the step under way: on a worker's thread.
//   pause   {"mode": "keep" | "abort"}   calls under way keep their blocks, or are ended
//   abort   {"request_id": "..."} or {"all": true}
//   weights {"version": 7}               once new weights are in place; the engine must be paused
//   log     {"level": "debug" | "info" | "warning" | "error" | "off"}
CallResult answer_control(Service& service, Handler handler, std::string_view body);

}  // namespace tandem::server
