"""The server's life: what a service manager is told, what ends at SIGTERM and how, and who waits for whom."""

import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time

import h2.events
import pytest

import sse
from harness import CHAT, Server, curl, eventually, exchange, long_request, messages, read_until_closed
from http2 import Http2Client


def begin_stream(server, **fields):
    """A generation over HTTP/1.1 whose first token has come: (connection, response)."""
    connection = server.connection()
    connection.request("POST", CHAT, json.dumps(long_request(stream=True, **fields)))
    response = connection.getresponse()
    assert response.status == 200 and response.readline().startswith(b"data: ")
    return connection, response


def test_sigterm_under_load(tmp_path):
    """What runs ends as it would have; new connections are refused; peers are told; the exit code is 0."""
    with Server(tmp_path) as server:
        idle = server.connection()
        assert exchange(idle, "GET", "/livez").status == 200
        over_h1 = [begin_stream(server, max_tokens=1500, seed=i) for i in range(4)]
        whole = server.connection()
        whole.request("POST", CHAT, json.dumps(long_request(max_tokens=1500)))
        with Http2Client(server) as client:
            streams = [client.post(CHAT, long_request(stream=True, max_tokens=1500, seed=i)) for i in range(4)]
            assert eventually(lambda: server.stats()["calls"] == 9)
            server.send_signal(signal.SIGTERM)
            assert eventually(lambda: "finishing the calls" in server.stderr())

            def refused():
                try:
                    with server.socket():
                        return False
                except ConnectionRefusedError:
                    return True
            assert eventually(refused)
            assert idle.sock.recv(1) == b""  # an idle connection is closed at once
            bodies, _ = client.read_to_end(streams)
            for body in bodies.values():
                assert sse.chunks(body)[-1]["choices"][0]["finish_reason"] == "length"
            while client.events():  # until the server closes
                pass
            assert client.goaways and set(client.goaways) == {0}
        for connection, response in over_h1:
            assert sse.chunks(response.read().decode().lstrip("\n"))[-1]["choices"][0]["finish_reason"] == "length"
        answer = whole.getresponse()
        assert answer.status == 200 and answer.getheader("connection") == "close"
        assert server.wait_exit() == 0
        assert not os.path.exists(server.control)


def test_new_calls_while_draining(tmp_path):
    """On a connection that is there already they are refused and may be retried elsewhere; what runs goes on."""
    with Server(tmp_path) as server:
        with Http2Client(server) as client:
            stream = client.post(CHAT, long_request(stream=True, max_tokens=300))
            client.wait_for(h2.events.DataReceived, stream)
            assert server.stats()["draining"] is False
            server.send_signal(signal.SIGTERM)
            assert eventually(lambda: "finishing the calls" in server.stderr())
            late = client.post(CHAT, long_request(stream=True))
            outcome = {}
            while not {late, stream} <= set(outcome) and (batch := client.events()):
                for event in batch:
                    if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                        outcome[event.stream_id] = event
            assert isinstance(outcome[stream], h2.events.StreamEnded)
        assert server.wait_exit() == 0


def test_a_second_signal_ends_what_runs(tmp_path):
    with Server(tmp_path) as server:
        _, response = begin_stream(server)
        server.send_signal(signal.SIGTERM)
        assert eventually(lambda: "finishing the calls" in server.stderr())
        server.send_signal(signal.SIGTERM)
        error, _ = sse.error_at_the_end(response.read().decode().lstrip("\n"))
        assert error["type"] == "unavailable_error" and "shutting down" in error["message"]
        assert server.wait_exit(10) == 0


def test_the_time_to_drain_is_bounded(tmp_path):
    with Server(tmp_path, "--drain-timeout", "0.3") as server:
        _, response = begin_stream(server)
        whole = server.connection()
        whole.request("POST", CHAT, json.dumps(long_request()))
        assert eventually(lambda: server.stats()["calls"] == 2)
        server.send_signal(signal.SIGINT)  # Ctrl-C is the same
        error, _ = sse.error_at_the_end(response.read().decode().lstrip("\n"))
        assert error["code"] == "aborted"
        assert whole.getresponse().status == 503
        assert server.wait_exit(10) == 0


def test_service_managers_are_told(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        with Server(tmp_path, env={"NOTIFY_SOCKET": str(path)}) as server:
            assert manager.recv(100) == b"READY=1"
            assert server.get("/readyz").status == 200
            server.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"


def test_exactly_our_ports(tmp_path):
    with Server(tmp_path) as server:
        listing = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        ours = [line.split()[3] for line in listing.splitlines() if f"pid={server.process.pid}," in line]
        assert ours == [f"127.0.0.1:{server.port}"]
        listing = subprocess.run(["ss", "-Hlup"], capture_output=True, text=True, check=True).stdout
        assert f"pid={server.process.pid}," not in listing
        assert stat.S_ISSOCK(os.stat(server.control).st_mode) and stat.S_IMODE(os.stat(server.control).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(server.control)).st_mode) == 0o700


def test_a_control_port_needs_its_own_key(tmp_path):
    keys, control_keys = tmp_path / "keys", tmp_path / "control-keys"
    keys.write_text("public-key-12345\n")
    control_keys.write_text("control-key-12345\n")
    with Server(tmp_path, "--api-key-file", keys, "--control", "127.0.0.1:0", "--control-key-file",
                control_keys) as server:
        def status(key):
            return curl("-o", os.devnull, "-w", "%{http_code}", "-H", f"authorization: Bearer {key}",
                        f"http://{server.control}/admin/v1/stats").stdout
        assert (status("control-key-12345"), status("public-key-12345"), status("")) == ("200", "401", "401")
        assert server.get("/v1/models", {"authorization": "Bearer control-key-12345"}).status == 401


def test_a_large_prompt_delays_nobody(tmp_path):
    """Ten megabytes to tokenize: the tokens of another client's stream keep coming."""
    with Server(tmp_path) as server:
        connection, response = begin_stream(server)
        text = json.dumps({"content": "The quick brown fox. " * (500 << 10)})
        spans = []

        def tokenize():
            begin = time.monotonic()
            answer = server.post("/tokenize", text)
            spans.append((begin, time.monotonic()))
            assert answer.status == 200
        thread = threading.Thread(target=tokenize)
        arrivals = [time.monotonic()]
        thread.start()
        while thread.is_alive() and response.readline():
            arrivals.append(time.monotonic())
        thread.join()
        (begin, end), = spans
        meanwhile = [at for at in arrivals if begin <= at <= end]
        gap = max((b - a for a, b in zip(meanwhile, meanwhile[1:])), default=end - begin)
        # Bound by what else this machine does, not by the prompt: that takes all of the time between begin and end.
        assert len(meanwhile) > 3 and gap < max(1.0, (end - begin) / 2), (gap, end - begin, len(meanwhile))
        connection.close()
        response.close()


def test_half_closed_clients(tmp_path):
    """Whoever shuts its sending side down has usually left; with --half-close it is taken at its word."""
    request = json.dumps({"messages": messages(), "max_tokens": 40, "ignore_eos": True}).encode()
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(request))
    for flags, answered in (((), False), (("--half-close",), True)):
        with Server(tmp_path, *flags) as server:
            with server.socket() as connection:
                connection.sendall(head + request)
                connection.shutdown(socket.SHUT_WR)
                assert read_until_closed(connection).startswith(b"HTTP/1.1 200") == answered
            server.wait_idle()
