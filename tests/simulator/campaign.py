"""Many runs, one after the other."""

from dataclasses import dataclass, field

from tests.simulator.judge import verdict
from tests.simulator.world import World


@dataclass
class Tally:
    """Of a campaign. `broken`: the seeds of runs in which a promise was not kept, and how."""

    runs: int = 0
    payments: int = 0
    landed: int = 0
    recovered: int = 0
    """Booked or freed by what the chain showed, their answers lost."""
    kills: int = 0
    seconds: float = 0.0
    """Of virtual time."""
    broken: list[tuple[int, list[str]]] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.seconds / 3600:.1f} simulated hours: {self.kills} kills,"
            f" {self.payments} payments, {self.landed} landed, {self.recovered} recovered by the"
            f" reconciler; {len(self.broken)} runs with a broken promise"
        )


def campaign(seed: int, runs: int, *, stop: bool = False) -> Tally:
    """Runs `seed`, `seed + 1`, …; `stop` at the first that breaks a promise."""
    tally = Tally()
    for number in range(seed, seed + runs):
        world = World(number)
        try:
            world.run()
            wrong = verdict(world)
        except Exception as error:
            wrong = [f"the run failed: {error!r}"]
        payments = world.memory.state.payments.values()
        tally.runs += 1
        tally.payments += len(payments)
        tally.landed += len(world.chain.moved())
        tally.kills += world.kills
        tally.seconds += world.loop.now
        proofs = {"chain_confirmed", "proved_dead", "claimed_not_landed", "served_unpaid"}
        tally.recovered += sum(bool(proofs & set(p.history)) for p in payments)
        if wrong:
            tally.broken.append((number, wrong))
            if stop:
                break
    return tally
