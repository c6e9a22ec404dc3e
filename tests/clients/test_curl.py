"""curl, in every way that it can reach the server."""

import json
import os
import re
import stat
import subprocess

import pytest

import sse
from harness import CHAT, Server, curl, eventually, long_request, make_certificate, messages

BODY = json.dumps({"messages": messages(), "max_tokens": 8})
STREAM = json.dumps({"messages": messages(), "max_tokens": 8, "stream": True})
WAYS = {
    "h1": ("--http1.1", "1.1", False),
    "h2c": ("--http2-prior-knowledge", "2", False),
    "tls-h1": ("--http1.1", "1.1", True),
    "tls-h2": ("--http2", "2", True),
}


@pytest.fixture(params=WAYS)
def way(request, server, tls_server, certificate):
    """A function that calls curl, and the version of HTTP that it should come to."""
    flag, version, tls = WAYS[request.param]
    url = (tls_server if tls else server).url
    flags = [flag, "--cacert", certificate[0]] if tls else [flag]
    return lambda path, *more, **options: curl(*flags, *more, url + path, **options), version


def test_a_whole_answer(way):
    call, version = way
    output = call(CHAT, "-d", BODY, "-w", "\n%{http_version} %{http_code} %{content_type}").stdout
    body, line = output.rsplit("\n", 1)
    assert line == f"{version} 200 application/json"
    assert json.loads(body)["choices"][0]["message"]["content"] == "72"


def test_a_stream(way):
    call, version = way
    output = call(CHAT, "-N", "-d", STREAM, "-D", "-").stdout
    head, body = re.split(r"\r\n\r\n", output, maxsplit=1)
    assert head.startswith("HTTP/" + version)
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache" and headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"].startswith("req-")
    assert ("transfer-encoding" in headers) == (version == "1.1")
    assert sse.check_chunks(sse.chunks(body), "chat.completion.chunk") == ["72"]


def test_expect_continue_with_a_large_body(way):
    call, _ = way
    text = json.dumps({"content": "word " * (400 << 10)})
    assert len(text) > 2_000_000
    output = call("/tokenize", "-H", "Expect: 100-continue", "--expect100-timeout", "30", "-d", "@-", "-v",
                  stdin=text)
    assert len(json.loads(output.stdout)["tokens"]) > 100_000
    assert re.search(r"< HTTP/\S+ 100", output.stderr), output.stderr


def test_head_has_the_length_and_no_body(way):
    call, _ = way
    whole = call("/v1/models").stdout
    head = call("/v1/models", "--head").stdout
    assert re.search(rf"(?im)^content-length: {len(whole.encode())}\r$", head), head


def test_errors_are_json_and_name_what_would_work(way):
    call, _ = way
    def error(path, *more):
        body, status = call(path, "-w", "\n%{http_code}", *more).stdout.rsplit("\n", 1)
        return int(status), json.loads(body)["error"]
    assert error("/nowhere")[0] == 404
    assert error(CHAT)[0] == 405
    assert "allow: POST" in call(CHAT, "-D", "-").stdout
    status, found = error(CHAT, "-d", "{")
    assert status == 400 and found["code"] == "invalid_json"
    status, found = error(CHAT, "-d", '{"messages":[]}')
    assert status == 400 and found["param"] == "messages"
    assert error(CHAT, "-d", BODY, "-H", "content-type: text/plain")[0] == 415
    assert error(CHAT, "-d", BODY, "-H", "host: evil.example")[0] == 403
    assert error(CHAT, "-d", BODY, "-H", "origin: https://evil.example")[0] == 403


@pytest.mark.parametrize("flag", ["--http1.1", "--http2"])
def test_requests_share_a_connection(flag, tls_server):
    """Over TLS only: curl 7.88 breaks its own second request with prior knowledge (curl pull request 10643)."""
    url = tls_server.url + "/version"
    run = curl(flag, "-k", "-v", url, url, url)
    assert run.stdout.count('"version"') == 3
    assert len(re.findall("Re-using existing connection", run.stderr)) == 2


def test_alpn(tls_server, certificate):
    """Each side's list, and who gets what."""
    def chosen(*flags):
        run = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{tls_server.port}", "-CAfile",
                              certificate[0], *flags], input=b"", capture_output=True, timeout=30)
        output = run.stdout.decode(errors="replace")  # what the server says in HTTP/2 included
        found = re.search(r"ALPN protocol: (\S+)", output)
        return (found.group(1) if found else None), output
    assert chosen("-alpn", "h2,http/1.1")[0] == "h2"
    assert chosen("-alpn", "http/1.1,h2")[0] == "h2"  # the server prefers it
    assert chosen("-alpn", "http/1.1")[0] == "http/1.1"
    assert chosen()[0] is None
    for old in ("-tls1", "-tls1_1"):
        assert "Cipher is (NONE)" in chosen(old, "-cipher", "DEFAULT@SECLEVEL=0")[1]
    for new in ("-tls1_2", "-tls1_3"):
        assert "Verify return code: 0 (ok)" in chosen(new)[1]


