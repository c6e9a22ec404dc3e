#!/usr/bin/env python3
"""Streams over HTTP: starts `tandem serve`, then has so many clients stream a completion each, all at once.

    bench/serve/streams.py [--tandem PROGRAM] [--clients 1,16,64] [--prompt-tokens N] [--output-tokens N] [--json FILE]
                           [FLAGS of tandem serve]

As a client sees it: time to the first token and between tokens (ms, p50 / p99), output tokens/s from the first request
to the last token. Prompts are random token ids, none of them seen before; a connection (HTTP/1.1) for each stream, on
loopback. `tandem bench` has the same without a server. The clients are processes on half of the cores, which they take
from the server where cores are few. Fails if a stream ends without all of its tokens.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import queue
import random
import re
import subprocess
import sys
import threading
import time

READY = re.compile(r"API +http://([^:]+):(\d+)/v1")


async def stream(address, request):
    """When the request was sent, and when each token had come; an error's text if not all did."""
    reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
    body = json.dumps(request).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: application/json\r\n"
    sent = time.monotonic()
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        status = (await reader.readline()).decode().strip()
        if " 200 " not in status:
            text = (await reader.read(1000)).decode()
            return sent, [], f"the server answers {status or 'nothing'}: {text.rpartition(chr(10))[2]}"
        times = []
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                break
            if not line.startswith(b"data: "):
                continue
            now, event = time.monotonic(), json.loads(line[6:])
            if "error" in event:
                return sent, [], f"the server ends a stream: {event['error']}"
            times += [now] * len(event["choices"][0].get("token_ids") or [])
    except ConnectionError as error:
        return sent, [], f"the server ends a connection: {error}"
    writer.close()
    wanted = request["max_tokens"]
    return sent, times, None if len(times) == wanted else f"a stream ends after {len(times)} of {wanted} tokens"


def client(address, requests, results):
    async def all_of_them():
        return await asyncio.gather(*(stream(address, request) for request in requests))

    results.put(asyncio.run(all_of_them()))


def streams_of(address, requests):
    count = max(1, min(len(requests), (os.cpu_count() or 2) // 2))
    results = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=client, args=(address, requests[i::count], results), daemon=True)
        for i in range(count)
    ]
    for process in processes:
        process.start()
    streams = []
    for _ in processes:
        while True:
            try:
                streams += results.get(timeout=1)
                break
            except queue.Empty:
                if any(process.exitcode for process in processes):
                    sys.exit("a client's process has failed: see above")
    failed = [error for _, _, error in streams if error]
    if failed:
        sys.exit(f"{len(failed)} of {len(requests)} streams failed; the first: {failed[0]}")
    return streams


def measure(address, options, clients, draw):
    streams = streams_of(address, [
        {"prompt": [draw.randrange(32, 232) for _ in range(options.prompt_tokens)], "temperature": 0, "stream": True,
         "max_tokens": options.output_tokens, "ignore_eos": True, "return_token_ids": True}
        for _ in range(clients)
    ])
    first = sorted(1e3 * (times[0] - sent) for sent, times, _ in streams)
    gaps = sorted(1e3 * (b - a) for _, times, _ in streams for a, b in zip(times, times[1:]))
    seconds = max(times[-1] for _, times, _ in streams) - min(sent for sent, _, _ in streams)

    def at(sorted_values, share):
        return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))] if sorted_values else None

    return {"clients": clients, "prompt_tokens": options.prompt_tokens, "output_tokens": options.output_tokens,
            "first_token_ms_p50": at(first, 0.5), "first_token_ms_p99": at(first, 0.99),
            "between_tokens_ms_p50": at(gaps, 0.5), "between_tokens_ms_p99": at(gaps, 0.99),
            "output_tokens_per_s": sum(len(times) for _, times, _ in streams) / seconds}


def line_of(row):
    def pair(name):
        low, high = row[f"{name}_ms_p50"], row[f"{name}_ms_p99"]
        return f"{low:8.2f} / {high:8.2f}" if low is not None else "-"

    return (f"{row['clients']:7} {row['prompt_tokens']:5} {row['output_tokens']:5} | {pair('first_token'):>19} | "
            f"{pair('between_tokens'):>19} | {row['output_tokens_per_s']:8.1f}")


def start(options, flags):
    """The server, its address once it is ready, and a list to which what it says from then on is added."""
    defaults = {"--port": "0", "--control": "off", "--max-connections": "10000", "--max-connections-per-peer": "10000"}
    given = {flag.partition("=")[0] for flag in flags}
    command = [options.tandem, "serve", *flags]
    for flag, value in defaults.items():
        if flag not in given:
            command += [flag, value]
    try:
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        sys.exit(f"{options.tandem}: {error.strerror}; --tandem names the program")
    said, address = "", None
    for line in server.stderr:
        said += line
        if found := READY.search(line):
            address = found[1], int(found[2])
        if line.startswith("ready"):
            break
    if address is None:
        server.terminate()
        sys.exit(f"no server that answers http (https is not measured):\n{said}")
    later = []
    threading.Thread(target=lambda: later.extend(server.stderr), daemon=True).start()
    return server, address, later


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", default="build/release/src/cli/tandem")
    parser.add_argument("--clients", default="1,16,64", type=lambda text: [int(each) for each in text.split(",")])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--json", help="the numbers, a line each")
    options, flags = parser.parse_known_args()
    server, address, said = start(options, flags)
    draw, is_done = random.Random(1), False
    try:
        print(f"{'clients':>7} {'in':>5} {'out':>5} | {'first token, ms':>19} | {'between tokens, ms':>19} | tokens/s")
        measure(address, options, 1, draw)  # what is loaded and captured when first used
        for clients in options.clients:
            row = measure(address, options, clients, draw)
            print(line_of(row), flush=True)
            if options.json:
                with open(options.json, "a") as out:
                    out.write(json.dumps(row) + "\n")
        is_done = True
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        server.terminate()
        server.wait()
        if not is_done:
            sys.stderr.writelines(["the server said:\n", *said])
    return 0


if __name__ == "__main__":
    sys.exit(main())
