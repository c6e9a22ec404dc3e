#!/usr/bin/env python3
"""Streams over HTTP: starts `tandem serve`, then has so many clients stream a completion each, all at once.

    bench/serve/streams.py [--tandem PROGRAM] [--clients 1,16,64] [--prompt-tokens N] [--output-tokens N] [--json FILE]
                           [FLAGS of tandem serve]

As a client sees it: time to the first token and between tokens (ms, p50 / p99), output tokens/s from the first request
to the last token. Prompts are random token ids, no two alike; a connection (HTTP/1.1) for each stream, on loopback.
`tandem bench` has the same numbers without the server. The clients are processes on half of the cores, which they take
from the server where cores are few.
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
import time

READY = re.compile(r"API +http://([^:]+):(\d+)/v1")


async def stream(address, request):
    """When the request was sent, and when each piece of its answer had come."""
    reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
    body = json.dumps(request).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: application/json\r\n"
    sent = time.monotonic()
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    status = await reader.readline()
    if b" 200 " not in status:
        sys.exit(f"the server answers {status.decode().strip()}: {(await reader.read(1000)).decode().splitlines()[-1]}")
    times = []
    async for line in reader:
        if line.startswith(b"data: [DONE]"):
            break
        if line.startswith(b"data: "):
            if b'"error"' in line[:16]:
                sys.exit(f"the server ends a stream: {line.decode().strip()}")
            times.append(time.monotonic())
    writer.close()
    return sent, times


def client(address, requests, results):
    async def all_of_them():
        return await asyncio.gather(*(stream(address, request) for request in requests))

    results.put(asyncio.run(all_of_them()))


def measure(address, options, clients):
    draw = random.Random(clients)
    requests = [
        {"prompt": [draw.randrange(32, 232) for _ in range(options.prompt_tokens)], "temperature": 0, "stream": True,
         "max_tokens": options.output_tokens, "ignore_eos": True}
        for _ in range(clients)
    ]
    count = max(1, min(clients, (os.cpu_count() or 2) // 2))
    results = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=client, args=(address, requests[i::count], results)) for i in range(count)
    ]
    for process in processes:
        process.start()
    streams = []
    for process in processes:  # each gives one result, or has ended with an error
        while True:
            try:
                streams += results.get(timeout=1)
                break
            except queue.Empty:
                if any(each.exitcode for each in processes):
                    sys.exit(1)
    for process in processes:
        process.join()
    first = sorted(1e3 * (times[0] - sent) for sent, times in streams)
    gaps = sorted(1e3 * (b - a) for _, times in streams for a, b in zip(times, times[1:])) or [0.0]
    seconds = max(times[-1] for _, times in streams) - min(sent for sent, _ in streams)

    def at(sorted_values, share):
        return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]

    return {"clients": clients, "prompt_tokens": options.prompt_tokens, "output_tokens": options.output_tokens,
            "first_token_ms_p50": at(first, 0.5), "first_token_ms_p99": at(first, 0.99),
            "between_tokens_ms_p50": at(gaps, 0.5), "between_tokens_ms_p99": at(gaps, 0.99),
            "output_tokens_per_s": clients * options.output_tokens / seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", default="build/release/src/cli/tandem")
    parser.add_argument("--clients", default="1,16,64", type=lambda text: [int(each) for each in text.split(",")])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--json", help="the numbers, a line each")
    options, flags = parser.parse_known_args()
    limits = ["--max-connections", "10000", "--max-connections-per-peer", "10000"]
    server = subprocess.Popen([options.tandem, "serve", "--port", "0", "--control", "off", *limits, *flags],
                              stderr=subprocess.PIPE, text=True)
    try:
        address, said = None, ""
        for line in server.stderr:
            said += line
            if found := READY.search(line):
                address = found[1], int(found[2])
            if line.startswith("ready"):
                break
        if address is None:
            sys.exit(f"the server did not start:\n{said}")
        print(f"{'clients':>7} {'in':>5} {'out':>5} | {'first token, ms':>19} | {'between tokens, ms':>19} | tokens/s")
        measure(address, options, 1)  # what is loaded and captured when first used
        for clients in options.clients:
            row = measure(address, options, clients)
            print(f"{clients:7} {row['prompt_tokens']:5} {row['output_tokens']:5} | {row['first_token_ms_p50']:8.2f} / "
                  f"{row['first_token_ms_p99']:8.2f} | {row['between_tokens_ms_p50']:8.2f} / "
                  f"{row['between_tokens_ms_p99']:8.2f} | {row['output_tokens_per_s']:8.1f}", flush=True)
            if options.json:
                with open(options.json, "a") as out:
                    out.write(json.dumps(row) + "\n")
    finally:
        server.terminate()
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
