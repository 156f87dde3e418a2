"""Webhooks from the command line: added, tried, listed, ended."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

from tests.cli.conftest import Autopay


@contextmanager
def receiver(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its URL, and what it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append({"signature": self.headers["webhook-signature"], **body})
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hooks/T0PSECRET", got
    finally:
        server.shutdown()
        server.server_close()


async def test_a_webhook_is_added_tried_and_removed(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot")
    with receiver() as (url, got):
        assert "https://" in autopay.refused("webhook", "add", url)
        said = autopay.well("webhook", "add", url, "--private", "--type", "alarm")
        assert said.startswith("whsec_")
        (hook,) = [
            json.loads(line) for line in autopay.well("webhook", "list", "--json").splitlines()
        ]
        assert (hook["types"], hook["active"], hook["waiting"]) == (["alarm"], True, 0)
        assert "secret" not in hook
        listed = autopay.well("webhook", "list")
        assert "127.0.0.1" in listed
        assert "T0PSECRET" not in listed
        assert "answered 200" in autopay.well("webhook", "test", hook["id"][:6])
        assert got[0]["type"] == "webhook.test"
        assert got[0]["signature"].startswith("v1,")
        autopay.well("webhook", "pause", hook["id"])
        assert "paused" in autopay.well("webhook", "list")
        autopay.well("webhook", "resume", hook["id"])
        assert "active" in autopay.well("webhook", "list")
        assert autopay.well("webhook", "deliveries", hook["id"]).startswith("SINCE")
        with receiver() as (elsewhere, later):
            assert "nothing to change" in autopay.refused("webhook", "set", hook["id"])
            changed = ("webhook", "set", hook["id"], "--url")
            assert "metadata" in autopay.refused(*changed, "http://169.254.169.254/")
            assert "https://" in autopay.refused(*changed, elsewhere, "--no-private")
            said = autopay.well(*changed, elsewhere, "--type", "breaker.open")
            assert "told of: breaker.open" in said
            assert "T0PSECRET" not in said
            assert "answered 200" in autopay.well("webhook", "test", hook["id"])
            assert (len(got), len(later)) == (1, 1)
        autopay.well("webhook", "remove", hook["id"])
    assert "No webhooks yet" in autopay.well("webhook", "list")
    assert "no webhook begins with" in autopay.refused("webhook", "test", hook["id"])
    events = autopay.well("events", "--type", "WEBHOOK_CHANGE")
    assert "removed" in events
    assert "T0PSECRET" not in events


async def test_a_message_that_is_not_taken_is_said(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot")
    with receiver(500) as (url, _):
        autopay.well("webhook", "add", url, "--private")
        hook = json.loads(autopay.well("webhook", "list", "--json"))
        assert "it answered 500" in autopay.refused("webhook", "test", hook["id"])
    assert "was not taken" in autopay.refused("webhook", "test", hook["id"])
