"""Places where the crash campaign ends the process, as `kill -9` would.

A hook for tests, armed by two variables of the environment together: CRASHPOINT names a point and
which time of reaching it is meant ("settle.after:7"), CRASHPOINT_ARMED says "kill this process".
Either alone does nothing. Unarmed, and that is always but in a campaign, `reached` is an empty
function: 50 ns.
"""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Literal, get_args

Point = Literal[
    "reserve.before",  # signed, nothing written
    "reserve.after",  # committed and acknowledged, not a byte sent
    "tick.after",  # a batch is committed, nobody was told
    "send.midway",  # the paid request is leaving, or has just left
    "answer.head",  # the answer's head is here, nothing of it is written
    "settle.after",  # the receipt is on disk, the program has not all of its answer
    "release.before",
    "release.after",
    "doubt.before",
    "doubt.after",
    "present.before",  # leave is given to send the same bytes again, and nothing is sent
    "present.noted",  # and what came of that is on disk
    "keep.before",  # an answer that was paid for is here, and not kept
    "keep.after",
    "confirm.before",  # from here on, the reconciler's moves
    "confirm.after",
    "verify.before",
    "verify.after",
    "disprove.before",
    "disprove.after",
]
POINTS: tuple[Point, ...] = get_args(Point)

SURE = "kill this process"


def armed(environ: Mapping[str, str]) -> Callable[[Point], None]:
    """What `reached` is under this environment. Raises ValueError for a point that is none."""
    wanted, _, turn = environ.get("CRASHPOINT", "").partition(":")
    if not wanted or environ.get("CRASHPOINT_ARMED") != SURE:
        return _nothing
    if wanted not in POINTS:
        raise ValueError(f"CRASHPOINT {wanted!r} is none of {', '.join(POINTS)}")
    left = int(turn or 1)

    def reached(point: Point) -> None:
        nonlocal left
        if point == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reached


def _nothing(_: Point) -> None:
    """There is no campaign."""


reached = armed(os.environ)
