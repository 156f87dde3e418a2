"""What goes wrong, and how often: drawn once for a run, so that some are mostly quiet and others
one long disaster. `calm()` ends all of it."""

from random import Random
from typing import Literal, TypeVar

T = TypeVar("T")

Statement = Literal["ok", "refused", "lost_request", "lost_answer", "late"]
DB_TIMEOUT = 5.0


class Faults:
    """Every method draws from the run's own random numbers."""

    def __init__(self, random: Random) -> None:
        self.random = random
        heat = random.choice([0.0, 0.3, 1.0, 2.0])
        self.statements: dict[Statement, float] = {
            "refused": 0.04 * heat,
            "lost_request": 0.03 * heat,
            "lost_answer": 0.06 * heat,
            "late": 0.03 * heat,
        }
        self.database_away = False
        self.cut_off: set[object] = set()
        """Processes that the database does not hear, nor they it; it believes that they live."""
        self.rpc_failing = random.choice([0.0, 0.05, 0.3])
        self.rpc_away = False
        self.lags: dict[str, int] = {}
        self.forgetful = random.choice([0.0, 0.0, 0.2, 0.7])
        self.disordered = random.choice([0.0, 0.0, 0.1])
        self.skips = random.choice([0.0, 0.05, 0.2])
        self.lazy = random.choice([0.0, 0.3, 0.8])
        self.forks = random.choice([0.0, 0.0, 0.02])
        self.kills = random.choice([0.0, 0.05, 0.15])
        self.distant = random.choice([0.001, 0.05])
        self.slow = random.choice([0.001, 0.001, 0.05])

    def calm(self) -> None:
        self.statements = dict.fromkeys(self.statements, 0.0)
        self.database_away = self.rpc_away = False
        self.rpc_failing = self.forgetful = self.disordered = self.skips = self.lazy = 0.0
        self.forks = self.kills = 0.0
        self.lags = {}
        self.cut_off.clear()

    # --- the database

    def statement(self, sender: object = None) -> Statement:
        if self.database_away or sender in self.cut_off:
            return self.random.choice(["refused", "lost_request"])
        dice = self.random.random()
        for kind, chance in self.statements.items():
            dice -= chance
            if dice < 0:
                return kind
        return "ok"

    def database_latency(self) -> float:
        return self.random.uniform(0.5, 1.5) * self.slow

    # --- the nodes

    def rpc_latency(self) -> float:
        return self.random.uniform(0.2, 2.0) * self.distant

    def rpc_fails(self, _name: str) -> bool:
        return self.rpc_away or (self.rpc_failing > 0 and self.random.random() < self.rpc_failing)

    def rpc_lag(self, name: str) -> int:
        return self.lags.get(name, 0)

    def index(self, _name: str, entries: list[T]) -> list[T]:
        """What a node's index makes of a list of transactions, newest first."""
        if self.forgetful:
            entries = [each for each in entries if self.random.random() >= self.forgetful]
        if self.disordered and self.random.random() < self.disordered:
            entries = entries[:]
            self.random.shuffle(entries)
        return entries
