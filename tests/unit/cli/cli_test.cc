// The commands end to end, through the binary.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "base/json.h"
#include "cli/model_host.h"
#include "model/checkpoint/safetensors.h"
#include "unit/cli/run_command.h"

namespace tandem::cli {
namespace {

// A failure is one line on standard error, nothing on standard output, and this exit code.
void expect_failure(const CommandResult& run, int exit_code, const std::string& mentions) {
  EXPECT_EQ(run.exit_code, exit_code) << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  EXPECT_NE(run.err.find(mentions), std::string::npos) << run.err;
}

json::value parse(const std::string& text) { return parse_json(text, "output").value(); }

TEST(Cli, HelpFitsAScreen) {
  for (const char* command : {"", "chat", "generate", "tokenize", "detokenize", "template", "logits", "inspect",
                              "make-checkpoint", "bench"}) {
    const CommandResult run = run_tandem(std::string(command) + " --help");
    EXPECT_EQ(run.exit_code, 0);
    EXPECT_LE(std::count(run.out.begin(), run.out.end(), '\n'), 50) << command;
    std::size_t begin = 0;
    for (std::size_t end; (end = run.out.find('\n', begin)) != std::string::npos; begin = end + 1) {
      EXPECT_LE(end - begin, 120u) << run.out.substr(begin, end - begin);
    }
  }
}

TEST(Cli, UsageErrorsNameTheFlag) {
  expect_failure(run_tandem("generate --no-such-flag 1"), 2, "argument: --no-such-flag;");
  expect_failure(run_tandem("frobnicate"), 2, "frobnicate");
  expect_failure(run_tandem(""), 2, "generate");
  expect_failure(run_tandem("generate"), 2, "--prompt");
  expect_failure(run_tandem("generate --prompt a --prompt-ids 1"), 2, "--prompt");
  expect_failure(run_tandem("logits --ids 1"), 2, "--output");
  expect_failure(run_tandem("generate --prompt a --threads many"), 2, "--threads");
  expect_failure(run_tandem("generate --prompt a --context many"), 2, "--context");  // not in the help text
  expect_failure(run_tandem("serve --log-level loud"), 2, "--log-level");
  expect_failure(run_tandem("generate --prompt a --kv-dtype int3"), 2, "--kv-dtype");
}

TEST(Cli, GenerateAnswersAQuestion) {
  const CommandResult run = run_tandem("generate --chat --prompt 'What is 27 + 45?' --temperature 0");
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out, "72");
  EXPECT_EQ(run.err, "");
}

// An answer over a cache of e4m3 is a little different, half the bytes, and the same however it was cut into steps.
TEST(Cli, GenerateOverAnFp8Cache) {
  const std::string generate = "generate --chat --prompt 'What is 27 + 45?' --temperature 0 --json --compute bf16 ";
  const auto logprobs = [](const CommandResult& run) {
    EXPECT_EQ(run.exit_code, 0) << run.err;
    const json::value answer = parse(run.out);
    EXPECT_EQ(answer.at("text").as_string(), "72");
    return to_json_text(answer.at("logprobs"));
  };
  const std::string fp8 = logprobs(run_tandem(generate + "--kv-dtype fp8"));
  EXPECT_EQ(logprobs(run_tandem(generate + "--kv-cache-dtype fp8_e4m3 --step-tokens 3 --sequences 1")), fp8);
  EXPECT_EQ(logprobs(run_tandem(generate + "--kv-dtype fp8 --threads 1 --no-prefix-cache")), fp8);
  const std::string bf16 = logprobs(run_tandem(generate));
  EXPECT_EQ(logprobs(run_tandem(generate + "--kv-dtype bf16")), bf16);
  EXPECT_NE(fp8, bf16);
  const auto cache_bytes = [](const std::string& flags) {
    const json::value plan = parse(run_tandem("inspect --json --compute bf16 --kv-blocks 100 " + flags).out);
    for (const json::value& entry : plan.at("memory_plan").as_array()) {
      if (entry.at("name").as_string() == "KV cache") return entry.at("bytes").to_number<std::int64_t>();
    }
    return std::int64_t{0};
  };
  EXPECT_GT(cache_bytes(""), 0);
  EXPECT_EQ(2 * cache_bytes("--kv-dtype fp8"), cache_bytes("--kv-dtype bf16"));
}

TEST(Cli, GenerateKeepsToAGrammar) {
  const Scratch scratch;
  const std::string schema =
      scratch.file("schema.json", R"({"type":"object","properties":{"sum":{"type":"integer","minimum":10,
      "maximum":99},"sure":{"type":"boolean"}},"required":["sum"],"additionalProperties":false})");
  const std::string question = "generate --chat --prompt 'What is 27 + 45?' ";
  for (const char* how : {"--temperature 1", "--temperature 1 --seed 6", "--temperature 0"}) {
    const CommandResult run = run_tandem(question + "--json-schema " + schema + " " + how);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const json::value answer = parse(run.out);
    EXPECT_GE(answer.at("sum").as_int64(), 10);
    EXPECT_LE(answer.at("sum").as_int64(), 99);
  }
  const CommandResult choice =
      run_tandem(question + "--temperature 1 --choice seventy --choice 'eighty two' --samples 4");
  EXPECT_EQ(choice.exit_code, 0) << choice.err;
  std::istringstream lines(choice.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_TRUE(line == "seventy" || line == "eighty two") << line;
  EXPECT_EQ(count, 4);
  // Where the model's own answer is of the form, it stays.
  EXPECT_EQ(run_tandem(question + "--temperature 0 --regex '[0-9]+'").out, "72");
  const std::string grammar = scratch.file("sum.gbnf", "root ::= [0-9]{2} \"!\"\n");
  EXPECT_EQ(run_tandem(question + "--temperature 0 --grammar " + grammar).out, "72!");

  expect_failure(run_tandem(question + "--regex a --choice b"), 2, "--choice");
  expect_failure(run_tandem(question + "--regex '(?=a)'"), 1, "lookahead");
  expect_failure(run_tandem(question + "--grammar " + schema), 1, "--grammar");
  expect_failure(run_tandem(question + "--json-schema " + grammar), 1, grammar);
  expect_failure(run_tandem(question + "--json-schema " + scratch.path("none")), 1, "/none");
}

