"""Where settings come from, which wins, and what is said of those that are wrong: exit code 2 for what was written, 1 for
what the machine does not allow, and one line that names the place and the remedy."""

import os
import signal
import socket

import pytest

from harness import Server, run_tandem


def refusal(folder, *flags, env=None):
    run = run_tandem(folder, "serve", *flags, env=env)
    assert run.stdout == "" and run.stderr.count("\n") == 1, run.stderr
    return run.returncode, run.stderr.strip()


def names(server):
    return [model["id"] for model in server.get("/v1/models").json["data"]]


def test_flag_over_environment_over_file_over_default(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('[serve]\nmodel-name = ["from-file"]\nport = 0\n')
    with Server(tmp_path) as server:
        assert names(server) == ["tinyworld-5m"]
    with Server(tmp_path, "--config", config, port=None) as server:
        assert names(server) == ["from-file"]
    environment = {"TANDEM_MODEL_NAME": "from-environment", "TANDEM_CONFIG": str(config)}
    with Server(tmp_path, env=environment, port=None) as server:
        assert names(server) == ["from-environment"]
    with Server(tmp_path, "--model-name", "from-flag", env=environment, port=None) as server:
        assert names(server) == ["from-flag"]


@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME"])
def test_the_usual_places(tmp_path, variable):
    home = tmp_path / "home"
    folder = home / (".config" if variable == "HOME" else "") / "tandem"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('model-name = "usual"\nmax-samples = 3\nhalf-close = true\n')
    with Server(tmp_path, env={variable: str(home)}) as server:
        assert names(server) == ["usual"]
        body = {"prompt": "x", "max_tokens": 1}
        assert server.post("/v1/completions", {**body, "n": 3}).status == 200
        assert server.post("/v1/completions", {**body, "n": 4}).status == 400


@pytest.mark.parametrize("text, place, mentions", [
    ("port = = 1\n", ":1", "TOML"), ("# one\n\nprot = 1\n", ":3", "prot"), ("port = 1\nport = 2\n", ":2", "port"),
    ("port = 1\nqueue-requests = 'x'\n", ":2", "--queue-requests"), ("[chat]\nport = 1\n", ":1", "[chat]"),
    ("[serve]\n\nport = 99999\n", ":3", "--port"), ("port = [1, 2]\n", ":1", "--port"),
    ("host = 1979-05-27\n", ":1", "host"), ("log-level = 'loud'\n", ":1", "--log-level"), ("config = 'x'\n", ":1", "config"),
    ("help = true\n", ":1", "help"), ("[serve]\nport = 1\n[serve.more]\nx = 1\n", ":3", "more")])
def test_files_that_are_wrong(tmp_path, text, place, mentions):
    config = tmp_path / "bad.toml"
    config.write_text(text)
    code, line = refusal(tmp_path, "--config", config)
    assert code == 2 and f"{config}{place}: " in line and mentions in line, line


def test_a_file_that_is_not_there(tmp_path):
    code, line = refusal(tmp_path, "--config", tmp_path / "none.toml")
    assert code == 2 and "none.toml" in line


@pytest.mark.parametrize("variable, value, flag", [
    ("TANDEM_PORT", "abc", "--port"), ("TANDEM_PORT", "99999", "--port"), ("TANDEM_DRAIN_TIMEOUT", "-1", "--drain-timeout"),
    ("TANDEM_INSECURE", "maybe", "--insecure"), ("TANDEM_LOG_LEVEL", "loud", "--log-level"),
    ("TANDEM_KV_BLOCKS", "many", "--kv-blocks")])
def test_variables_that_are_wrong(tmp_path, variable, value, flag):
    code, line = refusal(tmp_path, env={variable: value})
    assert code == 2 and variable in line and flag in line, line


@pytest.mark.parametrize("flags, mentions", [
    (("--port", "x"), "--port"), (("--prot", "1"), "--prot"), (("--log-level", "loud"), "--log-level"),
    (("--max-samples", "0"), "--max-samples"), (("--ping", "-1"), "--ping"), (("extra",), "extra")])
def test_flags_that_are_wrong(tmp_path, flags, mentions):
    code, line = refusal(tmp_path, *flags, env={"TANDEM_HOST": "127.0.0.1"})
    assert code == 2 and mentions in line and "TANDEM_" not in line, line


@pytest.mark.parametrize("flags, mentions", [
    (("--host", "0.0.0.0"), "--api-key-file"), (("--host", "::"), "--api-key-file"), (("--tls-cert", "x"), "--tls-key"),
    (("--tls-cert", "none.pem", "--tls-key", "none.pem"), "none.pem"), (("--api-key-file", "none"), "none"),
    (("--control", "127.0.0.1:0"), "--control-key-file"), (("--model", "/nonexistent"), "/nonexistent"),
    (("--unix-socket", "/nonexistent/x.sock"), "/nonexistent/x.sock"), (("--host", "192.0.2.1", "--insecure"), "--host")])
def test_what_cannot_work(tmp_path, flags, mentions):
    code, line = refusal(tmp_path, "--port", "0", *flags)
    assert code == 1 and mentions in line, line


def test_a_port_that_is_taken(tmp_path):
    with Server(tmp_path) as server:
        code, line = refusal(tmp_path, "--port", server.port)
        assert code == 1 and f"127.0.0.1:{server.port}" in line and "--port" in line
        assert names(server) == ["tinyworld-5m"]
        assert os.path.exists(server.control)


def test_a_socket_that_was_left_behind_is_replaced(tmp_path):
    """One that somebody listens on is not."""
    path = tmp_path / "public.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with Server(tmp_path, "--unix-socket", path):
        code, line = refusal(tmp_path, "--port", "0", "--unix-socket", path)
        assert code == 1 and str(path) in line


def test_beyond_this_machine_with_keys_or_on_purpose(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("right-key-12345\n")
    with Server(tmp_path, "--host", "0.0.0.0", "--api-key-file", keys) as server:
        assert server.get("/v1/models").status == 401
        assert server.get("/v1/models", {"authorization": "Bearer right-key-12345"}).status == 200
    with Server(tmp_path, "--host", "0.0.0.0", "--insecure") as server:
        assert "NONE: ANYONE" in server.stderr()
        assert server.get("/v1/models").status == 200


def test_names_in_host_and_origin(tmp_path):
    """A page whose name was made to point here is refused; names and origins that are allowed are not."""
    with Server(tmp_path, "--allowed-host", "box.example", "--cors-origin", "https://app.example") as server:
        for host, status in (("localhost", 200), (f"127.0.0.1:{server.port}", 200), ("[::1]", 200), ("BOX.example:1", 200),
                             ("evil.example", 403), ("localhost.evil.example", 403), ("box.example.evil", 403)):
            assert server.get("/v1/models", {"host": host}).status == status, host
        for origin, status in (("https://app.example", 200), ("https://evil.example", 403), ("null", 403),
                               ("http://app.example", 403), ("http://localhost", 403)):
            answer = server.get("/v1/models", {"origin": origin})
            assert answer.status == status, origin
            assert answer.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
        answer = server.request("OPTIONS", "/v1/chat/completions", headers={
            "origin": "https://app.example", "access-control-request-method": "POST"})
        assert answer.status == 204 and answer.headers["access-control-allow-origin"] == "https://app.example"


def test_a_reload_with_nothing_to_read(tmp_path):
    with Server(tmp_path) as server:
        for _ in range(20):
            server.send_signal(signal.SIGHUP)
        assert "read again" in server.reload()
        assert names(server) == ["tinyworld-5m"]
