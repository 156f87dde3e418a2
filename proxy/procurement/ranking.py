"""Who is asked first, and why: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.intents import Candidate
from proxy.providers.score import CURIOSITY, appeal


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is known of a candidate before it is asked. `known`: how much experience its `score`
    stands on, in calls. `against`: why it may not be asked now, as a code and a line; None: it
    may."""

    candidate: Candidate
    score: float
    known: float
    against: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """`place` from 1; None: it is not asked. `code` is why not, "" else. `why` is for people."""

    candidate: Candidate
    place: int | None
    score: float
    code: str
    why: str


def rank(prospects: Sequence[Prospect], curiosity: float = CURIOSITY) -> list[Ranked]:
    """The best first; those that may not be asked last. Among equals the order given decides.

    What is little known of gets a bonus (`appeal`), so that a newcomer is tried now and then, and
    one that was bad for a while is not forgotten for ever.
    """
    of_all = sum(one.known for one in prospects)
    may = [one for one in prospects if one.against is None]
    appeals = {one.candidate.id: appeal(one.score, one.known, of_all, curiosity) for one in may}
    may.sort(key=lambda one: -appeals[one.candidate.id])
    ranked = [
        Ranked(one.candidate, place, one.score, "", _why(one, appeals[one.candidate.id]))
        for place, one in enumerate(may, start=1)
    ]
    left = (one for one in prospects if one.against is not None)
    return ranked + [
        Ranked(one.candidate, None, one.score, one.against[0], one.against[1])
        for one in left
        if one.against is not None
    ]


def _why(one: Prospect, appeal: float) -> str:
    if one.known < 1:
        known = "nothing is known of it yet"
    else:
        known = f"its score is {one.score:.3f}, after {one.known:.0f} calls"
    bonus = appeal - one.score
    return f"{known}; {bonus:.3f} are added for what is not known" if bonus >= 0.001 else known
