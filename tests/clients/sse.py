"""Server-sent events: reading them, and what every stream of this API must be."""

import json


def parse(text):
    """[(event name or None, data)], comments left out. Everything else is an error."""
    assert text.endswith("\n\n"), text[-200:]
    events = []
    for block in text[:-2].split("\n\n"):
        name, data = None, None
        for line in block.split("\n"):
            if line.startswith(":"):
                continue
            field, separator, value = line.partition(": ")
            assert separator and field in ("event", "data"), line
            if field == "event":
                name = value
            else:
                assert data is None, block
                data = value
        if data is not None:
            events.append((name, data))
    return events


def chunks(text):
    """The objects of a chat or completion stream, whose last event is [DONE]."""
    events = parse(text)
    assert all(name is None for name, _ in events)
    assert events[-1][1] == "[DONE]", events[-1]
    assert [data for _, data in events].count("[DONE]") == 1
    return [json.loads(data) for _, data in events[:-1]]


def error_at_the_end(text):
    """The error that a stream ends with instead of [DONE], and the chunks before it."""
    objects = [json.loads(data) for _, data in parse(text)]
    assert set(objects[-1]) == {"error"}, objects[-1]
    assert all("error" not in chunk for chunk in objects[:-1])
    return objects[-1]["error"], objects[:-1]


def check_chunks(objects, kind, choices_count=1, usage=False):
    """What holds for the chunks of a complete stream; returns the text of each choice."""
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in objects}) == 1
    assert objects[0]["object"] == kind
    if usage:
        assert all(chunk["usage"] is None for chunk in objects[:-1])
        last = objects.pop()
        assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0, last
        assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    else:
        assert all(chunk.get("usage") is None for chunk in objects)
    texts, finished, roles = [""] * choices_count, [False] * choices_count, [0] * choices_count
    for chunk in objects:
        assert len(chunk["choices"]) == 1, chunk
        choice = chunk["choices"][0]
        index = choice["index"]
        assert not finished[index], "a chunk after its choice's finish_reason"
        if kind == "chat.completion.chunk":
            first = roles[index] == 0
            assert ("role" in choice["delta"]) == first, choice  # in the first of each choice, and only there
            roles[index] += 1
            piece = choice["delta"].get("content", "")
        else:
            piece = choice["text"]
        assert "\ufffd" not in piece
        texts[index] += piece
        finished[index] = choice["finish_reason"] is not None
    assert all(finished), finished
    return texts
