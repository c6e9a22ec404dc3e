"""Frames that cost their sender nothing and the server something, without end: each flood ends its connection with a
GOAWAY, and the server is well afterwards. The bounds are those of the limits' defaults, and what is below them is fine."""

import struct

import hpack
import pytest

import http2
from harness import CHAT, eventually
from http2 import (CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, PRIORITY,
                   RST_STREAM, SETTINGS, WINDOW_UPDATE, RawHttp2, frame, post_headers)

FLOOD = 20_000
CANCEL = struct.pack(">I", 8)


@pytest.fixture(params=["h2c", "tls"])
def target(request, server, tls_server):
    return server if request.param == "h2c" else tls_server


def flood(server, one, setup=None, count=FLOOD):
    """Sends one(i) until the server has had enough; returns the error code of its GOAWAY, and how many were taken."""
    with RawHttp2(server) as client:
        if setup:
            client.send(setup(client))
        sent = 0
        while sent < count and client.send(b"".join(one(client, i) for i in range(sent, sent + 50))):
            sent += 50
        code = client.goaway()
        return code, sent


def streams(i):
    return 2 * i + 1


FLOODS = {
    "rapid reset": lambda c, i: c.get(streams(i)) + frame(RST_STREAM, 0, streams(i), CANCEL),
    "made you reset": lambda c, i: c.get(streams(i)) + frame(WINDOW_UPDATE, 0, streams(i), struct.pack(">I", 0x7fffffff)),
    "length and data differ": lambda c, i: c.head(streams(i), post_headers(CHAT, 5)) + frame(
        DATA, END_STREAM, streams(i), b"x" * 20),
    "trailers without an end": lambda c, i: c.head(streams(i), post_headers(CHAT)) + c.head(streams(i), [("a", "b")]),
    "upper case names": lambda c, i: c.head(streams(i), [*post_headers(CHAT), ("X-A", "b")], END_HEADERS | END_STREAM),
    "no path": lambda c, i: c.head(streams(i), [(":method", "GET"), (":scheme", "http")], END_HEADERS | END_STREAM),
    "ping": lambda c, i: frame(PING, 0, 0, bytes(8)),
    "ping answers": lambda c, i: frame(PING, http2.ACK, 0, bytes(8)),
    "settings": lambda c, i: frame(SETTINGS),
    "settings that change": lambda c, i: frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 60000 + i % 2)),
    "priority": lambda c, i: frame(PRIORITY, 0, streams(i % 100), struct.pack(">IB", 0, 1)),
    "window updates of the connection": lambda c, i: frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
    "unknown frames": lambda c, i: frame(0x77, 0, 0, b"x" * 10),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods(target, name):
    code, _ = flood(target, FLOODS[name])
    # Its own reset may have thrown the GOAWAY away: what counts is that the connection ended.
    assert code in (ENHANCE_YOUR_CALM, 1, None), code
    target.check_well()


@pytest.mark.parametrize("name, data", [("empty", frame(DATA, 0, 1)), ("padding alone", frame(DATA, 8, 1, b"\x09" + bytes(9)))])
def test_floods_of_data_that_holds_nothing(target, name, data):
    code, _ = flood(target, lambda c, i: data, setup=lambda c: c.head(1, post_headers(CHAT)))
    assert code in (ENHANCE_YOUR_CALM, None)
    target.check_well()


def test_generations_under_rapid_reset_are_freed(server):
    """Each reset comes before its generation has begun or shortly after; none is left behind."""
    body = b'{"messages":[{"role":"user","content":"Once"}],"ignore_eos":true,"max_tokens":1900,"n":4}'
    def one(client, i):
        return (client.head(streams(i), post_headers(CHAT)) + frame(DATA, END_STREAM, streams(i), body)
                + frame(RST_STREAM, 0, streams(i), CANCEL))
    code, sent = flood(server, one)
    assert sent < FLOOD and code in (ENHANCE_YOUR_CALM, None)
    server.check_well()


@pytest.mark.parametrize("make_more", [
    lambda i: frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"), lambda i: frame(CONTINUATION, 0, 1),
    lambda i: frame(CONTINUATION, 0, 1, b"\x00\x01a\x7f\xff\x7f" + b"b" * 1000)], ids=["small", "empty", "large"])
