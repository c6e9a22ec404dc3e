"""The page in a headless Chromium: against a running server, with and without a key, and with made-up answers."""

import os
import subprocess
import sys

from harness import ROOT, Server

PAGE_TEST = ROOT / "tests/browser/page_test.py"
KEY = "page-test-key"


def run_page_test(**environment):
    done = subprocess.run([sys.executable, str(PAGE_TEST)], env={**os.environ, **environment}, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_against_the_server(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(KEY + "\n")
    with Server(tmp_path) as plain, Server(tmp_path, "--api-key-file", keys) as keyed:
        output = run_page_test(TANDEM_URL=plain.url, TANDEM_KEYED_URL=keyed.url, TANDEM_KEY=KEY)
    assert "OK" in output


def test_with_made_up_answers():
    """Markdown that attacks, reasoning, errors in the middle: what the small model never says."""
    assert "OK" in run_page_test()
