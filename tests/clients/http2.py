"""HTTP/2 in the hand: a client that shows what comes back, on the package h2, and one that sends any frame at all.

(httpx never resets a stream that its caller gives up, and nothing that is well behaved sends what an attacker does.)
"""

import contextlib
import json
import socket
import ssl
import struct

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack

from harness import send_all

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
ENHANCE_YOUR_CALM = 11


def open_socket(server, timeout=20.0):
    plain = server.socket(timeout)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not server.tls:
        return plain
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2"])
    wrapped = context.wrap_socket(plain)
    assert wrapped.selected_alpn_protocol() == "h2"
    return wrapped


def post_headers(path, length=None):
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path),
               ("content-type", "application/json")]
    return headers + ([("content-length", str(length))] if length is not None else [])


class Http2Client:
    """Follows the rules. events() is everything that came since it was last asked."""

    def __init__(self, server, timeout=20.0):
        self.socket = open_socket(server, timeout)
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.state.initiate_connection()
        self.unread = b""
        self.goaways = []  # the error codes of those that came
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.state.data_to_send())

    def post(self, path, request):
        stream = self.state.get_next_available_stream_id()
        self.state.send_headers(stream, post_headers(path))
        self.state.send_data(stream, json.dumps(request).encode(), end_stream=True)
        self.flush()
        return stream

    def reset(self, stream):
        self.state.reset_stream(stream, 8)  # CANCEL
        self.flush()

    def without_goaways(self, data):
        """The whole frames of `data` and of what was left before it. GOAWAY is kept from h2: it takes it for the end, but
        the streams that are under way go on."""
        self.unread += data
        frames = b""
        while len(self.unread) >= 9 and len(self.unread) >= (end := 9 + int.from_bytes(self.unread[:3], "big")):
            if self.unread[3] == GOAWAY:
                self.goaways.append(struct.unpack(">I", self.unread[13:17])[0])
            else:
                frames += self.unread[:end]
            self.unread = self.unread[end:]
        return frames

    def events(self):
        """Waits for something; an empty list is the end of the connection."""
        found = []
        while not found:
            data = self.socket.recv(65536)
            if not data:
                return []
            found = self.state.receive_data(self.without_goaways(data))
            for event in found:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.state.increment_flow_control_window(event.flow_controlled_length)
                    # The stream may end in the same bytes, and then has no window any more.
                    with contextlib.suppress(h2.exceptions.StreamClosedError):
                        self.state.increment_flow_control_window(event.flow_controlled_length, event.stream_id)
            self.flush()
        return found

    def wait_for(self, kind, stream=None):
        """The first event of that kind, of that stream if one is named; those before it are dropped."""
        while batch := self.events():
            for event in batch:
                if isinstance(event, kind) and (stream is None or event.stream_id == stream):
                    return event
        raise AssertionError(f"the connection ended without {kind.__name__}")

    def read_to_end(self, streams):
        """({stream: body}, other events), once each of the streams has ended."""
        bodies, others, left = {stream: b"" for stream in streams}, [], set(streams)
        while left and (batch := self.events()):
            for event in batch:
                if isinstance(event, h2.events.DataReceived) and event.stream_id in bodies:
                    bodies[event.stream_id] += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    left.discard(event.stream_id)
                else:
                    others.append(event)
        assert not left, others
        return {stream: body.decode() for stream, body in bodies.items()}, others


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class RawHttp2:
    """Sends frames, whatever they are; and reads what the server thinks of them."""

    def __init__(self, server, timeout=20.0):
        self.socket = open_socket(server, timeout)
        self.encoder = hpack.Encoder()
        self.socket.sendall(PREFACE + frame(SETTINGS))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        return send_all(self.socket, data)

    def head(self, stream, headers, flags=END_HEADERS):
        return frame(HEADERS, flags, stream, self.encoder.encode(headers))

    def get(self, stream, path="/v1/models", flags=END_HEADERS | END_STREAM):
        return self.head(stream, [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"),
                                  (":path", path)], flags)

    def frames(self):
        """What comes until the server closes: [(kind, flags, stream, payload)]."""
        data, found = b"", []
        try:
            while piece := self.socket.recv(65536):
                data += piece
        except (ConnectionError, ssl.SSLError):
            pass
        while len(data) >= 9:
            length = int.from_bytes(data[:3], "big")
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:9 + length]))
            data = data[9 + length:]
        return found

    def goaway(self):
        """The error code that the server closed the connection with; None if it closed without a word."""
        codes = [struct.unpack(">I", payload[4:8])[0] for kind, _, _, payload in self.frames() if kind == GOAWAY]
        return codes[-1] if codes else None
