"""httpx over HTTP/2 and TLS: many streams of one connection; and clients that leave in the middle."""

import asyncio

import h2.events
import httpx
import pytest

import sse
from harness import CHAT, eventually, long_request, messages
from http2 import Http2Client


def run_with_client(server, work):
    async def run():
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=server.url, http2=True, http1=False, verify=False, timeout=60,
                                     limits=limits) as client:
            return await work(client)
    return asyncio.run(run())


async def text_of(client, request):
    async with client.stream("POST", CHAT, json=request) as response:
        assert response.status_code == 200 and response.http_version == "HTTP/2"
        return "".join([piece async for piece in response.aiter_text()])


def test_many_streams_of_one_connection(tls_server):
    """Each gets its own answer, the one that it gets alone."""
    requests = [{"messages": messages(f"What is {i} + {2 * i}?"), "stream": True, "max_tokens": 12, "temperature": 1,
                 "seed": i} for i in range(60)]
    before = tls_server.metrics()["connections_total"]

    async def all_at_once(client):
        return await asyncio.gather(*(text_of(client, request) for request in requests))

    async def one_by_one(client):
        return [await text_of(client, request) for request in requests]
    together = run_with_client(tls_server, all_at_once)
    assert tls_server.metrics()["connections_total"] - before == 2  # this one, and the one that asks
    alone = run_with_client(tls_server, one_by_one)

    def answers(texts):
        return [sse.check_chunks(sse.chunks(text), "chat.completion.chunk")[0] for text in texts]
    assert answers(together) == answers(alone)
    assert len(set(answers(alone))) > 10
    tls_server.wait_idle()


@pytest.fixture(params=["h2c", "tls"])
def target(request, server, tls_server):
    return server if request.param == "h2c" else tls_server


def running(server):
    return server.metrics()["num_requests_running"]


def test_a_reset_frees_the_engine_and_touches_no_other(target):
    with Http2Client(target) as client:
        kept = client.post(CHAT, long_request(stream=True, max_tokens=700))
        for _ in range(5):
            other = client.post(CHAT, long_request(stream=True, n=2))
            client.wait_for(h2.events.DataReceived, other)
            assert eventually(lambda: running(target) == 3)
            client.reset(other)
            assert eventually(lambda: running(target) <= 1)
        bodies, _ = client.read_to_end([kept])
        assert bodies[kept].endswith("data: [DONE]\n\n")
    target.wait_idle()


def test_resets_before_the_first_token(target):
    """In a worker's hands, queued, in prefill: wherever the moment finds them. (More in a row are taken for a flood.)"""
    with Http2Client(target) as client:
        for i in range(60):
            stream = client.post(CHAT, long_request(stream=bool(i % 3), n=1 + i % 4))
            eventually(lambda: False, 0.001 * (i % 7))
            client.reset(stream)
        last = client.post(CHAT, {"messages": messages(), "stream": True})
        bodies, _ = client.read_to_end([last])
        assert sse.check_chunks(sse.chunks(bodies[last]), "chat.completion.chunk") == ["72"]
    target.wait_idle()


def test_a_client_that_gives_up(tls_server):
    """Its streams end with its connection."""
    with httpx.Client(http2=True, verify=False, timeout=httpx.Timeout(5, read=0.05)) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(tls_server.url + CHAT, json=long_request())
    tls_server.wait_idle(5)
