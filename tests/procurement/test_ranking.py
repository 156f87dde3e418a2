"""Who is asked first."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.intents import Candidate
from proxy.procurement.ranking import CURIOSITY, Prospect, rank
from proxy.wire.origin import Origin


def prospect(
    name: str, score: float = 0.5, known: float = 0.0, against: tuple[str, str] | None = None
) -> Prospect:
    candidate = Candidate(name, f"http://{name}/", Origin("http", name, 80), b"/")
    return Prospect(candidate, score, known, against)


def order(*prospects: Prospect) -> list[str]:
    return [one.candidate.id for one in rank(prospects)]


def test_the_best_first_and_among_equals_the_order_given() -> None:
    assert order(prospect("a", 0.4, 50), prospect("b", 0.9, 50), prospect("c", 0.6, 50)) == [
        "b",
        "c",
        "a",
    ]
    assert order(prospect("a"), prospect("b"), prospect("c")) == ["a", "b", "c"]


def test_who_may_not_be_asked_has_no_place() -> None:
    ranked = rank([prospect("a", 0.9, against=("frozen", "it is frozen")), prospect("b", 0.1)])
    assert [(one.candidate.id, one.place, one.code) for one in ranked] == [
        ("b", 1, ""),
        ("a", None, "frozen"),
    ]
    assert ranked[1].why == "it is frozen"


def test_a_newcomer_is_tried_before_one_that_is_known_to_be_mediocre() -> None:
    assert order(prospect("mediocre", 0.6, 1_000), prospect("new", 0.5, 0))[0] == "new"
    assert order(prospect("good", 0.9, 20), prospect("known to be bad", 0.2, 20))[0] == "good"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1000)), min_size=1, max_size=8))
def test_more_score_never_lowers_a_place(found: list[tuple[float, float]]) -> None:
    prospects = [prospect(f"c{i}", score, known) for i, (score, known) in enumerate(found)]
    before = order(*prospects).index("c0")
    better = [prospect("c0", min(1.0, found[0][0] + 0.1), found[0][1]), *prospects[1:]]
    assert order(*better).index("c0") <= before
    assert sorted(order(*prospects)) == sorted(one.candidate.id for one in prospects)
    assert CURIOSITY > 0
