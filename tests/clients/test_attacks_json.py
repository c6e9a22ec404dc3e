"""Bodies: JSON that is deep, large or not JSON; and every number at, below and beyond its range. Each gets a 400 of the
usual shape, and nothing reaches the engine."""

import json

import pytest

from harness import CHAT, MIB, messages

COMPLETIONS, RESPONSES = "/v1/completions", "/v1/responses"
GOOD = '{"messages":[{"role":"user","content":"x"}],"max_tokens":2'

NOT_JSON = {
    "nothing": "", "a word": "x", "an array": "[]", "a number": "1", "null": "null", "cut off": GOOD, "two": "{}{}",
    "a comment": GOOD + "/* */}", "NaN": GOOD + ',"temperature":NaN}', "Infinity": GOOD + ',"temperature":Infinity}',
    "a BOM": "\ufeff" + GOOD + "}", "a leading zero": GOOD + ',"n":01}', "single quotes": "{'messages':[]}",
    "deep arrays": GOOD + ',"x":' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep objects": GOOD + ',"x":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
    "a depth of 40": GOOD + ',"x":' + "[" * 40 + "]" * 40 + "}",
    "half a surrogate": GOOD.replace('"x"', r'"\ud83d"') + "}", "the other half": GOOD.replace('"x"', r'"\ude00"') + "}",
    "a control character": GOOD.replace('"x"', '"a\nb"') + "}",
    "a bad escape": GOOD.replace('"x"', r'"\x41"') + "}",
}
BAD_UTF8 = [GOOD.replace('"x"', '"%s"').encode() % bad + b"}" for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82")]

# What no field may be, and what single ones may not.
NEVER = ["1e999", "-1e999", "-1e400", '"1"', "[]", "{}", "true", "123456789012345678901234567890"]
FIELDS = {
    "max_tokens": ["0", "-1", "2147483648", "9007199254740993", "9223372036854775808", "1.5", "1e18"],
    "max_completion_tokens": ["0", "-1", "1.5", "1e18"],
    "n": ["0", "-1", "17", "1e9", "1000000000", "2147483648", "1.5"],
    "temperature": ["-0.1", "-1", "2.1", "1e9"], "top_p": ["-0.1", "0", "1.1", "-1"],
    "presence_penalty": ["-2.1", "2.1", "1e9"], "frequency_penalty": ["-2.1", "2.1"],
    "repetition_penalty": ["0", "-1", "1e30"], "min_p": ["-0.1", "1.1"], "top_k": ["-2", "1.5", "9007199254740993"],
    "min_tokens": ["-1", "2147483648"], "seed": ["1.5", "9223372036854775808000"],
    "top_logprobs": ["-1", "21", "1.5", "2147483648"], "priority": ["1.5", "9223372036854775808"],
}
SPECIAL = {
    "logit_bias": ['{"1":101}', '{"1":-101}', '{"-1":1}', '{"99999999":1}', '{"1":"x"}', '{"1":1e999}', "[]",
                   '{"1.5":1}', '{"9223372036854775808":1}', json.dumps({str(i): 1 for i in range(2000)})],
    "stop": ["1", "[1]", json.dumps(["x"] * 17), json.dumps("y" * 5000), "{}", '[""]', '""'],
    "stop_token_ids": ["[-1]", "[99999999]", '["a"]', "1", "[1e999]"],
    "stream": ["1", '"true"', "[]"], "stream_options": ["1", '{"include_usage":true}'], "logprobs": ["1", '"x"'],
    "tools": ["1", "[1]", '[{"type":"x"}]', "{}"], "response_format": ["1", '{"type":"x"}', '{"type":1}'],
    "messages": ["1", "[]", "[1]", "{}", '[{"role":"x","content":""}]', '[{"content":"x"}]', '[{"role":"user"}]',
                 '[{"role":"user","content":1}]', '[{"role":"user","content":[1]}]',
                 '[{"role":"user","content":[{"type":"x"}]}]'],
    "model": ["1", "[]", '"other"', '"../../etc/passwd"'],
}
PAIRS = [(name, value) for name, values in FIELDS.items() for value in values + NEVER]
PAIRS += [(name, value) for name, values in SPECIAL.items() for value in values]


def is_refused(answer, param=None):
    assert answer.status in (400, 404), (answer.status, answer.body[:300])
    assert param is None or answer.error["param"] in (param, None) or answer.error["param"].startswith(param), answer.error
    assert len(answer.body) < 4096  # what was sent does not come back


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, "/tokenize", "/detokenize", "/apply-template",
                                  "/v1/embeddings"])
