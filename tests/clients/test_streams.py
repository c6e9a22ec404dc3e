"""What every stream must be, byte for byte as it arrives: order, roles, ends, usage, errors, comments."""

import json

import pytest

import sse
from harness import CHAT, Server, exchange, long_request, messages
from http2 import Http2Client

COMPLETIONS, RESPONSES = "/v1/completions", "/v1/responses"


@pytest.fixture(params=["h1", "h2"])
def stream_of(request, server):
    """A function that posts and returns the whole text of the stream."""
    def over_h1(path, body, headers=None):
        answer = server.post(path, body, headers)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8", answer.body
        return answer.body.decode()

    def over_h2(path, body, headers=None):
        assert not headers
        with Http2Client(server) as client:
            stream = client.post(path, body)
            return client.read_to_end([stream])[0][stream]
    return over_h1 if request.param == "h1" else over_h2


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("usage", [False, True])
def test_chat(stream_of, server, n, usage):
    request = {"messages": messages("Tell me a story"), "max_tokens": 30, "n": n, "temperature": 1, "seed": 4}
    text = stream_of(CHAT, {**request, "stream": True, **({"stream_options": {"include_usage": True}} if usage else {})})
    texts = sse.check_chunks(sse.chunks(text), "chat.completion.chunk", n, usage)
    whole = server.post(CHAT, request).json
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert len(set(texts)) == n


@pytest.mark.parametrize("prompts", ["One", ["One", "Two"]])
def test_completions(stream_of, server, prompts):
    request = {"prompt": prompts, "max_tokens": 10, "n": 2, "temperature": 1, "seed": 4}
    text = stream_of(COMPLETIONS, {**request, "stream": True, "stream_options": {"include_usage": True}})
    count = 2 if isinstance(prompts, str) else 4
    texts = sse.check_chunks(sse.chunks(text), "text_completion", count, usage=True)
    assert texts == [choice["text"] for choice in server.post(COMPLETIONS, request).json["choices"]]


def test_responses(stream_of):
    events = sse.parse(stream_of(RESPONSES, {"input": "Tell me a story", "max_output_tokens": 20, "stream": True}))
    objects = [json.loads(data) for _, data in events]
    assert [name for name, _ in events] == [event["type"] for event in objects]
    assert [event["sequence_number"] for event in objects] == list(range(len(objects)))
    done = next(event["text"] for event in objects if event["type"] == "response.output_text.done")
    assert done == "".join(event["delta"] for event in objects if event["type"] == "response.output_text.delta")
    final = objects[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == done and final["usage"]["output_tokens"] > 0


def test_characters_are_never_split(stream_of):
    """Tokens that are parts of characters: each event is whole UTF-8, and together they are the answer."""
    text = stream_of(CHAT, {"messages": messages("😀 äöü 漢字 😀"), "max_tokens": 60, "temperature": 2, "seed": 2,
                            "stream": True, "ignore_eos": True, "logprobs": True, "skip_special_tokens": False})
    objects = sse.chunks(text)
    tokens = [token for chunk in objects for token in (chunk["choices"][0].get("logprobs") or {}).get("content", [])]
    assert len(tokens) == 60
    joined = b"".join(bytes(token["bytes"]) for token in tokens).decode(errors="replace")
    content = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in objects)
    assert content == joined


def test_an_error_before_the_stream_is_a_plain_answer(server):
    answer = server.post(CHAT, {"messages": messages("word " * 5000), "stream": True})
    assert answer.status == 400 and answer.headers["content-type"] == "application/json"
    assert answer.error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path, body", [
    (CHAT, long_request(stream=True)), (CHAT, long_request(stream=True, n=3)),
    (COMPLETIONS, {"prompt": "Once", "ignore_eos": True, "max_tokens": 1900, "stream": True})])
def test_an_error_in_the_middle_ends_the_stream(server, path, body):
    answer = server.post(path, body, {"x-request-timeout-ms": "200"})
    if answer.status == 200:
        error, before = sse.error_at_the_end(answer.body.decode())
        assert before and all(choice["finish_reason"] is None for chunk in before for choice in chunk["choices"])
    else:  # a busy machine: not even a first token in that time
        assert answer.status == 408
        error = answer.error
    assert error["code"] == "timeout" and error["type"] == "timeout_error"
    server.wait_idle()


def test_an_error_in_the_middle_of_a_response(server):
    answer = server.post(RESPONSES, {"input": "Once", "max_output_tokens": 1900, "ignore_eos": True, "stream": True},
                         {"x-request-timeout-ms": "200"})
    if answer.status == 200:
        last = json.loads(sse.parse(answer.body.decode())[-1][1])
        assert last["type"] in ("response.failed", "error"), last
    server.wait_idle()


def test_timeouts_of_whole_answers(server):
    answer = server.post(CHAT, long_request(), {"x-request-timeout-ms": "150"})
    assert answer.status == 408 and answer.error["code"] == "timeout"
    for bad in ("0", "-1", "1e3", "", "9" * 30):
        answer = server.post(CHAT, {"messages": messages()}, {"x-request-timeout-ms": bad})
        assert answer.status == 400 and answer.error["param"] == "x-request-timeout-ms", bad


def test_a_silent_stream_gets_comments(tmp_path):
    """Silent because its operator holds the engine."""
    with Server(tmp_path, "--ping", "0.5") as server:
        connection = server.connection()
        server.admin("POST", "pause")
        connection.request("POST", CHAT, json.dumps({"messages": messages(), "stream": True}))
        response = connection.getresponse()
        assert response.readline() == b": ping\n" and response.readline() == b"\n"
        assert response.readline() == b": ping\n" and response.readline() == b"\n"
        server.admin("POST", "resume")
        rest = response.read().decode()
        assert sse.check_chunks(sse.chunks(rest), "chat.completion.chunk") == ["72"]
        connection.close()


def test_a_connection_goes_on_after_a_stream(server):
    connection = server.connection()
    for stream in (True, False, True):
        answer = exchange(connection, "POST", CHAT, {"messages": messages(), "stream": stream})
        assert answer.status == 200 and "connection" not in answer.headers
    connection.close()
