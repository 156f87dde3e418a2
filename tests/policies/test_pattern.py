import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyError, parse_pattern


def matches(pattern: str, url: str, method: str = "GET") -> bool:
    """`url` is scheme://host:port/path, with the port always written."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, _, port = authority.rpartition(":")
    return parse_pattern(pattern).matches(method, scheme, host, int(port), slash + path)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("https://api.example.com/v1/*", "https://api.example.com:443/v1/quote"),
        ("https://api.example.com/v1/*", "https://api.example.com:443/v1/"),
        ("https://API.Example.com/v1", "HTTPS://api.EXAMPLE.com.:443/v1"),
        ("http://api.example.com/*", "http://api.example.com:80/"),
        ("http://api.example.com:8080/*", "http://api.example.com:8080/x"),
        ("*://api.example.com/*", "http://api.example.com:80/x"),
        ("*://api.example.com/*", "https://api.example.com:443/x"),
        ("*://api.example.com:4021/*", "http://api.example.com:4021/x"),
        ("https://*.example.com/*", "https://a.example.com:443/"),
        ("https://*.example.com/*", "https://a.b.example.com:443/"),
        ("http://127.0.0.1:4021/paid", "http://127.0.0.1:4021/paid"),
        ("http://[::1]:4021/*", "http://[0:0:0:0:0:0:0:1]:4021/x"),
        ("http://[::1]:4021/*", "http://::1:4021/x"),
        ("GET https://a.example/*", "https://a.example:443/"),
        ("https://a.example/caf%C3%A9", "https://a.example:443/caf%c3%a9"),
        ("https://a.example/~me", "https://a.example:443/%7Eme"),
        ("https://a.example/v1*", "https://a.example:443/v1beta"),
        ("https://a.example/*", "https://a.example:443/x/../y"),
        ("https://a.example/a%20b", "https://a.example:443/a%20b"),
    ],
)
def test_covers(pattern: str, url: str) -> None:
    assert matches(pattern, url)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("https://api.example.com/v1/*", "http://api.example.com:443/v1/x"),
        ("https://api.example.com/v1/*", "https://api.example.com:8443/v1/x"),
        ("https://api.example.com/v1/*", "https://api.example.com:443/v1"),
        ("https://api.example.com/v1/*", "https://api.example.com:443/V1/x"),
        ("https://api.example.com/v1", "https://api.example.com:443/v1/"),
        ("https://api.example.com/v1/*", "https://evil.example:443/v1/x"),
        ("https://api.example.com/v1/*", "https://api.example.com.evil.example:443/v1/x"),
        ("https://*.example.com/*", "https://example.com:443/"),
        ("https://*.example.com/*", "https://.example.com:443/"),
        ("https://*.example.com/*", "https://evilexample.com:443/"),
        ("https://*.example.com/*", "https://a..example.com:443/"),
        ("*://a.example/*", "ftp://a.example:21/"),
        ("*://a.example/*", "http://a.example:443/"),
        ("https://a.example/x", "https://a.example:443/x%"),
        ("https://a.example/x", "https://a.example:443"),
        ("https://xn--bcher-kva.example/*", "https://bücher.example:443/"),
    ],
)
def test_does_not_cover(pattern: str, url: str) -> None:
    assert not matches(pattern, url)


def test_a_method_is_exact() -> None:
    pattern = "GET https://a.example/*"
    assert not matches(pattern, "https://a.example:443/", "POST")
    assert not matches(pattern, "https://a.example:443/", "HEAD")
    assert not matches(pattern, "https://a.example:443/", "get")


@pytest.mark.parametrize(
    "path",
    [
        "/public/../admin",
        "/public/..",
        "/public/./x",
        "/public/.",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/public/%2e/x",
        "/public/..%2fadmin",
        "/public/x%2Fy",
        "/public/..%5cadmin",
        "/public/..\\admin",
        "/public/%252e%252e/admin",
        "/public/..;/admin",
        "/public/..;v=1/admin",
        "/public/..%3b/admin",
        "/public/x%00",
        "/public/x%0d%0a",
        "/public/x y",
        "/public/x?q",
        "/public/x#f",
        "/public/x%zz",
        "/public/\u00e9",
    ],
)
def test_a_path_that_can_be_read_twice_matches_nothing_narrow(path: str) -> None:
    narrow = parse_pattern("https://a.example/public/*")
    whole_host = parse_pattern("https://a.example/*")
    assert not narrow.matches("GET", "https", "a.example", 443, path)
    assert whole_host.matches("GET", "https", "a.example", 443, path)


@pytest.mark.parametrize(
    "path", ["/public/a.b", "/public/...", "/public/..x", "/public/;x", "/public//x"]
)
def test_dots_and_semicolons_inside_a_name_are_plain(path: str) -> None:
    assert parse_pattern("https://a.example/public/*").matches(
        "GET", "https", "a.example", 443, path
    )


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("", "write METHOD scheme://host/path"),
        ("/v1/*", "write METHOD scheme://host/path"),
        ("api.example.com/v1", "write METHOD scheme://host/path"),
        ("GET POST https://a.example/", "write METHOD scheme://host/path"),
        ("get https://a.example/*", "method in capitals"),
        ("ftp://a.example/*", "scheme is http, https or *"),
        ("https://a.example", "write /* at its end"),
        ("https:///x", "comes a host"),
        ("https://me@a.example/", "comes a host"),
        ("https://a.example:0/", "a port is"),
        ("https://a.example:70000/", "a port is"),
        ("https://a.example:x/", "comes a host"),
        ("https://*/x", "the host is"),
        ("https://*.10.0.0.1/x", "the host is"),
        ("https://a.*.example/x", "the host is"),
        ("https://bücher.example/", "xn--"),
        ("https://[::zz]/", "comes a host"),
        ("https://a.example/x?y=1", "no query"),
        ("https://a.example/x#y", "no query"),
        ("https://a.example/a/*/b", "* only at its end"),
        ("https://a.example/**", "* only at its end"),
        ("https://a.example/a/../b", ". or .. segment"),
        ("https://a.example/a%2fb", "encoded /"),
        ("https://a.example/" + "x" * 500 + "?", "no query"),
    ],
)
def test_a_bad_pattern_is_one_clear_line(pattern: str, hint: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse_pattern(pattern)
    assert hint in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@given(st.text(max_size=60))
def test_parsing_is_total(text: str) -> None:
    try:
        pattern = parse_pattern(text)
    except PolicyError:
        return
    assert isinstance(pattern.matches("GET", "https", "a.example", 443, "/"), bool)


segments = st.lists(
    st.sampled_from(
        ["a", "admin", "..", ".", "%2e%2e", "%2f", "..;x", "", "%61", "..%5c", "%252e"]
    ),
    max_size=6,
)


@given(segments)
def test_no_spelling_leaves_the_prefix(parts: list[str]) -> None:
    """However a server reads it (decode twice, drop parameters, resolve dots), it stays inside."""
    from posixpath import normpath
    from urllib.parse import unquote

    path = "/public/" + "/".join(parts)
    if parse_pattern("https://a.example/public/*").matches("GET", "https", "a.example", 443, path):
        read = unquote(unquote(path)).replace("\\", "/")
        read = "/".join(segment.partition(";")[0] for segment in read.split("/"))
        assert (normpath(read) + "/").startswith("/public/")
