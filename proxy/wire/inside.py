"""A host that is nowhere: `autopay.internal`, where a program asks autopay itself.

It is answered here, for http and https, at every port, and on the mounts under `/.autopay/`; the
name is never resolved and nothing is ever sent to it, whatever the settings say of tunnels. Who
asks is known by then, as for every request. What it is told, the gate knows.
"""

import json
import logging

from proxy.wire.call import Call
from proxy.wire.gate import Gate
from proxy.wire.origin import Origin
from proxy.wire.problem import Problem

log = logging.getLogger(__name__)

HOST = "autopay.internal"
MOUNT = b".autopay"  # no provider can have a name that begins with a dot
ORIGIN = Origin("http", HOST, 80)
_READS = ("GET", "HEAD")


def is_inside(host: str) -> bool:
    """Also of names below it, so that none of them is ever looked up."""
    host = host.rstrip(".")
    return host == HOST or host.endswith("." + HOST)


def nothing_else() -> Problem:
    return Problem(
        404,
        "not_found",
        f"There is nothing here but http://{HOST}/me, which tells an agent of its limits. Nothing"
        " was sent or paid.",
    )


async def answer(gate: Gate, call: Call) -> None:
    """Asks the gate, and writes what it says."""
    try:
        if call.origin.host.rstrip(".") != HOST or call.path != "/me":
            raise nothing_else()
        if call.method not in _READS:
            raise Problem(
                405,
                "method_not_allowed",
                "This can only be read. Limits are changed by an operator.",
                headers=((b"Allow", b"GET, HEAD"),),
            )
        told = await gate.standing(call.agent, call.session, call.trace)
    except Problem as problem:
        call.reply.problem(problem)
        return
    except Exception:
        log.exception("an agent could not be told of itself")
        call.reply.problem(Problem(500, "internal_error", "autopay failed. See its log."))
        return
    body = json.dumps(told, indent=2).encode() + b"\n"
    lines = [
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Cache-Control: no-store",
    ]
    call.reply.head(200, b"OK", lines, has_body=True, length_known=True)
    call.reply.end(b"" if call.method == "HEAD" else body)
