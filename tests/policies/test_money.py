import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import MAX_MICROS, PolicyError, format_usd, parse_usd


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.00"),
        (1, "0.000001"),
        (50_000, "0.05"),
        (123_400, "0.1234"),
        (1_000_000, "1.00"),
        (1_500_000, "1.50"),
        (-50_000, "-0.05"),
        (MAX_MICROS, "999999999999.999999"),
    ],
)
def test_prints_two_to_six_decimals(micros: int, text: str) -> None:
    assert format_usd(micros) == text


@pytest.mark.parametrize(
    ("text", "micros"),
    [("1", 1_000_000), ("$0.05", 50_000), (" 2.5 ", 2_500_000), ("00.1", 100_000)],
)
def test_reads_what_people_write(text: str, micros: int) -> None:
    assert parse_usd(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        ".5",
        "1.",
        "1,5",
        "1e3",
        "-1",
        "+1",
        "0.0000001",
        "NaN",
        "inf",
        "٣",
        "1_000",
        "$",
        "1" * 99,
    ],
)
def test_refuses_everything_else_in_one_line(text: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse_usd(text)
    assert "\n" not in str(refused.value)


def test_refuses_more_than_the_ledger_can_hold() -> None:
    with pytest.raises(PolicyError, match=r"the most is 999999999999\.999999"):
        parse_usd("1000000000000")


@given(st.integers(min_value=0, max_value=MAX_MICROS))
def test_printing_and_reading_are_inverse(micros: int) -> None:
    assert parse_usd(format_usd(micros)) == micros
