"""What can go wrong is told in one way: in Python, in the database, in the documents, to agents."""

import errno
import json
import re
import socket
import ssl
from pathlib import Path

import asyncpg
import pytest

from proxy import errors
from proxy.errors import ERRORS, PROBLEMS, of_connecting, of_problem, of_status
from proxy.wire.problem import Problem
from tests.cli.test_readme import SILENT, codes

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/providers.md").read_text()
SECTION = DOCUMENT.split("## Errors and their classes\n")[1].split("\n## ")[0]
# What they say is for the operator or his tools.
ELSEWHERE = {"admin", "cli", "localnet"}


def rows(width: int) -> list[list[str]]:
    """The rows of the section's table that has so many columns."""
    found = [line.strip("| ").split(" | ") for line in SECTION.splitlines() if line[:3] == "| `"]
    return [row for row in found if len(row) == width]


async def test_the_database_says_the_same(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetch(
            "SELECT code, class, party::text, retryable, counts_for_breaker, description, told"
            " FROM error_classifications"
        )
    finally:
        await connection.close()
    assert {row["code"]: tuple(row) for row in found} == {
        one.code: (
            *(one.code, one.group, one.party, one.retryable, one.counts_for_breaker),
            *(one.description, one.told),
        )
        for one in ERRORS.values()
    }


def test_the_document_says_the_same() -> None:
    yes = {True: "yes", False: "no"}
    assert rows(7) == [
        [
            *(f"`{one.code}`", one.group, one.party),
            *(yes[one.retryable], yes[one.counts_for_breaker], one.description, one.told),
        ]
        for one in ERRORS.values()
    ]
    said = {code: row[0].strip("`") for row in rows(2) for code in re.findall(r"`(\w+)`", row[1])}
    assert said == PROBLEMS


def test_every_answer_of_ours_has_its_class() -> None:
    said = {
        code
        for folder in ("proxy", "policies")
        for file in (ROOT / folder).rglob("*.py")
        if not ELSEWHERE & set(file.relative_to(ROOT).parts)
        for code in codes(file)
        if len(code) > 1 and code.replace("_", "").isalpha()
    }
    said -= SILENT | {"code"}
    assert {"breaker_open", "over_per_call_limit", "upstream_timeout", "unsafe_offer"} <= said
    assert {code for code in said if of_problem(code) is None} == set()
    assert set(PROBLEMS.values()) <= set(ERRORS)
    assert not set(PROBLEMS) & set(ERRORS)


def test_every_class_that_is_named_is_there() -> None:
    """Where an error is made, and where the books are written."""
    made = re.compile(r'(?:DialError|UpstreamError)\([^()]*, "(\w+)"')
    named = {
        code
        for file in (ROOT / "proxy/wire").glob("*.py")
        for code in made.findall(file.read_text())
    }
    assert {"connect_timeout", "answer_broke_off", "request_stalled", "stopping"} <= named
    assert named <= set(ERRORS)
    assert {of_status(status) for status in range(400, 600)} <= set(ERRORS)


@pytest.mark.parametrize(
    ("status", "code", "counts"),
    [
        (200, None, False),
        (304, None, False),
        (400, "caller_error", False),
        (402, "payment_required", False),
        (429, "too_many_requests", False),
        (500, "server_error", True),
        (501, "server_error", True),
        (502, "provider_unavailable", True),
        (503, "provider_unavailable", True),
        (504, "provider_unavailable", True),
    ],
)
def test_statuses(status: int, code: str | None, counts: bool) -> None:
    assert of_status(status) == code
    assert code is None or errors.counts_for_breaker(code) == counts


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "connect_failed"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "connect_failed"),
        (OSError(errno.EHOSTUNREACH, "no route to host"), "connect_failed"),
        (OSError(errno.ENETUNREACH, "no network"), "local_network"),
        (OSError(errno.EMFILE, "too many"), "local_network"),
        (socket.gaierror(socket.EAI_NONAME, "no name"), "name_unknown"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "name_unresolved"),
        (ssl.SSLCertVerificationError(1, "expired"), "tls_failed"),
        (ssl.SSLError(1, "wrong version number"), "tls_failed"),
        (ssl.SSLEOFError(8, "eof"), "connect_failed"),
        (ValueError("no host"), "name_unknown"),
    ],
)
def test_what_keeps_a_connection_from_being_made(error: OSError, code: str) -> None:
    assert of_connecting(error) == code


def test_what_counts_for_the_breaker_is_theirs() -> None:
    assert {one.party for one in ERRORS.values() if one.counts_for_breaker} == {"theirs"}
    for code in ("connect_failed", "response_timeout", "tls_failed", "paid_failed", "answer_lost"):
        assert errors.counts_for_breaker(code)
    for code in ("client_gone", "denied", "address_forbidden", "upstream_proxy_failed", "stopping"):
        assert not errors.counts_for_breaker(code)
    assert errors.counts_for_breaker("never heard of")
    assert not errors.retryable("never heard of")


def test_an_agent_is_told_whose_fault_it_is() -> None:
    told = json.loads(Problem(503, "breaker_open", "It is open.").body())
    assert (told["fault"], told["retryable"]) == ("theirs", True)
    told = json.loads(Problem(403, "over_daily_limit", "Too much.").body())
    assert (told["fault"], told["retryable"]) == ("caller", False)
    assert "fault" not in json.loads(Problem(404, "no_such_receipt", "No.").body())