TEST(Cli, GenerateJsonHasEverything) {
  const CommandResult run =
      run_tandem("generate --prompt-ids 0,4,304,300,227,24,29,403,227,26,27,37,6,5 --temperature 0 --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json::value answer = parse(run.out);
  EXPECT_EQ(answer.at("text").as_string(), "72");
  EXPECT_EQ(to_json_text(answer.at("token_ids")), "[29,24,6]");
  EXPECT_EQ(answer.at("finish_reason").as_string(), "stop");
  ASSERT_EQ(answer.at("logprobs").as_array().size(), 3u);
  for (const json::value& logprob : answer.at("logprobs").as_array()) EXPECT_LE(logprob.to_number<double>(), 0.0);
  EXPECT_EQ(answer.at("timings").at("prompt_tokens").as_int64(), 14);
}

TEST(Cli, GenerateFileAnswersEveryLineAndGoesOnAfterBadOnes) {
  const Scratch scratch;
  const std::string input = scratch.file("in.jsonl",
                                         R"({"id":"a","prompt":"What is 27 + 45?","chat":true,"temperature":0}
not json
{"id":"b","messages":[{"role":"user","content":"Sort: 31 7 88 5 60"}],"temperature":0,"logprobs":true}

{"id":"c","prompt":1}
{"id":"d","prompt":"x","prompt_ids":[1]}
{"id":"e","prompt_ids":[99999]}
{"id":"f","prompt":"x","colour":"red"}
{"prompt_ids":[0,4,560,535],"max_tokens":3,"temperature":0}
)");
  const std::string output = scratch.path("out.jsonl");
  const CommandResult run = run_tandem("generate --input " + input + " --output " + output);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  std::vector<json::value> lines;
  const std::string text = read_file(output).value();
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    lines.push_back(parse(text.substr(begin, end - begin)));
  }
  ASSERT_EQ(lines.size(), 8u);
  EXPECT_EQ(lines[0].at("id").as_string(), "a");
  EXPECT_EQ(lines[0].at("text").as_string(), "72");
  EXPECT_EQ(lines[0].as_object().count("logprobs"), 0u);
  EXPECT_TRUE(lines[1].as_object().contains("error"));
  EXPECT_EQ(lines[2].at("text").as_string(), "5 7 31 60 88");
  EXPECT_EQ(lines[2].at("logprobs").as_array().size(), lines[2].at("token_ids").as_array().size());
  for (const std::size_t bad : {3u, 4u, 5u, 6u}) {
    EXPECT_TRUE(lines[bad].as_object().contains("error")) << bad;
    EXPECT_EQ(lines[bad].at("id").as_string(), std::string(1, static_cast<char>('c' + bad - 3)));
  }
  EXPECT_EQ(lines[7].at("id").as_int64(), 7);
  EXPECT_EQ(lines[7].at("token_ids").as_array().size(), 3u);
}

