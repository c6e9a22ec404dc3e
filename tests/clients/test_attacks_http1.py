"""What HTTP/1.1 and TLS must survive, over real sockets. Limits in seconds are tried by the C++ tests, under their own
clock; here are those on bytes, and that nothing which is malformed reaches a route or a second request."""

import concurrent.futures
import re
import socket
import struct
import subprocess
import threading
import time

import pytest

from harness import CHAT, MIB, eventually, messages, read_until_closed, send_all

BODY = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":2}'
HOST = b"Host: localhost\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"


def statuses(data):
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", data)]


def raw(server, data):
    """The statuses that come back until the server closes; it must close by itself."""
    with server.socket() as connection:
        send_all(connection, data)
        return statuses(read_until_closed(connection))


SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST " + CHAT.encode() + b" HTTP/1.1\r\n"

MALFORMED = {
    "length and chunks": POST + JSON + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + JSON + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "identity": POST + JSON + b"Transfer-Encoding: identity\r\n\r\n",
    "gzip, chunked": POST + JSON + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + JSON + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "xchunked": POST + JSON + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked with a tab": POST + JSON + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + JSON + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a list of lengths": POST + JSON + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": POST + JSON + b"Content-Length: +5\r\n\r\nhello",
    "a hex length": POST + JSON + b"Content-Length: 0x5\r\n\r\nhello",
    "a negative length": POST + JSON + b"Content-Length: -5\r\n\r\nhello",
    "a length beyond 64 bits": POST + JSON + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "space before colon": POST + JSON + b"Content-Length : 5\r\n\r\nhello",
    "folded line": POST + JSON + b"X-A: 1\r\n Transfer-Encoding: chunked\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "bare carriage return": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "nul": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
    "version 3": b"GET / HTTP/3.0\r\n" + HOST + b"\r\n",
    "version 0.9": b"GET /\r\n\r\n",
    "dots in the path": b"GET /page/../admin/v1/stats HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path beyond ASCII": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "bad chunk size": POST + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk size beyond 64 bits": POST + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
    "chunk longer than it says": POST + JSON + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "no http": b"\x00\x01\x02\x03 what is this\r\n\r\n",
    "half a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
    "a handshake of TLS": b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03" + bytes(240),
}


