"""What became of requests, counted: plain numbers, for whoever asks the data plane."""

from collections import Counter


class Outcomes:
    """Since the start.

    `requests` by (outcome, the first digit of the status; 0 where none was told):
    answered: by the provider · paid: by the provider, to a request with a payment · replayed: by
    the provider, to the same request before · cached: by the provider, before, and true by now ·
    unpaid: a 402 that was handed on · refused, failed: by us, as 4xx or 5xx · switched: to a
    WebSocket · tunnelled: a CONNECT joined blind · opened: a CONNECT looked into · broken: cut off
    in mid-answer · abandoned: the program hung up before its answer was complete.
    `problems`: our own answers by code.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.problems: Counter[str] = Counter()

    def ended(self, outcome: str, status: int) -> None:
        """One request has its outcome; each has one only."""
        if status == 402 and outcome == "answered":
            outcome = "unpaid"
        self.requests[outcome, status // 100] += 1

    def problem(self, code: str) -> None:
        """An answer of ours."""
        self.problems[code] += 1
