"""What is seen first, word for word: the help, the text at the start, typical errors. What differs between machines and
runs is normalised. TANDEM_REGENERATE=1 writes the files anew; they are then reviewed like code."""

import os
import pathlib
import re

import pytest

from harness import Server, make_certificate, run_tandem

GOLDEN = pathlib.Path(__file__).parent / "golden"


def normalised(text, folder, port=None):
    if port is not None:
        text = text.replace(str(port), "PORT")
    text = text.replace(str(folder), "FOLDER")
    text = re.sub(r"tandem \d+\.\d+\.\d+:", "tandem VERSION:", text)
    text = re.sub(r"on \d+ threads", "on N threads", text)
    text = re.sub(r"KV cache \d+ tokens: \d+ sequences", "KV cache N tokens: N sequences", text)
    return re.sub(r"ready in \d+\.\d+ s", "ready in N s", text)


def check(name, text):
    path = GOLDEN / name
    if os.environ.get("TANDEM_REGENERATE"):
        path.write_text(text)
    assert text == path.read_text(), f"{path} differs; TANDEM_REGENERATE=1 writes it anew"
    lines = text.splitlines()
    assert len(lines) <= 50 and max(len(line) for line in lines if "curl" not in line) <= 120 + 25


def test_help(tmp_path):
    run = run_tandem(tmp_path, "serve", "--help")
    assert run.returncode == 0 and run.stderr == ""
    check("help.txt", run.stdout)


def test_help_all_has_every_flag(tmp_path):
    run = run_tandem(tmp_path, "serve", "--help-all")
    assert run.returncode == 0
    short = run_tandem(tmp_path, "serve", "--help").stdout
    for flag in re.findall(r"--[a-z-]+", short):
        assert flag in run.stdout, flag
    for flag in ("--drain-timeout", "--max-body", "--unix-socket", "--kv-blocks", "--log-level"):
        assert flag in run.stdout and flag + " " not in short


def test_start(tmp_path):
    with Server(tmp_path) as server:
        assert server.wait_idle() and server.stderr().count("\n") <= 12
        check("start.txt", normalised(server.stderr(), tmp_path, server.port))


def test_start_with_everything(tmp_path):
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "keys").write_text("some-key-12345\n")
    with Server(tmp_path, "--tls-cert", certificate, "--tls-key", key, "--api-key-file", tmp_path / "keys",
                "--model-name", "team/model") as server:
        check("start_tls.txt", normalised(server.stderr(), tmp_path, server.port))


@pytest.mark.parametrize("name, flags", [
    ("error_open_to_all", ("--host", "0.0.0.0")), ("error_unknown_flag", ("--prot", "8001")),
    ("error_no_model", ("--model", "/nonexistent"))])
def test_errors(tmp_path, name, flags):
    check(name + ".txt", normalised(run_tandem(tmp_path, "serve", *flags).stderr, tmp_path))


def test_error_port_taken(tmp_path):
    with Server(tmp_path) as server:
        text = run_tandem(tmp_path, "serve", "--port", server.port).stderr
        check("error_port_taken.txt", normalised(text, tmp_path, server.port))