TEST(Cli, GenerateFileWaitsForNothingThatItQueuedItself) {
  const Scratch scratch;
  std::string lines;
  for (int i = 0; i < 6000; ++i) lines += "{\"prompt_ids\":[4],\"max_tokens\":1}\n";
  const CommandResult run =
      run_tandem("generate --sequences 2000 --step-tokens 2000 --input " + scratch.file("in.jsonl", lines));
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err, "");
  EXPECT_EQ(run.out.find("error"), std::string::npos);
}

TEST(Cli, TokenizeAndDetokenizeKeepEveryByte) {
  const std::string text =
      "What is\t27 + 45?\n\n  h\xc3\xa9llo \xe4\xb8\x96\xe7\x95\x8c \xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd end";
  const CommandResult ids = run_tandem("tokenize", text);
  ASSERT_EQ(ids.exit_code, 0) << ids.err;
  EXPECT_TRUE(parse(ids.out).is_array());
  const CommandResult back = run_tandem("detokenize", ids.out);
  EXPECT_EQ(back.exit_code, 0) << back.err;
  EXPECT_EQ(back.out, text);
  EXPECT_EQ(run_tandem("tokenize", "").out, "[]\n");
  EXPECT_EQ(run_tandem("tokenize", "<|user|>").out, "[4]\n");
  EXPECT_NE(run_tandem("tokenize --no-parse-special", "<|user|>").out, "[4]\n");
  expect_failure(run_tandem("detokenize", "1,x"), 1, "x");
  expect_failure(run_tandem("detokenize", "[999999]"), 1, "999999");
}

TEST(Cli, TemplateRendersExactlyAndRaisesWithCodeThree) {
  const Scratch scratch;
  const std::string messages = scratch.file("m.json", R"([{"role":"user","content":"Hi"}])");
  EXPECT_EQ(run_tandem("template --messages " + messages).out, "<|bos|><|user|>Hi<|end|><|assistant|>");
  EXPECT_EQ(run_tandem("template --no-generation-prompt --messages " + messages).out, "<|bos|><|user|>Hi<|end|>");
  const std::string file = scratch.file("t.jinja", "{{ name }} {{ count + 1 }} {{ messages[0].content }}");
  EXPECT_EQ(run_tandem("template --template " + file + " --messages " + messages + " --var name=Ann --var count=2").out,
            "Ann 3 Hi");
  const std::string raising = scratch.file("r.jinja", "{{ raise_exception('roles must alternate') }}");
  expect_failure(run_tandem("template --template " + raising + " --messages " + messages), 3, "roles must alternate");
  const std::string broken = scratch.file("b.jinja", "{% if %}");
  expect_failure(run_tandem("template --template " + broken + " --messages " + messages), 1, "b.jinja");
}

TEST(Cli, LogitsAreWrittenAsSafetensors) {
  const Scratch scratch;
  const std::string output = scratch.path("l.safetensors");
  const CommandResult run = run_tandem("logits --ids 3,17,42 --compute f32 --output " + output);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto file = model::SafetensorsFile::open(output);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->view("logits")->shape(), (tensor::Shape{3, 2048}));
  EXPECT_EQ(file->view("logits")->dtype(), tensor::DType::kF32);
  expect_failure(run_tandem("logits --ids 1,2048 --output " + output), 1, "2048");
}

TEST(Cli, InspectDescribesTheModel) {
  const CommandResult run = run_tandem("inspect --json");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json::value answer = parse(run.out);
  EXPECT_EQ(answer.at("architecture").as_string(), "LlamaForCausalLM");
  EXPECT_EQ(answer.at("layers").as_int64(), 6);
  EXPECT_NE(run_tandem("inspect").out.find("KV cache"), std::string::npos);
}

TEST(Cli, MakeCheckpointMakesAModelThatRuns) {
  const Scratch scratch;
  for (const std::string shape : {"tiny", "tiny-moe"}) {
    const std::string folder = scratch.path(shape);
    const CommandResult made = run_tandem("make-checkpoint " + folder + "/ --layers 3 --seed 5 --shape " + shape);
    ASSERT_EQ(made.exit_code, 0) << made.err;
    EXPECT_NE(made.out.find("3 layers"), std::string::npos) << made.out;
    const json::value facts = parse(run_tandem("inspect --json " + folder).out);
    EXPECT_EQ(facts.at("layers").as_int64(), 3);
    const std::string text = "h\xc3\xa9llo \xe4\xb8\x96";
    const CommandResult ids = run_tandem("tokenize --model " + folder, text);
    EXPECT_EQ(parse(ids.out).as_array().size(), text.size());
    EXPECT_EQ(run_tandem("detokenize --model " + folder, ids.out).out, text);
    for (const char* prompt : {"--prompt hello", "--chat --prompt hello"}) {
      const CommandResult run =
          run_tandem("generate --ignore-eos --max-tokens 8 --json --temperature 1 --model " + folder + " " + prompt);
      ASSERT_EQ(run.exit_code, 0) << run.err;
      EXPECT_EQ(parse(run.out).at("token_ids").as_array().size(), 8u);
    }
  }
}

