import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyError, parse_provider


@pytest.mark.parametrize(
    ("pattern", "canonical"),
    [
        ("API.Example.com.", "api.example.com"),
        (" *.example.com", "*.example.com"),
        ("https://api.example.com", "https://api.example.com:443"),
        ("HTTP://api.example.com:8080", "http://api.example.com:8080"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]:80"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "[::1]"),
    ],
)
def test_a_pattern_has_one_spelling(pattern: str, canonical: str) -> None:
    assert parse_provider(pattern).text == canonical
    assert parse_provider(canonical).text == canonical


@pytest.mark.parametrize(
    ("pattern", "origin", "matches"),
    [
        ("api.example.com", ("https", "api.example.com", 443), True),
        ("api.example.com", ("http", "API.example.com.", 8080), True),
        ("api.example.com", ("https", "x.api.example.com", 443), False),
        ("*.example.com", ("https", "a.b.example.com", 443), True),
        ("*.example.com", ("https", "example.com", 443), False),
        ("*.example.com", ("https", "evilexample.com", 443), False),
        ("https://api.example.com", ("https", "api.example.com", 443), True),
        ("https://api.example.com", ("https", "api.example.com", 8443), False),
        ("https://api.example.com", ("http", "api.example.com", 443), False),
        ("[::1]", ("http", "::1", 80), True),
        ("127.0.0.1", ("http", "::ffff:127.0.0.1", 80), True),
        ("*.0.1", ("http", "127.0.0.1", 80), False),
        ("*.node1", ("http", "api.node1", 80), True),
        ("api.example.com", ("https", "\0", 443), False),
    ],
)
def test_which_origins_it_is_about(
    pattern: str, origin: tuple[str, str, int], matches: bool
) -> None:
    assert parse_provider(pattern).matches(*origin) is matches


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("", "write a host"),
        ("*", "write a host"),
        ("api.example.com:443", "write a host"),
        ("*.10.0.0.1", "write a host"),
        ("https://api.example.com/v1", "no more"),
        ("https://*.example.com", "stands alone"),
        ("ftp://api.example.com", "http or https"),
        ("https://api.example.com:0", "no more"),
    ],
)
def test_a_bad_pattern_is_one_clear_line(pattern: str, hint: str) -> None:
    with pytest.raises(PolicyError, match=r"^provider ") as refused:
        parse_provider(pattern)
    assert hint in str(refused.value)


@given(st.text(max_size=40))
def test_reading_is_total(text: str) -> None:
    try:
        provider = parse_provider(text)
    except PolicyError:
        return
    assert parse_provider(provider.text) == provider
