"""Whatever the chain does and however its nodes fail: nothing that landed is called dead."""

from dataclasses import dataclass

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.chains.solana.fate import (
    BLOCKS_BETWEEN_SCANS,
    Balance,
    Dead,
    Evidence,
    Landed,
    Seen,
    Sweep,
    can_land,
    fate,
)

HASH_HEIGHT = 1_000  # of the blockhash: lands in the 151 blocks after it
LVBH = HASH_HEIGHT + 150
LAST = LVBH + 1
EVIDENCE = Evidence("ours", LVBH, blockhash_slot=HASH_HEIGHT)
OPENING = Balance(HASH_HEIGHT - 5, 1_000_000)


@dataclass(frozen=True)
class World:
    """Slots are heights. `lands`: the block of our payment; others' payments beside it."""

    lands: int | None
    fails: bool
    others: tuple[tuple[int, int], ...]

    def transactions(self) -> list[Seen]:
        found = [
            Seen(f"other{n}", slot, "finalized", None, f"theirs{n}", None, change, 0, 5_000)
            for n, (slot, change) in enumerate(self.others)
        ]
        if self.lands is not None:
            err, change = ('"InsufficientFunds"', 0) if self.fails else (None, -1_000)
            found.append(
                Seen("tx", self.lands, "finalized", err, "ours", "memo", change, 0, 10_000)
            )
        return found

    def sweep(self, rpc: str, height: int, missing: frozenset[str], admits: bool) -> Sweep:
        """By a node at `height` whose index lacks some, and which may know that it does."""
        past = [each for each in self.transactions() if each.slot <= height]
        amount = OPENING.amount + sum(each.change for each in past)
        shown = [each for each in past if each.signature not in missing]
        complete = not (admits and len(shown) < len(past))
        return Sweep(rpc, height, Balance(height, amount), OPENING.slot, complete, shown)


worlds = st.builds(
    World,
    lands=st.one_of(
        st.none(), st.integers(HASH_HEIGHT + 1, LAST), st.sampled_from([LVBH - 1, LVBH, LAST])
    ),
    fails=st.just(False),
    others=st.lists(
        st.tuples(
            st.integers(HASH_HEIGHT - 4, LAST + 300),
            # No sum of these hides a payment of 1,000: that two omissions cancel each other to
            # the last unit is what no balance can tell.
            st.integers(-700, 700).map(lambda n: 7 * n),
        ),
        max_size=3,
    ).map(tuple),
)
heights = st.one_of(st.integers(HASH_HEIGHT, LAST + 400), st.integers(LVBH - 2, LAST + 2))


@settings(max_examples=400, deadline=None)
@given(world=worlds, looks=st.lists(heights, min_size=1, max_size=6), hidden=st.booleans())
@example(world=World(LAST, False, ()), looks=[LVBH, LAST, LAST + 1], hidden=False)
@example(world=World(LVBH, False, ()), looks=[LVBH - 1, LVBH, LAST], hidden=False)
def test_a_lone_rpc_never_frees_what_landed(world: World, looks: list[int], hidden: bool) -> None:
    """Its index may leave our payment out altogether: the balance gives it away."""
    absent_since = None
    for height in sorted(looks):
        missing = frozenset({"tx"}) if hidden else frozenset()
        sweep = world.sweep("a", height, missing, admits=False)
        verdict = fate(
            EVIDENCE,
            sweep.transactions,
            [sweep],
            rpcs=1,
            since=OPENING,
            absent_since=absent_since,
        )
        if world.lands is not None:
            assert not isinstance(verdict, Dead)
            if not hidden and height >= world.lands:
                assert isinstance(verdict, Landed)
        else:
            assert not isinstance(verdict, Landed)
            due = absent_since is not None and height - absent_since >= BLOCKS_BETWEEN_SCANS
            assert isinstance(verdict, Dead) == (height > LAST and due)
            if height > LAST and absent_since is None:
                absent_since = height


@settings(max_examples=400, deadline=None)
@given(
    world=worlds,
    a=heights,
    b=heights,
    missing_a=st.frozensets(st.sampled_from(["tx", "other0", "other1"])),
    missing_b=st.frozensets(st.sampled_from(["tx", "other0", "other1"])),
)
def test_two_rpcs_never_free_what_landed(
    world: World, a: int, b: int, missing_a: frozenset[str], missing_b: frozenset[str]
) -> None:
    sweeps = [world.sweep("a", a, missing_a, False), world.sweep("b", b, missing_b, False)]
    verdict = fate(EVIDENCE, (), sweeps, rpcs=2, since=OPENING)
    assert not isinstance(verdict, Landed)
    if world.lands is not None:
        assert not isinstance(verdict, Dead)
    elif min(a, b) > LAST and not (missing_a | missing_b):
        assert isinstance(verdict, Dead)


@given(height=st.integers(HASH_HEIGHT, LAST + 10))
def test_whatever_a_block_could_take_is_still_waited_for(height: int) -> None:
    """The chain's own rule: block n takes a hash that is at most 150 old in its parent's queue."""
    takes_next = (height + 1) - 1 - HASH_HEIGHT <= 150
    assert can_land(EVIDENCE, height) or not takes_next
    # And no block longer than it takes: the block that could be the last one has to be final.
    assert can_land(EVIDENCE, height) == (height <= LAST)