TEST(Cli, MakeCheckpointDependsOnTheSeedAndTakesAnyConfig) {
  const Scratch scratch;
  const auto weights_of = [&](const std::string& folder, const std::string& flags) {
    const CommandResult run = run_tandem("make-checkpoint " + scratch.path(folder) + " " + flags);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(run.err, "");
    return read_file(scratch.path(folder + "/model.safetensors")).value();
  };
  const std::string first = weights_of("a", "--shape tiny --seed 1 --threads 1");
  EXPECT_EQ(weights_of("b", "--shape tiny --seed 1 --threads 3"), first);
  EXPECT_NE(weights_of("c", "--shape tiny --seed 2"), first);
  EXPECT_EQ(weights_of("d", "--seed 1 --config " + scratch.path("a/config.json")), first);
  EXPECT_GT(weights_of("e", "--shape tiny --dtype f32").size(), first.size() * 3 / 2);
}

TEST(Cli, AModelWhoseHeadsNoAttentionTakesIsRefusedBeforeItRuns) {
  const Scratch scratch;
  const std::string config = scratch.file("config.json", R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 512,
      "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4})");
  const std::string folder = scratch.path("m");
  ASSERT_EQ(run_tandem("make-checkpoint --config " + config + " " + folder).exit_code, 0);
  for (const char* command : {"inspect ", "generate --prompt-ids 1 --model "}) {
    expect_failure(run_tandem(command + folder), 1, "heads of 12");
  }
}

TEST(Cli, MakeCheckpointLeavesNothingBehindWhenItFails) {
  const Scratch scratch;
  const std::string kept = scratch.file("kept", "text"), broken = scratch.file("config.json", "{");
  const std::string too_small = scratch.file("small.json", R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 200,
      "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2})");
  expect_failure(run_tandem("make-checkpoint --shape tiny"), 2, "dir");
  expect_failure(run_tandem("make-checkpoint " + scratch.path("x")), 2, "--shape");
  expect_failure(run_tandem("make-checkpoint --shape tiny --config " + broken + " " + scratch.path("x")), 2,
                 "--config");
  expect_failure(run_tandem("make-checkpoint --shape tiny --layers 0 " + scratch.path("x")), 2, "--layers");
  expect_failure(run_tandem("make-checkpoint --shape gpt-5 " + scratch.path("x")), 1, "llama-3-8b");
  expect_failure(run_tandem("make-checkpoint --shape tiny " + kept), 1, "exists");
  expect_failure(run_tandem("make-checkpoint --config " + broken + " " + scratch.path("x")), 1, "config.json");
  expect_failure(run_tandem("make-checkpoint --config " + too_small + " " + scratch.path("x")), 1, "200");
  expect_failure(run_tandem("make-checkpoint --shape tiny " + scratch.path("none/x")), 1, "none/x");
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(scratch.path(""))) ++files;
  EXPECT_EQ(files, 3u);
  EXPECT_EQ(read_file(kept).value(), "text");
}

TEST(Cli, WrongModelsAreNamed) {
  const Scratch scratch;
  const std::string file = scratch.file("config.json", "{\"architectures\":[\"FancyForCausalLM\"]}");
  const std::string folder = std::filesystem::path(file).parent_path().string();
  expect_failure(run_tandem("generate --prompt x --model " + folder), 1, "FancyForCausalLM");
  expect_failure(run_tandem("generate --prompt x --model " + folder + "/none"), 1, "/none");
  expect_failure(run_tandem("inspect " + file), 1, "config.json");
  std::string words;
  for (int i = 0; i < 3000; ++i) words += "word ";
  expect_failure(run_tandem("generate --prompt '" + words + "'"), 1, "2048");
}

TEST(Cli, ChatAnswersLinesOfAPipe) {
  const CommandResult run =
      run_tandem("chat --temperature 0", "What is 27 + 45?\n/reset\nWhat is the capital of Japan?\n/exit\nnot read\n");
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out, "72\nThe capital of Japan is Tokyo.\n");
}

TEST(ModelHost, ADeviceThatIsNotThereIsNamed) {
  ModelFlags flags;
  flags.device = "cuda:99";
  const auto host = ModelHost::open(std::filesystem::path(TANDEM_SOURCE_DIR) / "models/tinyworld-5m", flags, false);
  ASSERT_FALSE(host.ok());
  EXPECT_EQ(host.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(host.status().message().find("--device cpu"), std::string::npos);
}

}  // namespace
}  // namespace tandem::cli
