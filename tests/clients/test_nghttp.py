"""nghttp shows the frames; h2load counts what comes back of many calls at once."""

import json
import re
import subprocess

import pytest

from harness import CHAT, messages


@pytest.fixture
def body(tmp_path):
    path = tmp_path / "body.json"
    path.write_text(json.dumps({"messages": messages(), "max_tokens": 8, "stream": True}))
    return path


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


WAYS = {"h2c": ("-p", "h2c"), "h1": ("--h1",), "tls-h2": (), "tls-h1": ("--h1",)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("calls, connections, streams", [(40, 1, 1), (300, 8, 10)])
def test_h2load(server, tls_server, body, way, calls, connections, streams):
    target = tls_server if way.startswith("tls") else server
    output = run("h2load", "-n", calls, "-c", connections, "-m", streams, "-d", body, "-H",
                 "content-type: application/json", *WAYS[way], target.url + CHAT)
    assert f"requests: {calls} total, {calls} started, {calls} done, {calls} succeeded, 0 failed, 0 errored, 0 timeout" \
        in output, output
    assert f"status codes: {calls} 2xx, 0 3xx, 0 4xx, 0 5xx" in output, output
    target.check_well()


def test_frames_of_a_stream(server, body):
    output = run("nghttp", "-v", "-d", body, "-H", "content-type: application/json", server.url + CHAT)
    received = [line for line in output.splitlines() if "recv " in line]
    settings = output[output.index("recv SETTINGS"):]
    assert re.search(r"SETTINGS_MAX_CONCURRENT_STREAMS\(0x03\):100", settings), settings[:600]
    assert re.search(r"recv \(stream_id=\d+\) :status: 200", output)
    assert re.search(r"recv \(stream_id=\d+\) content-type: text/event-stream", output)
    data = [line for line in received if "DATA frame" in line]
    assert 1 <= len(data) <= 3, data  # one for each step of the engine that was not sent with the one before
    assert "flags=0x01" in data[-1]  # END_STREAM
    assert not any("RST_STREAM" in line for line in received)
    assert "data: [DONE]" in output


def test_frames_of_a_refusal(server, tmp_path):
    """The answer comes before the body is sent, and the body is not asked for."""
    large = tmp_path / "large"
    large.write_bytes(b"x" * (2 << 20))
    output = run("nghttp", "-v", "-d", large, server.url + "/nowhere")
    assert re.search(r"recv \(stream_id=\d+\) :status: 404", output)
    assert "error_code=NO_ERROR" in output, output[-2000:]
    sent = sum(int(length) for length in re.findall(r"send DATA frame <length=(\d+)", output))
    assert sent <= 1 << 20  # what may be under way before the answer is there
    server.check_well()
