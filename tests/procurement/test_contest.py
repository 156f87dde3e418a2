"""Five sellers, of whom three misbehave: the short version of `bench.procurement`."""

from pathlib import Path

from tests.procurement.contest import contest


async def test_by_intent_more_is_served_and_less_is_lost(dsn: str, tmp_path: Path) -> None:
    result = await contest(dsn, tmp_path, "procurement", 60, seed=402)
    assert result.share >= 0.9  # by turns or by whoever is first: two fifths
    assert result.lost <= 0.1 * result.spent, result
    assert result.attempts < 1.5 * result.wishes
