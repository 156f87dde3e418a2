"""`autopay key`: made, listed, revoked."""

import json

import pytest

from proxy.admin import Key, Keys, Role
from proxy.cli import main
from proxy.ledger import Database
from tests.cli.conftest import Autopay


async def bearer(dsn: str, key: str) -> Key | None:
    database = await Database.open(dsn)
    found = await Keys(database).find(key)
    await database.close()
    return found


async def test_a_life(autopay: Autopay, dsn: str) -> None:
    assert autopay.well("key", "list").startswith("No keys yet")
    key, *words = autopay.well("key", "create", "ci", "--role", "operator").splitlines()
    assert key.startswith("apk_") and words[-1] == f"  Authorization: Bearer {key}"
    assert await bearer(dsn, key) == Key("ci", Role.OPERATOR)
    assert "there is a key 'ci' already" in autopay.refused(
        "key", "create", "ci", "--role", "admin"
    )

    made = json.loads(
        autopay.well("key", "create", "board", "--role", "reader", "--expires", "30d", "--json")
    )
    assert await bearer(dsn, made["key"]) == Key("board", Role.READER)
    listed = [json.loads(line) for line in autopay.well("key", "list", "--json").splitlines()]
    assert [(one["name"], one["role"], one["created_by"]) for one in listed] == [
        ("board", "reader", "autopay key"),
        ("ci", "operator", "autopay key"),
    ]
    assert listed[0]["expires_at"] > listed[0]["created_at"] and listed[1]["expires_at"] is None
    assert key not in autopay.well("key", "list")

    autopay.well("key", "revoke", "ci")
    assert await bearer(dsn, key) is None
    assert "there is no key 'ci'" in autopay.refused("key", "revoke", "ci")


@pytest.mark.parametrize("life", ["0d", "30", "-1d", "1y", "99999d", "d"])
def test_a_life_that_is_none(life: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["key", "create", "x", "--role", "reader", f"--expires={life}"])
    assert "write it like 30d" in capsys.readouterr().err
