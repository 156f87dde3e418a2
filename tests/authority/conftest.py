from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.authority import Authority, Leaves


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca")


@pytest.fixture
def leaves(authority: Authority) -> Iterator[Leaves]:
    leaves = Leaves(authority)
    yield leaves
    leaves.close()