LARGE = b"Content-Length: 10737418240\r\n"
TOO_MUCH = {
    "a long value": (b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: " + b"a" * (33 << 10) + b"\r\n\r\n", 431),
    "a value of a megabyte": (b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: " + b"a" * MIB + b"\r\n\r\n", 431),
    "a long name": (b"GET / HTTP/1.1\r\n" + HOST + b"X-" + b"a" * (40 << 10) + b"\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: 1\r\n" % i for i in range(101)) + b"\r\n", 431),
    "a long target": (b"GET /" + b"a" * (9 << 10) + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "ten gigabytes": (POST + JSON + LARGE + b"\r\n", 413),
    "ten gigabytes, if that is all right": (POST + JSON + LARGE + b"Expect: 100-continue\r\n\r\n", 413),
}


@pytest.fixture(scope="module")
def refusals(server):
    """The statuses that each of them gets, all sent at once: the server waits a little before it closes."""
    requests = {name: data + SMUGGLED for name, data in MALFORMED.items()}
    requests |= {name: data for name, (data, _) in TOO_MUCH.items()}
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        return dict(zip(requests, pool.map(lambda data: raw(server, data), requests.values())))


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_end_their_connection(refusals, name):
    """One answer, not a good one, and what follows is never read as a request."""
    assert len(refusals[name]) == 1 and refusals[name][0] in (400, 501, 505), refusals[name]


def test_after_all_of_them_the_server_is_well(server, refusals):
    server.check_well()


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_too_much_is_said_to_be(refusals, name):
    """Bodies before they are sent."""
    assert refusals[name] == [TOO_MUCH[name][1]]


def test_a_target_without_end(server):
    with server.socket() as connection:
        assert eventually(lambda: not send_all(connection, b"a" * 65536), 10)
    server.check_well()


def test_a_chunked_body_without_end(server):
    """Refused at the limit, whatever the head left open."""
    chunk = b"100000\r\n" + b"x" * MIB + b"\r\n"
    with server.socket() as connection:
        send_all(connection, POST + JSON + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        while sent < 200 and send_all(connection, chunk):
            sent += 1
        assert 32 <= sent < 200
    server.check_well(rss_growth=128 * MIB)


def test_millions_of_tiny_chunks(server):
    """Chunks of one byte: the overhead is bounded, so the connection ends long before they do."""
    with server.socket() as connection:
        send_all(connection, POST + JSON + b"Transfer-Encoding: chunked\r\n\r\n")
        pieces, sent = b"1\r\nx\r\n" * 10_000, 0
        while sent < 300 and send_all(connection, pieces):
            sent += 1
        assert sent < 300
        assert set(statuses(read_until_closed(connection))) <= {400}
    with server.socket() as connection:
        send_all(connection, POST + JSON + b"Transfer-Encoding: chunked\r\n\r\n1;x=" + b"y" * (64 << 10))
        assert set(statuses(read_until_closed(connection))) <= {400}
    server.check_well()


def test_pipelining(server):
    """Answers come in the order of their requests, however they were cut."""
    one = POST + JSON + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    two = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n"
    last = b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    data = one + two + one + last
    assert raw(server, data) == [200, 404, 200, 200]
    with server.socket() as connection:
        for i in range(0, len(data), 7):
            connection.sendall(data[i:i + 7])
        assert statuses(read_until_closed(connection)) == [200, 404, 200, 200]
    many = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
    assert raw(server, many * 300 + last) == [200] * 301


def test_pipelining_without_reading_is_bounded(server):
    connection = server.socket(timeout=2.0)
    request = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"
    try:
        for _ in range(2000):
            connection.sendall(request * 1000)
    except (TimeoutError, ConnectionError):
        pass  # the server has stopped reading
    else:
        raise AssertionError("the server read two million requests whose answers nobody took")
    server.check_well()
    connection.close()
    server.check_well()


def test_slow_clients_hold_up_nobody(server):
    """Heads and bodies that come a byte at a time, many connections that say nothing."""
    slow = [server.socket() for _ in range(100)]
    for i, connection in enumerate(slow):
        connection.sendall([b"", b"GET / HT", POST + JSON + b"Content-Length: 1000\r\n\r\n{"][i % 3])
    begin = time.monotonic()
    for _ in range(10):
        assert server.get("/livez").status == 200
        for connection in slow[1::3]:
            connection.sendall(b"a")
    assert server.post(CHAT, {"messages": messages()}).status == 200
    assert time.monotonic() - begin < 8  # none of them has timed out yet
    for connection in slow:
        connection.close()
    assert eventually(lambda: server.stats()["connections"] <= 1)
    server.check_well()


def test_connections_beyond_the_limit_of_a_peer(server):
    """The 257th is closed; those before it live, and there is room again once they leave."""
    held = [server.socket() for _ in range(256)]
    assert eventually(lambda: server.stats()["connections"] >= 256)
    refused = server.socket()
    assert read_until_closed(refused) == b""
    held[7].sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
    assert held[7].recv(100).startswith(b"HTTP/1.1 200")
    for connection in [*held, refused]:
        connection.close()
    assert eventually(lambda: server.stats()["connections"] <= 1)
    server.check_well()


def test_a_reader_that_stops_does_not_grow_the_server(server):
    """Its generations go on hold, others run."""
    connection = server.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = (b'{"messages":[{"role":"user","content":"Once"}],"ignore_eos":true,"max_tokens":1900,"stream":true,'
            b'"n":4,"logprobs":true,"top_logprobs":20}')
    connection.sendall(POST + JSON + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    assert eventually(lambda: server.stats()["held"] > 0, 60)
    assert server.post(CHAT, {"messages": messages()}).json["choices"][0]["message"]["content"] == "72"
    connection.close()
    server.check_well()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(range(256)) * 64,
                                     b"\x16\x03\x01" * 999, b"\x16\x03\x03\xff\xff", b"\x15\x03\x01\x00\x02\x02\x28", b"\x00"])
def test_garbage_on_the_port_of_tls(tls_server, garbage):
    with tls_server.socket() as connection:
        send_all(connection, garbage)
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 2" not in read_until_closed(connection)
    assert tls_server.get("/livez").status == 200


def test_garbage_after_the_handshake(tls_server):
    """Records that do not authenticate end their own connection."""
    run = subprocess.run(["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{tls_server.port}"],
                         input=b"\0" * 5000, capture_output=True, timeout=30)
    assert b"200" not in run.stdout
    tls_server.check_well()


def test_disconnect_storm(server):
    """Two hundred clients that leave at any byte, by closing or by reset."""
    def one(i):
        connection = server.socket()
        body = (b'{"messages":[{"role":"user","content":"Once"}],"ignore_eos":true,"max_tokens":1900,"stream":%s,"n":%d}'
                % (b"true" if i % 3 else b"false", 1 + i % 3))
        data = POST + JSON + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        connection.sendall(data[:len(data) - (i % 5 == 0) * (i % len(data))])
        time.sleep(0.003 * (i % 40))
        if i % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by a reset
        connection.close()
    before = server.wait_idle()
    threads = [threading.Thread(target=lambda first=first: [one(i) for i in range(first, 200, 4)]) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = server.wait_idle(30)
    assert after["kv_blocks_free"] == before["kv_blocks_free"] == after["kv_blocks"]
    assert server.metrics()["cancelled_total"] > 50
    server.check_well()
