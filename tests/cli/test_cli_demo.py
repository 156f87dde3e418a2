"""`autopay demo` as a newcomer runs it."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Autopay, until


@pytest.fixture
def autopay(private: Path) -> Autopay:
    """Temporary files of the demo go where the test can look for what is left of them."""
    stage = private / "stage"
    stage.mkdir()
    private.chmod(0o711)  # as root, the demo's database is another user's
    stage.chmod(0o711)
    autopay = Autopay(private, {"TMPDIR": str(stage), "http_proxy": "http://127.0.0.1:1"})
    autopay.config.touch()
    return autopay


def nothing_is_left(autopay: Autopay) -> bool:
    stage = autopay.data / "stage"
    named = str(stage).encode()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if named in process.read_bytes():
                return False
        except OSError:
            continue  # it ended meanwhile
    return list(stage.iterdir()) == []


def test_from_its_first_line_to_its_last(autopay: Autopay) -> None:
    began = time.monotonic()
    # What the user's environment sets is not for the demo.
    said = autopay.well("demo", DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert time.monotonic() - began < 60
    for line in (
        "HTTP/1.1 402 Payment Required",
        "price     0.001 USDC",
        "Autopay-Amount: 0.001 USDC",
        "Autopay-Remaining: 0.999 USD",
        "policy  allow: $0.001 is within $0.05 per call and $1.00 per day",
        "requests.get(",
        '{"question": "will it rain?"}',
        "Autopay-Amount: 0.001 CASH",
        "HTTP/1.1 403 Forbidden",
        '"code": "over_per_call_limit"',
        "seller  USDC  before   0.000000  after   0.004000   +0.004000",
        "seller  CASH  before   0.000000  after   0.001000   +0.001000",
        "$0.005 spent today",
        "$ autopay receipts",
        "$ autopay decisions",
        "Every step went as told",
    ):
        assert line in said
    assert "\x1b" not in said  # this is no terminal
    assert nothing_is_left(autopay)


def test_it_is_kept_until_told_to_stop(autopay: Autopay) -> None:
    with autopay.running("demo", "--keep", until="To paste into another terminal") as process:
        assert process.stdout is not None
        command = next(line.strip() for line in process.stdout if line.endswith("status\n"))
        assert command.startswith("env -u AUTOPAY_DATA_DIR ")
        config = Path(command.split()[-2])
        demo = Autopay(config.parent)
        assert "\ndemo   active  $0.005" in demo.well("status")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 0
    until(lambda: nothing_is_left(autopay))


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [("autopay demo:", signal.SIGTERM, 143), ("2. The same request", signal.SIGINT, 130)],
)
def test_told_to_stop_in_the_middle(
    autopay: Autopay, moment: str, number: signal.Signals, status: int
) -> None:
    with autopay.running("demo", until=moment) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (status, "")
    until(lambda: nothing_is_left(autopay))


def test_a_step_that_goes_another_way_is_a_failure(autopay: Autopay, tmp_path: Path) -> None:
    liar = tmp_path / "bin" / "curl"
    liar.parent.mkdir()
    liar.write_text("#!/bin/sh\nprintf 'HTTP/1.1 200 OK\\r\\n\\r\\nfor nothing'\n")
    liar.chmod(0o755)
    done = autopay("demo", PATH=f"{liar.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert done.stderr == (
        "\nautopay: the demo did not go as told: the API did not answer 402 Payment Required\n"
    )
    assert nothing_is_left(autopay)