def test_what_is_not_json(server, path):
    for name, body in NOT_JSON.items():
        answer = server.post(path, body)
        assert answer.status == 400, (name, answer.body)
        assert answer.error["code"] in ("invalid_json", "invalid_value", "missing_required_parameter"), (name, answer.body)
    for body in BAD_UTF8:
        is_refused(server.post(path, body))


def test_numbers_and_kinds_of_every_field(server):
    connection = server.connection()
    for name, value in PAIRS:
        fields = {"messages": '[{"role":"user","content":"x"}]', "max_tokens": "2"}
        if name == "max_completion_tokens":
            del fields["max_tokens"]
        if name == "top_logprobs":
            fields["logprobs"] = "true"
        fields[name] = value
        body = "{" + ",".join(f'"{key}":{text}' for key, text in fields.items()) + "}"
        connection.request("POST", CHAT, body, {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        # An integer beyond the range of a float field's type is still a number: refused for its range.
        assert response.status in (400, 404), (name, value[:60], response.status, text[:300])
        assert json.loads(text)["error"]["param"] is not None, (name, value[:60], text)
    connection.close()
    assert server.wait_idle()["steps"] == 0  # none of them ran


@pytest.mark.parametrize("prompt", ['""', "[]", "[[]]", '[""]', "[-1]", "[99999999]", "[1e999]", "[1.5]", "1", "{}", "null",
                                    '[1,"a"]', '["a",1]', "[[[1]]]", "[2147483648]", "[9223372036854775808]"])
def test_prompts(server, prompt):
    answer = server.post(COMPLETIONS, '{"max_tokens":2,"prompt":%s}' % prompt)
    if prompt in ('""', '[""]'):
        assert answer.status in (200, 400)
    else:
        is_refused(answer, "prompt")
    is_refused(server.post("/detokenize", '{"tokens":%s}' % prompt)) if prompt not in ("[]",) else None


def test_many_prompts_of_one_call(server):
    is_refused(server.post(COMPLETIONS, {"prompt": ["x"] * 100_000, "max_tokens": 1}))
    is_refused(server.post(COMPLETIONS, {"prompt": "x", "best_of": 1_000_000_000, "max_tokens": 1}))
    is_refused(server.post(COMPLETIONS, {"prompt": "x", "logprobs": -1, "max_tokens": 1}))
    is_refused(server.post(CHAT, {"messages": messages("x") * 100_000}))


def test_large_texts(server):
    """Twenty megabytes of prompt, of one key, of names: refused or answered, and the memory is given back."""
    assert server.post(CHAT, {"messages": messages("x" * (20 * MIB))}).status == 400
    assert server.post(CHAT, {"messages": messages(), "y" * (20 * MIB): 1, "max_tokens": 2}).status in (200, 400)
    keys = {f"k{i}": i for i in range(500_000)}
    assert server.post(CHAT, {"messages": messages(), "max_tokens": 2, **keys}).status in (200, 400)
    assert server.post(CHAT, {"messages": messages(), "max_tokens": 2, "user": "\0" * MIB}).status in (200, 400)
    server.check_well(rss_growth=512 * MIB)


def test_templates_cannot_be_given(server):
    """A template would be a program of the client's."""
    for fields in ({"chat_template": "{% for i in range(1000000000) %}x{% endfor %}"},
                   {"chat_template_kwargs": {"messages": "x"}}, {"chat_template_kwargs": 1}):
        answer = server.post(CHAT, {"messages": messages(), "max_tokens": 2, **fields})
        assert answer.status in (200, 400)
        if answer.status == 200:
            assert answer.json["choices"][0]["message"]["content"].startswith("7")
    server.wait_idle()


def test_duplicate_keys_do_not_slip_through(server):
    """Whichever is read, it is checked."""
    for body in ('{"messages":[],"messages":[],"max_tokens":2}', GOOD + ',"n":1,"n":1000000000}'):
        is_refused(server.post(CHAT, body))


def test_urls_and_files_are_never_fetched(server):
    for url in ("http://127.0.0.1:1/x.png", "file:///etc/passwd"):
        answer = server.post(CHAT, {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": url}}]}]})
        assert answer.status == 400 and "passwd" not in answer.error["message"]


@pytest.mark.parametrize("path", ["/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%00", "/v1/models/x?y=z", "/page/%2e%2e/x",
                                  "/admin/v1/stats", "/v1//models", "/V1/models", "/v1/models/"])
def test_paths(server, path):
    answer = server.get(path)
    assert answer.status in (400, 404), answer.body
    assert answer.error["message"]