def test_unix_socket(tmp_path):
    path = tmp_path / "public.sock"
    with Server(tmp_path, "--unix-socket", path):
        for flag in ("--http1.1", "--http2-prior-knowledge"):
            answer = curl(flag, "--unix-socket", path, "http://localhost" + CHAT, "-d", BODY).stdout
            assert json.loads(answer)["choices"][0]["message"]["content"] == "72"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_keys_and_their_reload(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# comment\nalice: first-key-12345\nsecond-key-12345\n")
    with Server(tmp_path, "--api-key-file", keys, "--log-requests") as server:
        def status(key, path=CHAT, *more):
            flags = ["-H", f"authorization: Bearer {key}"] if key else []
            return curl("-o", os.devnull, "-w", "%{http_code}", "-d", BODY, *flags, *more, server.url + path).stdout
        assert status(None) == status("wrong-key-12345") == status("") == "401"
        assert status("first-key-12345") == status("second-key-12345") == "200"
        assert status(None, CHAT + "?api_key=first-key-12345") == "401"
        answer = curl("-i", "-d", BODY, server.url + CHAT).stdout
        assert "www-authenticate: bearer" in answer.lower() and "invalid_api_key" in answer
        assert "first-key" not in answer
        assert curl("-o", os.devnull, "-w", "%{http_code}", server.url + "/health").stdout == "200"

        # What is streaming goes on under the old key; new calls need the new one.
        stream = subprocess.Popen(["curl", "-sN", "-H", "authorization: Bearer first-key-12345", "-d",
                                   json.dumps(long_request(stream=True, max_tokens=300)), server.url + CHAT],
                                  stdout=subprocess.PIPE, text=True)
        stream.stdout.readline()
        keys.write_text("third-key-12345\n")
        assert "read again" in server.reload()
        assert status("first-key-12345") == "401" and status("third-key-12345") == "200"
        assert stream.stdout.read().endswith("data: [DONE]\n\n") and stream.wait() == 0

        keys.write_text("short\n")
        assert "keys" in server.reload()
        assert status("third-key-12345") == "200"
        keys.unlink()
        assert "reload failed" in server.reload()
        assert status("third-key-12345") == "200"
        log = server.stderr()
        assert '"key":"alice"' in log and not re.search("(first|second|third|wrong)-key-12345", log)


def test_certificates_and_their_reload(tmp_path):
    certificate, key = make_certificate(tmp_path, "one")
    with Server(tmp_path, "--tls-cert", certificate, "--tls-key", key) as server:
        def subject():
            run = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}"], input=b"",
                                 capture_output=True, timeout=30)
            return re.search(rb"subject=CN = (\w+)", run.stdout).group(1).decode()
        assert subject() == "one"
        stream = subprocess.Popen(["curl", "-skN", "--http2", "-d",
                                   json.dumps(long_request(stream=True, max_tokens=300)), server.url + CHAT],
                                  stdout=subprocess.PIPE, text=True)
        stream.stdout.readline()
        new_certificate, new_key = make_certificate(tmp_path, "two")
        new_certificate.rename(certificate)
        assert "one.key" in server.reload() or "one.crt" in server.stderr()  # the old key does not fit
        assert subject() == "one"
        new_key.rename(key)
        assert "read again" in server.reload()
        assert subject() == "two"
        certificate.write_text("garbage")
        assert "reload failed" in server.reload()
        assert subject() == "two"
        assert stream.stdout.read().endswith("data: [DONE]\n\n") and stream.wait() == 0


def test_control_socket(tmp_path):
    with Server(tmp_path) as server:
        assert stat.S_IMODE(os.stat(server.control).st_mode) == 0o600
        def control(path, *more):
            return json.loads(curl("--unix-socket", server.control, "http://localhost/admin/v1/" + path, *more).stdout)
        assert control("stats")["kv_blocks_free"] == control("stats")["kv_blocks"] > 0
        stream = subprocess.Popen(["curl", "-sN", "-H", "x-request-id: ours", "-d",
                                   json.dumps(long_request(stream=True)), server.url + CHAT],
                                  stdout=subprocess.PIPE, text=True)
        stream.stdout.readline()
        assert control("pause", "-d", "{}")["paused"]
        assert curl("-o", os.devnull, "-w", "%{http_code}", server.url + "/readyz").stdout == "503"
        assert control("weights", "-d", '{"version": 7}')["weights_version"] == 7
        assert not control("resume", "-d", "")["paused"]
        assert control("weights", "-d", '{"version": 8}')["error"]["code"] == "not_paused"
        assert control("weights")["weights_version"] == 7
        assert control("abort", "-d", '{"request_id": "ours"}')["aborting"] == "ours"
        error, before = sse.error_at_the_end(stream.stdout.readline() and stream.stdout.read().lstrip("\n"))
        assert error["code"] == "aborted" and stream.wait() == 0
        assert control("cache/flush", "-d", "")["flushed"]
        assert control("log")["level"] == "warning"
        assert control("log", "-d", '{"level": "error"}')["level"] == "error"
        assert curl("-o", os.devnull, "-w", "%{http_code}", server.url + "/admin/v1/stats").stdout == "404"
        eventually(lambda: control("stats")["calls"] == 0)
    assert not os.path.exists(server.control)
