"""The servers that most tests share, one of each kind for a file of tests."""

import pytest

from harness import Server, make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("plain")) as running:
        yield running


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory, certificate):
    with Server(tmp_path_factory.mktemp("tls"), "--tls-cert", certificate[0], "--tls-key", certificate[1]) as running:
        yield running
