// Any bytes as a chat template: parsing and a bounded render must end with a result or an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "model/template/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tandem;
  static const json::object variables = [] {
    return parse_json(R"({"messages": [{"role": "system", "content": "S"},
                                        {"role": "user", "content": [{"type": "text", "text": "é\n"}]},
                                        {"role": "assistant", "content": null,
                                         "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.5]}}}]}],
                          "tools": null, "add_generation_prompt": true, "bos_token": "<s>", "big": 18446744073709551615})",
                      "variables")
        .value()
        .as_object();
  }();
  const auto parsed = model::ChatTemplate::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!parsed.ok()) return 0;
  model::RenderLimits limits;
  limits.steps_max = 20'000;
  limits.output_bytes_max = 64 << 10;
  limits.memory_bytes_max = 4 << 20;
  const auto rendered = (*parsed).render(variables, limits, 0);
  return rendered.ok() && (*rendered).text.size() > limits.output_bytes_max ? __builtin_trap(), 0 : 0;
}
