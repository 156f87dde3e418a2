"""The wheel, installed in an empty environment: all that a user has."""

import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import __version__
from tests.cli.conftest import Autopay

ROOT = Path(__file__).parents[2]


def run(*command: object) -> None:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def reachable() -> Iterator[Path]:
    """Not under tmp_path: as root, the PostgreSQL in there is run by another user."""
    with tempfile.TemporaryDirectory(prefix="autopay-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.timeout(300)  # as long as the registry takes where pip has nothing in its cache
def test_the_wheel_is_all_it_takes(tmp_path: Path, reachable: Path, private: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("autopay-*.whl")
    empty = reachable / "venv"
    venv.create(empty)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", empty)
    run(*pip, "install", wheel)

    autopay = Autopay(private, program=(str(empty / "bin/autopay"),))
    assert autopay.well("--version") == f"autopay {__version__}\n"
    assert "agent     default" in autopay.well("init")
    status = autopay("status")
    assert status.returncode == 1  # nothing is served yet
    assert "embedded PostgreSQL; answers" in status.stdout

    # No curl, and no requests: the demo goes on with what there is.
    private.chmod(0o711)  # the demo's server is another user's, too
    said = autopay.well("demo", PATH=str(empty / "bin"), TMPDIR=str(private))
    assert "curl is not installed here" in said
    assert "urllib.request.urlopen" in said
    assert "Every step went as told" in said
