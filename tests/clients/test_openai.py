"""OpenAI's own Python package, with nothing changed but the address."""

import json
import math
import time

import openai
import pytest

from harness import CHAT, Server, eventually, long_request, messages

MODEL = "tinyworld-5m"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as made:
        yield made


def chat(client, text="What is 27 + 45?", **fields):
    return client.chat.completions.create(model=MODEL, messages=messages(text), **fields)


def test_chat(client):
    answer = chat(client)
    assert answer.choices[0].message.content == "72"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL and answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 60
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == 3


def test_chat_stream_with_usage(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "72"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_packages_own_stream_helper(client):
    """It checks the chunks that it puts together."""
    with client.chat.completions.stream(model=MODEL, messages=messages(), n=2, temperature=1, seed=5) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    whole = chat(client, n=2, temperature=1, seed=5)
    assert [choice.message.content for choice in final.choices] == [c.message.content for c in whole.choices]


def test_messages_of_every_role_and_parts(client):
    answer = client.chat.completions.create(model=MODEL, max_tokens=4, messages=[
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 2?"}]},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Thanks"}])
    assert answer.usage.prompt_tokens > 10
    with pytest.raises(openai.BadRequestError, match="image_url"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}])


TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}


def test_tools(client):
    """This model's template knows no tools: asked for, they are refused with the remedy; "none" asks for nothing."""
    with pytest.raises(openai.BadRequestError, match="required"):
        chat(client, tools=[TOOL], tool_choice="auto")
    assert chat(client, tools=[TOOL], tool_choice="none").choices[0].message.content is not None
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}})
    assert caught.value.param == "tool_choice"
    with pytest.raises(openai.BadRequestError):
        chat(client, tools=[{"type": "custom", "custom": {"name": "x"}}])


def test_tools_of_a_format_that_is_named(tmp_path):
    with Server(tmp_path, "--tool-format", "hermes") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0)
        answer = chat(client, tools=[TOOL], tool_choice="auto", max_tokens=8)
        assert answer.choices[0].finish_reason in ("stop", "length") and not answer.choices[0].message.tool_calls
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chat(
            client, tools=[TOOL], max_tokens=8, stream=True)) == answer.choices[0].message.content
        client.close()


def test_tool_results_go_back(client):
    answer = client.chat.completions.create(model=MODEL, max_tokens=4, messages=[
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}])
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_logprobs(client):
    answer = chat(client, logprobs=True, top_logprobs=4)
    tokens = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode().startswith("72")
    for token in tokens:
        assert len(token.top_logprobs) == 4
        values = [top.logprob for top in token.top_logprobs]
        assert values == sorted(values, reverse=True) and values[0] == token.logprob  # greedy
        assert sum(map(math.exp, values)) <= 1 + 1e-4
    assert chat(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, top_logprobs=4)
    assert caught.value.param == "top_logprobs"


def test_seeds_and_several_answers(client):
    def texts(**fields):
        return [c.message.content for c in chat(client, "Tell me a story", temperature=1, max_tokens=24, n=3,
                                                **fields).choices]
    first = texts(seed=11)
    assert first == texts(seed=11) and len(set(first)) > 1
    assert texts(seed=12) != first
    assert texts(seed=11)[0] == chat(client, "Tell me a story", temperature=1, max_tokens=24,
                                     seed=11).choices[0].message.content