def test_heads_without_end(target, make_more):
    def setup(client):
        return frame(HEADERS, END_STREAM, 1, client.encoder.encode(post_headers(CHAT)))
    code, _ = flood(target, lambda c, i: make_more(i), setup)
    assert code in (ENHANCE_YOUR_CALM, 1, None), code
    target.check_well()


def test_compression_bomb(target):
    """Sixteen kilobytes that stand for forty-eight megabytes, on stream after stream: the head is found too large."""
    plain = b"\x82\x86\x01\x09localhost\x04\x0a/v1/models"  # GET http localhost /v1/models
    value = b"v" * 3900
    entry = b"\x40\x01a" + bytes(hpack.hpack.encode_integer(len(value), 7)) + value  # into the table, as number 62
    with RawHttp2(target) as client:
        for stream in range(1, 60, 2):
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, plain + entry + b"\xbe" * 12_000))
        client.send(frame(GOAWAY, 0, 0, bytes(8)))
        decoder = hpack.Decoder()
        heads = [dict(decoder.decode(payload)) for kind, _, _, payload in client.frames() if kind == HEADERS]
    assert heads and all(head[":status"] == "431" for head in heads), heads
    target.check_well()


ENDS_AT_ONCE = {
    "data on stream 0": frame(DATA, 0, 0, b"x"),
    "head on an even stream": frame(HEADERS, END_HEADERS | END_STREAM, 2, b"\x82\x86\x84\x41\x01a"),
    "data on a stream that is not there": frame(DATA, 0, 9, b"x"),
    "a frame beyond its size": struct.pack(">I", 1 << 20)[1:] + b"\0\0\0\0\0\1" + bytes(1 << 16),
    "window update of nothing": frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "window beyond its size": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7fffffff)) * 2,
    "push promise": frame(5, END_HEADERS, 1, struct.pack(">I", 2) + b"\x82"),
    "settings of a wrong length": frame(SETTINGS, 0, 0, b"12345"),
    "settings beyond their range": frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0xffffffff)),
    "garbled compression": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" * 30),
    "continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
    "reset of a stream that is not there": frame(RST_STREAM, 0, 7, CANCEL),
}


@pytest.mark.parametrize("name", ENDS_AT_ONCE)
def test_errors_of_the_connection(target, name):
    with RawHttp2(target) as client:
        client.send(ENDS_AT_ONCE[name])
        assert client.goaway() not in (None, 0)
    assert target.get("/livez").status == 200


def test_streams_beyond_the_limit(server):
    """A hundred are under way; the others are refused, and may be tried again."""
    body = b'{"messages":[{"role":"user","content":"Once"}],"ignore_eos":true,"max_tokens":40,"stream":true}'
    with RawHttp2(server, timeout=60) as client:
        client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)))
        for i in range(150):
            client.send(client.head(streams(i), post_headers(CHAT)))
        for i in range(100):
            client.send(frame(DATA, END_STREAM, streams(i), body))
        assert eventually(lambda: server.stats()["calls"] == 100)
        client.send(frame(GOAWAY, 0, 0, bytes(8)))
        frames = client.frames()
    refused = {stream for kind, _, stream, payload in frames if kind == RST_STREAM and payload == struct.pack(">I", 7)}
    assert refused == {streams(i) for i in range(100, 150)}
    ended = {stream for kind, flags, stream, _ in frames if kind == DATA and flags & END_STREAM}
    assert ended == {streams(i) for i in range(100)}
    server.check_well()


def test_below_the_bounds_nothing_happens(target):
    """What a careful client does now and then."""
    with RawHttp2(target) as client:
        for i in range(100):
            client.send(frame(PING, 0, 0, bytes(8)))
        for i in range(50):
            client.send(client.get(streams(i)) + frame(RST_STREAM, 0, streams(i), CANCEL))
        client.send(client.get(999) + frame(GOAWAY, 0, 0, bytes(8)))
        frames = client.frames()
    assert any(kind == DATA and stream == 999 for kind, _, stream, _ in frames)
    target.check_well()
