"""The same bytes whoever asks: `tandem generate`, a whole answer, a stream, HTTP/1.1, HTTP/2, alone or in company, with
the prompt in the prefix cache or not."""

import asyncio
import json

import httpx
import pytest

import sse
from harness import CHAT, DEVICE, Server, long_request, messages, run_tandem

PROMPTS = ["What is 27 + 45?", "Tell me a story about a fox.", "Was ist das? äöü 😀", "List three colours.\n\nPlease.",
           "word " * 200 + "What comes next?", "x"]
CASES = [(prompt, settings) for prompt in PROMPTS for settings in (
    {"temperature": 0.7, "seed": 1}, {"temperature": 1.3, "seed": 12345678901, "top_p": 0.9},
    {"temperature": 1.0, "seed": 3, "top_k": 20, "repetition_penalty": 1.2})]
MAX_TOKENS = 32


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What `generate` says of each case, and that --input says the same."""
    folder = tmp_path_factory.mktemp("generate")
    found = []
    for prompt, settings in CASES:
        flags = [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), value)]
        run = run_tandem(folder, "generate", "--chat", "--json", "-p", prompt, "--max-tokens", MAX_TOKENS, *flags)
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout)["text"])
    assert len(set(found)) > len(CASES) // 2
    return found


async def in_company(server, count, work):
    """Runs work() while `count` other generations run."""
    tokens = 1500 if DEVICE else 200  # that most of them run at once
    async with httpx.AsyncClient(base_url=server.url, verify=False, timeout=120) as client:
        async def other(seed):
            while True:
                await client.post(CHAT, json=long_request(seed=seed, max_tokens=tokens + seed,
                                                          messages=messages(PROMPTS[seed % len(PROMPTS)])))
        others = [asyncio.create_task(other(i)) for i in range(count)]
        try:
            while server.metrics()["num_requests_running"] < count * 0.8:
                await asyncio.sleep(0.01)
            return await work()
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)


async def ask(client, case, stream):
    prompt, settings = case
    response = await client.post(CHAT, json={"messages": messages(prompt), "max_tokens": MAX_TOKENS, "stream": stream,
                                             **settings})
    assert response.status_code == 200, response.text
    if stream:
        return sse.check_chunks(sse.chunks(response.text), "chat.completion.chunk")[0]
    return response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no-cache"])
def test_every_way_says_the_same(tmp_path, certificate, expected, http2, cache):
    flags = ["--tls-cert", certificate[0], "--tls-key", certificate[1]] if http2 else []
    flags += [] if cache else ["--no-prefix-cache"]
    with Server(tmp_path, *flags) as server:
        async def work():
            async with httpx.AsyncClient(base_url=server.url, http2=http2, http1=not http2, verify=False,
                                         timeout=120) as client:
                for stream in (True, False, True):  # with the cache, what comes later hits it
                    found = await asyncio.gather(*(ask(client, case, stream) for case in CASES))
                    assert list(found) == expected
        asyncio.run(in_company(server, 30, work))
        hits = server.metrics()["prefix_cache_hits_total"]
        assert hits > 400 if cache else hits == 0
        server.wait_idle()
