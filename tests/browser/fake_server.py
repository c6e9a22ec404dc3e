#!/usr/bin/env python3
"""A server that answers as Tandem does, for the page's tests: the page's own files, and answers made up on the spot.

What the last message says chooses the answer: "slow" a long one, "think" one with reasoning, "xss" hostile text,
"break" an error in mid-stream, "busy" a refusal; anything else some Markdown. Events are cut where TCP might cut them.
"""
import argparse
import http.server
import json
import math
import pathlib
import random
import threading
import time

PAGE = pathlib.Path(__file__).resolve().parents[2] / "src/server/page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
       "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")

XSS = ('<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>\n\n'
       "[click](javascript:window.hacked=3) ![i](http://203.0.113.1/x.png) <svg onload=alert(1)>\n\n"
       "`</code><script>window.hacked=4</script>`\n\n```html\n<iframe srcdoc=\"<script>parent.hacked=5</script>\">\n```\n")

MARKDOWN = """## A small tour

Text with **bold**, *italic*, ~~struck~~ and `inline code`, and a [link](https://example.com/a?b=c).

1. First, with a list inside
   - one
   - two, *slanted*
2. Second

```python
def fib(n):
    a, b = 0, 1
    while n > 0:
        a, b, n = b, a + b, n - 1
    return a
```

> A quotation, 2 * 3 * 4 = 24, snake_case_name.

| what | how much |
|------|----------|
| tokens | **128** |
| café 🐱 | 3.5 |

That is all.
"""
BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]


class State:
    def __init__(self):
        self.lock = threading.Lock()
        self.running = self.tokens = 0
        self.histograms = {"time_to_first_token_seconds": [0] * (len(BOUNDS) + 1),
                           "inter_token_latency_seconds": [0] * (len(BOUNDS) + 1)}

    def observe(self, name, value):
        with self.lock:
            self.histograms[name][sum(value > bound for bound in BOUNDS)] += 1

    def add(self, running=0, tokens=0):
        with self.lock:
            self.running += running
            self.tokens += tokens

    def text(self):
        with self.lock:
            label = '{model_name="fake \\"7b\\" {x} 1"}'
            lines = [f"# TYPE tandem:generation_tokens_total counter",
                     f"tandem:generation_tokens_total{label} {self.tokens}",
                     f"tandem:num_requests_running{label} {self.running}",
                     f"tandem:num_requests_waiting{label} {max(0, self.running - 2)}",
                     f"tandem:kv_cache_usage_perc{label} {min(1, 0.02 + 0.17 * self.running)}"]
            for name, counts in self.histograms.items():
                total = 0
                for bound, count in zip([*BOUNDS, "+Inf"], counts):
                    total += count
                    lines.append(f'tandem:{name}_bucket{label[:-1]},le="{bound}"}} {total}')
                lines.append(f"tandem:{name}_count{label} {total}")
            return "\n".join(lines) + "\n"


def pieces_of(text):
    """The text as a tokenizer might cut it."""
    at = 0
    while at < len(text):
        end = at + 1
        while end < len(text) and text[end] not in " \n|`*" and end - at < 7:
            end += 1
        yield text[at:end]
        at = end


def answer_to(message):
    """(reasoning, text, seconds between tokens)"""
    if "slow" in message:
        return "", " ".join(f"word{i}" for i in range(5000)), 0.01
    if "xss" in message:
        return "<img src=x onerror=window.hacked=6>", XSS, 0.002
    if "think" in message:
        return "The user asks. I should <b>think</b>.\nThen answer.", "Forty-two.", 0.02
    return "", MARKDOWN, 0.004


