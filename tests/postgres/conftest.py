"""Data directories that the server's account can reach also when root runs the tests."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.postgres import EmbeddedPostgres
from tests.peers.postgres import kill_servers, server_directory


@contextmanager
def reachable_directory() -> Iterator[Path]:
    directory = server_directory()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    with reachable_directory() as directory:
        yield directory
        kill_servers(directory / "postgres/data")


@pytest.fixture(scope="session")
def made_once() -> Iterator[Path]:
    """A data directory whose server was started and stopped: making one takes a second."""
    with reachable_directory() as directory:
        server = EmbeddedPostgres(directory)
        asyncio.run(server.start())
        asyncio.run(server.stop())
        yield directory


@pytest.fixture
def data_dir(made_once: Path) -> Iterator[Path]:
    """The same for every test, without a running server at its beginning and end."""
    yield made_once
    kill_servers(made_once / "postgres/data")
