"""A `tandem serve` of the release build for one test: started on a free port, watched, and stopped by SIGTERM.

Everything that the tests share is here: the server, its control socket, one plain HTTP/1.1 client, curl, certificates.
TANDEM names another binary than build/release/src/cli/tandem, TANDEM_TEST_DEVICE another device than the CPU.
"""

import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TANDEM = os.environ.get("TANDEM", str(ROOT / "build/release/src/cli/tandem"))
DEVICE = ("--device", os.environ["TANDEM_TEST_DEVICE"]) if "TANDEM_TEST_DEVICE" in os.environ else ()
CHAT = "/v1/chat/completions"
MIB = 1 << 20


def messages(text="What is 27 + 45?"):
    return [{"role": "user", "content": text}]


def long_request(**fields):
    """A generation of seconds, unless somebody ends it."""
    return {"messages": messages("Once"), "ignore_eos": True, "max_tokens": 1900, "temperature": 1, **fields}


def eventually(condition, seconds=20.0):
    """The first true value of `condition()`, which is asked again and again; the last one if the time is over."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return value


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error object, whose shape is always the same."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str) and isinstance(error["type"], str), error
        return error


def exchange(connection, method, path, body=None, headers=None):
    """One request of a connection of http.client; a body that is no text or bytes is sent as JSON."""
    if body is not None and not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    sent = {"content-type": "application/json"} if body is not None else {}
    connection.request(method, path, body, {**sent, **(headers or {})})
    return Answer(connection.getresponse())


def clean_environment(folder, **more):
    """The environment without what would change the server: its variables, and the user's configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TANDEM", "XDG_", "NOTIFY"))}
    return {**kept, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), **more}


def run_tandem(folder, *arguments, env=None, stdin=None):
    """Runs a command to its end."""
    device = DEVICE if arguments[0] in ("generate", "serve") else ()
    return subprocess.run([TANDEM, *map(str, arguments), *device], capture_output=True, text=True, timeout=120,
                          input=stdin, env=clean_environment(folder, **(env or {})))


class Server:
    """Use as `with Server(folder, "--flag", ...) as server`. On leaving, it must exit with 0 after SIGTERM."""

    def __init__(self, folder, *flags, env=None, command=("serve",), port=0):
        self.folder = pathlib.Path(folder)
        self.log = self.folder / f"stderr-{time.monotonic_ns()}.txt"
        arguments = [TANDEM, *command, *DEVICE, *map(str, flags)]
        if port is not None:
            arguments += ["--port", str(port)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=log,
                                            env=clean_environment(self.folder, **(env or {})))
        started = eventually(lambda: "ready in" in self.stderr() or self.process.poll() is not None, 60)
        assert started and self.process.poll() is None, self.stderr()
        self.url = re.search(r"API +(\S+)/v1 ", self.stderr()).group(1)
        self.tls = self.url.startswith("https")
        self.port = int(self.url.rsplit(":", 1)[1])
        control = re.search(r"control +(\S+)", self.stderr())
        self.control = control.group(1) if control else None
        self.rss_begin = self.rss()

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                code = self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("SIGTERM did not end the server:\n" + self.stderr()) from error
        else:
            code = self.process.returncode
        if error is None:
            assert code == 0, f"exit code {code}:\n{self.stderr()}"

    def stderr(self):
        return self.log.read_text()

    def send_signal(self, number):
        self.process.send_signal(number)

    def reload(self):
        """SIGHUP; returns when the server has said what came of it."""
        before = len(self.stderr())
        self.send_signal(signal.SIGHUP)
        said = eventually(lambda: re.search("reload failed.*\n|read again\n", self.stderr()[before:]))
        assert said, self.stderr()
        return said.group(0)

    def wait_exit(self, seconds=30):
        return self.process.wait(seconds)

    def socket(self, timeout=20.0):
        """A bare connection to the public port."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def connection(self, timeout=60):
        if self.tls:
            context = ssl._create_unverified_context()
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None):
        connection = self.connection()
        try:
            return exchange(connection, method, path, body, headers)
        finally:
            connection.close()

    def get(self, path, headers=None):
        return self.request("GET", path, headers=headers)

    def post(self, path, body=None, headers=None):
        return self.request("POST", path, body, headers)

    def admin(self, method, path, body=None):
        connection = UnixConnection(self.control)
        try:
            return exchange(connection, method, "/admin/v1/" + path, body)
        finally:
            connection.close()

    def stats(self):
        return self.admin("GET", "stats").json

    def metrics(self, headers=None):
        """The samples without labels but the model's, by name without prefix."""
        lines = self.get("/metrics", headers).body.decode().splitlines()
        found = (re.fullmatch(r'tandem:(\w+)\{model_name="[^"]*"\} (\S+)', line) for line in lines)
        return {match.group(1): float(match.group(2)) for match in found if match}

    def rss(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def wait_idle(self, seconds=20):
        """Nothing runs or waits, and every KV block and every byte of bodies was given back."""
        def idle():
            stats = self.stats()
            return stats["calls"] == stats["running"] == stats["waiting"] == 0 and stats
        stats = eventually(idle, seconds)
        assert stats, self.stats()
        assert stats["kv_blocks_free"] == stats["kv_blocks"], stats
        assert eventually(lambda: self.stats()["body_bytes_left"] == 256 * MIB), self.stats()
        return stats

    def check_well(self, rss_growth=64 * MIB):
        """After an attack: alive, idle, no larger than it may be, and still right."""
        assert self.process.poll() is None, self.stderr()
        self.wait_idle()
        answer = self.post(CHAT, {"messages": messages(), "max_tokens": 8, "temperature": 0})
        assert answer.status == 200 and answer.json["choices"][0]["message"]["content"] == "72", answer.body
        assert self.rss() - self.rss_begin < rss_growth, (self.rss_begin, self.rss())


def curl(*arguments, stdin=None, check=True):
    """curl, silent but for errors, without the user's own configuration."""
    run = subprocess.run(["curl", "--disable", "--silent", "--show-error", "--max-time", "60", *map(str, arguments)],
                         capture_output=True, input=stdin.encode() if stdin else None, timeout=90)
    run.stdout, run.stderr = run.stdout.decode(), run.stderr.decode()  # line ends as they came
    assert run.returncode == 0 or not check, f"curl: {run.returncode}: {run.stderr}"
    return run


def make_certificate(folder, name="localhost"):
    """A self-signed certificate for this machine; returns the paths of certificate and key."""
    certificate, key = pathlib.Path(folder) / f"{name}.crt", pathlib.Path(folder) / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def read_until_closed(connection, limit=16 * MIB):
    """What the peer sends before it closes; a reset counts as a close, silence does not."""
    data = b""
    try:
        while len(data) < limit:
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
    except ConnectionError:
        pass
    return data


def send_all(connection, data):
    """True if the peer took all of it: it may close at any byte."""
    try:
        connection.sendall(data)
        return True
    except (ConnectionError, ssl.SSLError):
        return False