def logprob_of(token, generator):
    share = generator.choice([0.99, 0.97, 0.95, 0.9, 0.7, 0.5, 0.25, 0.08, 0.01])
    top = [{"token": token, "logprob": math.log(share), "bytes": list(token.encode())}]
    for other in [" the", " a", "\n", "ing", " cat"][:4]:
        share = (1 - share) / 2
        top.append({"token": other, "logprob": math.log(share), "bytes": list(other.encode())})
    return {**top[0], "top_logprobs": sorted(top, key=lambda entry: -entry["logprob"])}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, content_type, body, headers=()):
        self.send_response(status)
        for name, value in [("content-type", content_type), ("content-length", str(len(body))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def reply_error(self, status, message, kind="invalid_request_error"):
        body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
        self.reply(status, "application/json", json.dumps(body).encode())

    def allowed(self):
        key = self.server.key
        if key is None or self.headers.get("authorization") == f"Bearer {key}":
            return True
        self.reply_error(401, "no API key, or a wrong one: send authorization: Bearer KEY", "authentication_error")
        return False

    def do_GET(self):
        name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
        file = PAGE / name
        if "/" not in name and file.suffix in TYPES and file.is_file():
            return self.reply(200, TYPES[file.suffix], file.read_bytes(),
                              [("content-security-policy", CSP), ("cache-control", "no-cache")])
        if not self.allowed():
            return None
        if self.path == "/v1/models":
            body = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]}
            return self.reply(200, "application/json", json.dumps(body).encode())
        if self.path == "/metrics":
            return self.reply(200, "text/plain; version=0.0.4", self.server.state.text().encode())
        return self.reply_error(404, f"no such route: GET {self.path}")

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.allowed():
            return
        self.server.requests.append(request)
        message = request["messages"][-1]["content"]
        if "busy" in message:
            return self.reply_error(429, "the queue is full: try again in 2 s", "rate_limit_error")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("connection", "close")
        self.end_headers()
        self.server.state.add(running=1)
        try:
            self.stream(request, message)
        except OSError:
            pass  # the client is gone
        finally:
            self.server.state.add(running=-1)
            self.close_connection = True

    def stream(self, request, message):
        generator = random.Random(1)
        state, began = self.server.state, time.monotonic()
        reasoning, text, pause = answer_to(message)
        tokens = [("reasoning", piece) for piece in pieces_of(reasoning)] + [("content", piece) for piece in pieces_of(text)]
        tokens = tokens[: request.get("max_tokens", len(tokens))]
        held = b""
        for i, (field, piece) in enumerate([("role", "assistant"), *tokens]):
            choice = {"index": 0, "delta": {field: piece}, "finish_reason": None}
            if request.get("logprobs") and i > 0:
                choice["logprobs"] = {"content": [logprob_of(piece, generator)]}
            if "break" in message and i == 20:
                self.wfile.write(held + b'data: {"error":{"message":"the engine has failed","type":"server_error"}}\n\n')
                return
            end = generator.choice(["\n", "\r\n"])
            event = f": ping{end}data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}{end}{end}".encode()
            cut = generator.randrange(len(event))
            self.wfile.write(held + event[:cut])  # the rest waits for the next event
            held = event[cut:]
            time.sleep(0.15 if i == 0 else pause)
            if i > 0:
                state.add(tokens=1)
                state.observe("inter_token_latency_seconds" if i > 1 else "time_to_first_token_seconds",
                              pause if i > 1 else time.monotonic() - began)
        usage = {"prompt_tokens": 12, "completion_tokens": len(tokens), "total_tokens": 12 + len(tokens)}
        finish = "length" if "max_tokens" in request else "stop"
        for chunk in ({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}, {"choices": [], "usage": usage}):
            held += f"data: {json.dumps(chunk)}\n\n".encode()
        self.wfile.write(held + b"data: [DONE]\n\n")


def start(port=0, key=None, models=("fake-7b",)):
    """Starts it on a thread of its own. `requests` of what comes back are the bodies it was sent."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.key, server.models, server.state, server.requests = key, models, State(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--key")
    flags = parser.parse_args()
    print(start(flags.port, flags.key).url, flush=True)
    threading.Event().wait()
