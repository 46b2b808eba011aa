"""What every test may ask for."""

import pytest

from harness import Bystander, Server


@pytest.fixture
def server():
    """A server of the test's own."""
    with Server() as server:
        yield server


@pytest.fixture
def bystander(server):
    """Another session on the server, which must go on undisturbed to the end of the test."""
    bystander = Bystander(server)
    try:
        yield bystander
        bystander.done()
    finally:
        bystander.client.kill()