def test_stop(client):
    whole = chat(client, "Tell me a story", max_tokens=40).choices[0].message.content
    mark = whole[len(whole) // 2:][:3]
    cut = chat(client, "Tell me a story", max_tokens=40, stop=[mark, "never said"])
    assert cut.choices[0].message.content == whole[:whole.index(mark)]
    assert cut.choices[0].finish_reason == "stop"
    assert chat(client, "Tell me a story", max_tokens=2).choices[0].finish_reason == "length"


def test_completions_of_text_and_of_token_ids(client, server):
    ids = server.post("/tokenize", {"prompt": "The capital of"}).json["tokens"]
    by_text = client.completions.create(model=MODEL, prompt="The capital of", max_tokens=6, temperature=0)
    by_ids = client.completions.create(model=MODEL, prompt=ids, max_tokens=6, temperature=0)
    assert by_ids.choices[0].text == by_text.choices[0].text
    both = client.completions.create(model=MODEL, prompt=[ids, ids], max_tokens=6, temperature=0)
    assert [choice.text for choice in both.choices] == [by_text.choices[0].text] * 2
    assert [choice.index for choice in both.choices] == [0, 1]
    assert by_text.usage.prompt_tokens == by_ids.usage.prompt_tokens == both.usage.prompt_tokens / 2


def test_completions_echo_logprobs_and_stream(client):
    echo = client.completions.create(model=MODEL, prompt="One two", max_tokens=3, echo=True, logprobs=2, temperature=0)
    found = echo.choices[0].logprobs
    assert echo.choices[0].text.startswith("One two")
    assert found.token_logprobs[0] is None and all(value <= 0 for value in found.token_logprobs[1:])
    assert "".join(found.tokens).removesuffix("<|end|>") == echo.choices[0].text  # the end has a probability, no text
    for offset, token in zip(found.text_offset, found.tokens):
        assert echo.choices[0].text[offset:].startswith(token.removesuffix("<|end|>"))
    stream = client.completions.create(model=MODEL, prompt="One two", max_tokens=3, stream=True, temperature=0)
    assert "One two" + "".join(chunk.choices[0].text for chunk in stream) == echo.choices[0].text


def test_responses(client):
    answer = client.responses.create(model=MODEL, input="What is 27 + 45?")
    assert answer.output_text == "72" and answer.status == "completed" and answer.id.startswith("resp_")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    items = client.responses.create(model=MODEL, instructions="Be short.", max_output_tokens=2, input=[
        {"role": "user", "content": [{"type": "input_text", "text": "Tell me a story"}]}])
    assert items.status == "incomplete" and items.incomplete_details.reason == "max_output_tokens"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="x", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


def test_responses_stream(client):
    events = list(client.responses.create(model=MODEL, input="What is 27 + 45?", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "72"
    assert [kind for kind in kinds if kind != "response.output_text.delta"] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]
    assert events[-1].response.output_text == "72"
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("some/other")
    assert caught.value.code == "model_not_found"


def test_model_names_with_slashes(tmp_path):
    with Server(tmp_path, "--model-name", "org/name", "--model-name", "alias") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0)
        assert [model.id for model in client.models.list()] == ["org/name", "alias"]
        assert client.models.retrieve("org/name").id == "org/name"
        for name in ("org/name", "alias"):
            assert client.chat.completions.create(model=name, messages=messages()).model == "org/name"
        with pytest.raises(openai.NotFoundError):
            chat(client)
        client.close()


def test_embeddings_are_refused_clearly(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="text")
    assert caught.value.code == "unsupported_model" and "/v1/completions" in caught.value.message


def test_bad_requests(client):
    for fields, param in [({"temperature": 3}, "temperature"), ({"n": 0}, "n"), ({"top_p": -1}, "top_p"),
                          ({"max_tokens": 1 << 40}, "max_tokens"), ({"logit_bias": {"x": 1}}, "logit_bias")]:
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, **fields)
        assert caught.value.param == param and caught.value.type == "invalid_request_error", caught.value
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, "word " * 5000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=messages())
    assert caught.value.code == "model_not_found"


def test_keys(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("right-key-12345\n")
    with Server(tmp_path, "--api-key-file", keys) as server:
        def client(key):
            return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)
        assert chat(client("right-key-12345")).choices[0].message.content == "72"
        with pytest.raises(openai.AuthenticationError) as caught:
            chat(client("wrong-key-12345"))
        assert caught.value.code == "invalid_api_key" and caught.value.request_id


def test_retries_wait_as_long_as_told(tmp_path):
    """The limit of requests a second: refused without retries; with them, the package waits and gets through."""
    with Server(tmp_path, "--rate-limit", "2") as server:
        def client(retries):
            return openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=retries)
        hasty, patient = client(0), client(3)
        with pytest.raises(openai.RateLimitError) as caught:
            for _ in range(20):
                chat(hasty)
        assert caught.value.code == "rate_limited"
        wait_ms = int(caught.value.response.headers["retry-after-ms"])
        assert 0 < wait_ms <= 500
        raw = patient.chat.completions.with_raw_response.create(model=MODEL, messages=messages())
        assert raw.parse().choices[0].message.content == "72" and raw.retries_taken >= 1


def test_a_full_queue(tmp_path):
    with Server(tmp_path, "--queue-requests", "0", "--sequences", "1") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0)
        stream = chat(client, "Once", stream=True, max_tokens=1900, extra_body={"ignore_eos": True})
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            chat(client)
        assert caught.value.code == "queue_full" and int(caught.value.response.headers["retry-after"]) >= 1
        stream.close()
        assert eventually(lambda: server.stats()["calls"] == 0)
        assert chat(client).choices[0].message.content == "72"


def test_raw_responses_carry_request_ids(client):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages())
    assert raw.request_id.startswith("req-") and raw.parse()._request_id == raw.request_id
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages(),
                                                           extra_headers={"x-request-id": "mine-1"})
    assert raw.request_id == "mine-1"


def test_an_error_in_a_stream_is_raised(client):
    stream = client.with_options(timeout=60).chat.completions.create(
        model=MODEL, messages=messages("Once"), stream=True, max_tokens=1900, n=8, extra_body={"ignore_eos": True},
        extra_headers={"x-request-timeout-ms": "400"})  # 15,200 tokens: more than any machine makes in that time
    with pytest.raises(openai.APIError) as caught:
        for _ in stream:
            pass
    assert caught.value.code == "timeout"


def test_a_stream_that_is_closed_frees_the_engine(client, server):
    stream = chat(client, "Once", stream=True, max_tokens=1900, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert server.metrics()["num_requests_running"] == 1
    stream.close()
    server.wait_idle()


SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"],
          "additionalProperties": False}


def test_response_format_json_schema(client):
    answer = chat(client, max_tokens=64, response_format={
        "type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True}})
    if answer.choices[0].finish_reason == "stop":
        found = json.loads(answer.choices[0].message.content)
        assert set(found) == {"sum"} and isinstance(found["sum"], int)
