"""What scores do, call by call: `python -m bench.scores` draws docs/scores.svg.

Six providers of the same thing are called in turn, every minute, as `proxy.providers` counts and
judges it. All of it is drawn from one seed, so that the same picture comes out everywhere. What it
prints besides: whom a buyer would have chosen who goes by score and curiosity alone.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from proxy.providers.score import CURIOSITY, appeal
from proxy.providers.scores import Scores

CALLS = 240
JOINS = 80  # the newcomer
TURNS = 120  # the liar begins to lie
SEED = 402
EVERY = timedelta(minutes=1)
PICTURE = Path(__file__).parents[1] / "docs" / "scores.svg"


@dataclass(frozen=True)
class Actor:
    """`fate`: of its n-th call: "good", "free" (it failed, and took nothing) or "paid" (it took the
    money and delivered nothing)."""

    name: str
    price: int
    latency: tuple[float, float]
    fate: Callable[[int], str]
    light: str
    dark: str
    joins: int = 0

    @property
    def place(self) -> tuple[str, str]:
        host = self.name.replace(" ", "-")
        return f"https://{host}.example:443", f"GET https://{host}.example/quote"


def _honest(_: int) -> str:
    return "good"


ACTORS = (
    Actor("honest fast", 10_000, (150, 400), _honest, "#0b6e4f", "#4cc38a"),
    Actor("newcomer", 6_000, (300, 600), _honest, "#1d4ed8", "#7aa7ff", JOINS),
    Actor("dear", 60_000, (150, 400), _honest, "#7c3aed", "#b794f6"),
    Actor("honest slow", 10_000, (4_500, 6_500), _honest, "#92610a", "#e0b050"),
    Actor(
        "flapping",
        10_000,
        (150, 400),
        lambda n: "good" if n // 15 % 2 == 0 else "free",
        "#4b5563",
        "#a3acb9",
    ),
    Actor(
        "liar",
        5_000,
        (80, 200),
        lambda n: "good" if n < TURNS else "paid",
        "#c1121f",
        "#ff6b6b",
    ),
)


def simulate(calls: int = CALLS) -> dict[str, list[float]]:
    """Each one's score after each round, by name; a newcomer's from the round before it joins."""
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    scores = Scores(clock=lambda: now[0])
    dice = Random(SEED)  # noqa: S311
    places = [actor.place for actor in ACTORS]
    lines: dict[str, list[float]] = {actor.name: [] for actor in ACTORS}
    for n in range(calls):
        now[0] += EVERY
        for actor in ACTORS:
            if n >= actor.joins:
                call(scores, actor, n, dice)
        for actor in ACTORS:
            if n >= actor.joins - 1:
                lines[actor.name].append(scores.judge(*actor.place, among=places).score)
    return lines


def shop(calls: int = 1_000) -> Counter[str]:
    """How often each was chosen by a buyer who always takes the one with the most appeal."""
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    scores = Scores(clock=lambda: now[0])
    dice = Random(SEED)  # noqa: S311
    chosen: Counter[str] = Counter()
    for n in range(calls):
        now[0] += EVERY
        there = [actor for actor in ACTORS if n >= actor.joins]
        known = {actor.name: scores.known(*actor.place) for actor in there}
        places = [actor.place for actor in there]

        def liking(
            actor: Actor,
            known: dict[str, float] = known,
            places: list[tuple[str, str]] = places,
        ) -> float:
            score = scores.judge(*actor.place, among=places).score
            return appeal(score, known[actor.name], sum(known.values()), CURIOSITY)

        best = max(there, key=liking)
        chosen[best.name] += 1
        call(scores, best, n, dice)
    return chosen


def call(scores: Scores, actor: Actor, n: int, dice: Random) -> None:
    key, endpoint = actor.place
    scores.quoted(key, endpoint, actor.price)
    latency = dice.uniform(*actor.latency)
    match actor.fate(n):
        case "good":
            scores.succeeded(key, endpoint, latency, 200, micros=actor.price)
        case "free":
            scores.failed(key, endpoint, "answered 503", 503)
        case _:
            scores.failed(key, endpoint, "nothing came", 200, paid=True, micros=actor.price)


# --- the picture

WIDTH, HEIGHT = 860, 440
LEFT, TOP, RIGHT, BOTTOM = 56, 56, 150, 52


def drawn(lines: dict[str, list[float]], calls: int = CALLS) -> str:
    """An SVG that is read on light and on dark."""
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(n: float) -> float:
        return LEFT + across * n / calls

    def y(score: float) -> float:
        return TOP + down * (1 - score)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' aria-labelledby="title" font-family="system-ui, sans-serif" font-size="13">',
        '<title id="title">Scores of six providers over their calls</title>',
        "<style>",
        ".paper{fill:#fff}.ink{fill:#1f2937}.faint{fill:#5b6472}",
        ".rule{stroke:#d5dae1;stroke-width:1}.mark{stroke:#5b6472;stroke-dasharray:3 4}",
        ".line{fill:none;stroke-width:2.2;stroke-linejoin:round}",
        *(f".s{i}{{stroke:{a.light}}}.f{i}{{fill:{a.light}}}" for i, a in enumerate(ACTORS)),
        "@media (prefers-color-scheme:dark){",
        ".paper{fill:#0d1117}.ink{fill:#e6edf3}.faint{fill:#9aa5b1}",
        ".rule{stroke:#2a313c}.mark{stroke:#9aa5b1}",
        *(f".s{i}{{stroke:{a.dark}}}.f{i}{{fill:{a.dark}}}" for i, a in enumerate(ACTORS)),
        "}",
        "</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="ink" x="{LEFT}" y="26" font-size="15" font-weight="600">'
        "Score, call by call</text>",
    ]
    for tenth in range(0, 11, 2):
        at = y(tenth / 10)
        parts.append(
            f'<line class="rule" x1="{LEFT}" y1="{at:.1f}" x2="{LEFT + across}" y2="{at:.1f}"/>'
        )
        parts.append(
            f'<text class="faint" x="{LEFT - 10}" y="{at + 4:.1f}" text-anchor="end">'
            f"{tenth / 10:.1f}</text>"
        )
    parts += [
        f'<text class="faint" x="{x(n):.1f}" y="{TOP + down + 20}" text-anchor="middle">{n}</text>'
        for n in range(0, calls + 1, 40)
    ]
    parts.append(
        f'<text class="faint" x="{LEFT + across / 2:.1f}" y="{HEIGHT - 12}" text-anchor="middle">'
        "calls of each</text>"
    )
    for n, words in (JOINS, "the newcomer joins"), (TURNS, "the liar stops delivering"):
        parts.append(
            f'<line class="mark" x1="{x(n):.1f}" y1="{TOP}" x2="{x(n):.1f}" y2="{TOP + down}"/>'
        )
        anchor, by = ("end", -6) if n == JOINS else ("start", 6)
        parts.append(
            f'<text class="faint" x="{x(n) + by:.1f}" y="{TOP - 8}" text-anchor="{anchor}">'
            f"{words}</text>"
        )
    for i, actor in enumerate(ACTORS):
        line = lines[actor.name]
        first = calls - len(line)
        points = " ".join(f"{x(first + n + 1):.1f},{y(s):.1f}" for n, s in enumerate(line))
        parts.append(f'<polyline class="line s{i}" points="{points}"/>')
    for i, at in _spread([y(lines[actor.name][-1]) for actor in ACTORS]):
        score = lines[ACTORS[i].name][-1]
        parts.append(
            f'<text class="f{i}" x="{LEFT + across + 10}" y="{at + 4:.1f}" font-weight="600">'
            f"{ACTORS[i].name} {score:.2f}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _spread(heights: list[float], apart: float = 17.0) -> list[tuple[int, float]]:
    """Each label at its line's end, or below the one above it."""
    placed, last = [], TOP - apart
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        last = max(heights[i], last + apart)
        placed.append((i, last))
    return placed


def main() -> None:
    lines = simulate()
    PICTURE.write_text(drawn(lines))
    slow, liar = lines["honest slow"], lines["liar"]
    sunk = next(n for n in range(TURNS, CALLS) if liar[n] < slow[n]) - TURNS + 1
    told = [f"{name:12}  first {line[0]:.3f}  last {line[-1]:.3f}" for name, line in lines.items()]
    told.append(f"the liar is below the honest slow one {sunk} calls after it stopped delivering")
    chosen = (f"{name} {times}" for name, times in shop().most_common())
    told.append(f"1,000 calls of a buyer who goes by it: {', '.join(chosen)}")
    sys.stdout.write("\n".join([*told, f"wrote {PICTURE}", ""]))


if __name__ == "__main__":
    main()
