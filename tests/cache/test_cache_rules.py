"""The rules by themselves, beside RFC 9111 told once more as a table, and on whatever comes."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cache import rules
from proxy.cache.directives import ANY, MOST_SECONDS, Directives, directives, joined, moment
from proxy.cache.rules import Life, Scope, Terms, Use
from proxy.wire.credentials import is_credential
from proxy.wire.parsers import RawHeaders

NOW = 1_600_000_000
DATE = (b"Date", b"Sun, 13 Sep 2020 12:26:40 GMT")  # NOW
LATER = b"Sun, 13 Sep 2020 12:27:40 GMT"  # a minute after it


def of(value: bytes) -> RawHeaders:
    return [(b"Cache-Control", value)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", Directives()),
        (b"max-age=5", Directives(max_age=5)),
        (b'MAX-AGE="5" , Public', Directives(max_age=5, public=True)),
        (b"max-age=5, max-age=3", Directives(max_age=3)),
        (b"max-age=5, max-age=x", Directives(max_age=0)),
        (b"max-age=-1", Directives(max_age=0)),
        (b"max-age=5.5", Directives(max_age=0)),
        (b"max-age", Directives(max_age=0)),
        (b"max-age=99999999999", Directives(max_age=MOST_SECONDS)),
        (b'private="x-a, no-store", max-age=1', Directives(private=True, max_age=1)),
        (b'no-cache="set-cookie"', Directives(no_cache=True)),
        (b"max-stale", Directives(max_stale=ANY)),
        (b"max-stale=7, min-fresh=1, min-fresh=2", Directives(max_stale=7, min_fresh=2)),
        (b"max-stale=x", Directives(max_stale=0)),
        (b'x="\\", no-store", s-maxage=1', Directives(s_maxage=1)),
        (b",, no-store ;q=1,", Directives(no_store=True)),
        (b"no-stores, xno-store", Directives()),
    ],
)
def test_cache_control(value: bytes, said: Directives) -> None:
    assert directives(of(value)) == said


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"Sun, 13 Sep 2020 12:26:40 GMT", NOW),
        (b"Sunday, 13-Sep-20 12:26:40 GMT", NOW),
        (b"Sun Sep 13 12:26:40 2020", NOW),
        (b"0", None),
        (b"", None),
        (b"Sun, 13 Sep 2020 12:26:40 +0200", None),
        (b"Sun, 13 Sep 99999999 12:26:40 GMT", None),
    ],
)
def test_dates(value: bytes, seconds: int | None) -> None:
    assert moment([(b"date", value)], b"date") == seconds


def life(headers: RawHeaders, *, shared: bool = False, delay: float = 0, **terms: int) -> Life:
    scope = Scope.ALL if shared else Scope.AGENT
    return rules.life(200, headers, Terms(**terms), scope=scope, wall=NOW, delay=delay)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "shared", "seconds", "age"),
    [
        ([DATE, *of(b"max-age=9")], False, 9, 0),
        ([*of(b"max-age=9")], False, 9, 0),
        ([*of(b"max-age=9, s-maxage=5")], False, 9, 0),
        ([*of(b"max-age=9, s-maxage=5")], True, 5, 0),
        ([DATE, (b"Expires", LATER)], False, 60, 0),
        ([(b"Expires", LATER)], False, 60, 0),
        ([(b"Expires", LATER), *of(b"max-age=1")], False, 1, 0),
        ([(b"Expires", b"0"), DATE], False, 0, 0),
        ([(b"Expires", LATER), (b"Expires", LATER)], False, 0, 0),
        ([DATE], False, 7, 0),
        ([(b"Age", b"4"), *of(b"max-age=9")], False, 9, 4),
        ([(b"Age", b"4, 9"), *of(b"max-age=9")], False, 9, 4),
        ([(b"Age", b"-4"), *of(b"max-age=9")], False, 9, 0),
        (
            [(b"Date", b"Sun, 13 Sep 2020 12:26:00 GMT"), (b"Age", b"4"), *of(b"max-age=9")],
            False,
            9,
            40,
        ),
        ([(b"Date", LATER), *of(b"max-age=9")], False, 9, 0),
        ([*of(b"max-age=99999")], False, 1000, 0),
    ],
)
def test_how_long_and_how_old(headers: RawHeaders, shared: bool, seconds: int, age: int) -> None:
    found = life(headers, shared=shared, fresh_seconds=7, max_seconds=1000)
    assert (found.seconds, found.age) == (seconds, age)


def test_the_way_here_is_part_of_its_age() -> None:
    assert life([(b"Age", b"4"), *of(b"max-age=9")], delay=2.5).age == 6.5


# --- the model: each rule of RFC 9111 sections 3 and 4 as a sentence of its own, none after another


def may_be_kept(method: str, status: int, request: set[str], answer: set[str], shared: bool) -> str:
    """For whom, by section 3 and what we do not do at all."""
    sentences = [
        method in ("GET", "HEAD"),
        status in (200, 203, 204, 300, 301, 302, 303, 307, 308),
        not {"no-store", "range"} & request,
        "no-store" not in answer,
        "vary *" not in answer,
        "event-stream" not in answer,
        bool({"public", "private", "max-age", "s-maxage", "expires"} & answer)
        or status in (200, 203, 204, 300, 301, 308),
    ]
    if not all(sentences):
        return "nobody"
    if not shared or {"private", "set-cookie"} & answer:
        return "agent"
    if "credential" in request and not {"public", "s-maxage", "must-revalidate"} & answer:
        return "agent"
    return "all"


_SAYS = {
    "public": (b"Cache-Control", b"public"),
    "private": (b"Cache-Control", b"private"),
    "no-store": (b"Cache-Control", b"no-store"),
    "max-age": (b"Cache-Control", b"max-age=9"),
    "s-maxage": (b"Cache-Control", b"s-maxage=9"),
    "must-revalidate": (b"Cache-Control", b"must-revalidate"),
    "expires": (b"Expires", LATER),
    "vary *": (b"Vary", b"accept, *"),
    "event-stream": (b"Content-Type", b"text/event-stream; charset=utf-8"),
    "set-cookie": (b"Set-Cookie", b"a=1"),
    "range": (b"Range", b"bytes=0-1"),
    "credential": (b"Authorization", b"Bearer x"),
}


@settings(max_examples=400)
@given(
    st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]),
    st.sampled_from([200, 203, 204, 206, 300, 301, 302, 304, 307, 308, 400, 404, 410, 500]),
    st.sets(st.sampled_from(["no-store", "range", "credential"])),
    st.sets(st.sampled_from([word for word in _SAYS if word not in ("range", "credential")])),
    st.booleans(),
)
def test_what_may_be_kept(
    method: str, status: int, request: set[str], answer: set[str], shared: bool
) -> None:
    asked = rules.wish([_SAYS[word] for word in sorted(request)])
    headers = [_SAYS[word] for word in sorted(answer)]
    found = rules.scope(method, asked, status, headers, Terms(shared=shared))
    assert found.value == may_be_kept(method, status, request, answer, shared)


@settings(max_examples=500)
@given(
    st.integers(0, 20),  # the lifetime
    st.integers(0, 40),  # the age
    st.booleans(),  # no-cache in the answer
    st.booleans(),  # must-revalidate
    st.booleans(),  # a validator
    st.booleans(),  # no-cache in the request
    st.none() | st.integers(0, 40),  # max-age
    st.none() | st.integers(0, 20),  # min-fresh
    st.none() | st.integers(0, 20) | st.just(ANY),  # max-stale
)
def test_what_it_may_serve(
    seconds: int,
    age: int,
    checked: bool,
    strict: bool,
    validated: bool,
    no_cache: bool,
    max_age: int | None,
    min_fresh: int | None,
    max_stale: int | None,
) -> None:
    one = Life(seconds, 0.0, not checked, strict, False, validated)
    asks = Directives(no_cache=no_cache, max_age=max_age, min_fresh=min_fresh, max_stale=max_stale)
    found = rules.use(one, age, rules.Wish(False, asks, False, None, None))
    # Sections 5.2.1.1 to 5.2.1.4 and 5.2.2.2, 5.2.2.4: each forbids, whatever the others say.
    forbidden = [
        checked,
        no_cache,
        max_age is not None and age > max_age,
        min_fresh is not None and seconds < age + min_fresh,
        age >= seconds and strict,
        age >= seconds and max_stale is None,
        age >= seconds and max_stale is not None and age - seconds > max_stale,
    ]
    if any(forbidden):
        assert found is (Use.CHECK if validated else Use.NOT)
    elif age < seconds:
        assert found is Use.FRESH
    elif min_fresh is not None:  # stale, and to be fresh for 0 more seconds: no sense in it
        assert found in (Use.CHECK, Use.NOT)
    else:
        assert found is Use.STALE


_BYTES = st.binary(max_size=30).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))
_FIELD = st.tuples(
    st.sampled_from(
        [
            *(b"Cache-Control", b"Age", b"Date", b"Expires", b"ETag", b"Last-Modified", b"Vary"),
            *(b"Pragma", b"If-None-Match", b"If-Modified-Since", b"Connection", b"Content-Type"),
        ]
    ),
    _BYTES | st.sampled_from([b"max-age=5", b"no-cache", b'"1"', b'W/"1"', LATER, b"*", b"7"]),
)  # fmt: skip


@settings(max_examples=500)
@given(st.lists(_FIELD, max_size=8), st.lists(_FIELD, max_size=8))
def test_whatever_comes_is_judged(request: RawHeaders, answer: RawHeaders) -> None:
    asked = rules.wish(request)
    scope = rules.scope("GET", asked, 200, answer, Terms())
    found = rules.life(200, answer, Terms(), scope=scope, wall=NOW, delay=0.5)
    assert 0 <= found.seconds <= 86_400 and found.age >= 0.5
    rules.use(found, found.age, asked)
    rules.unchanged(asked, answer)
    rules.agrees(answer, request)
    assert rules.suits(rules.varied(answer, request), request) or b"*" in (
        joined(answer, b"vary") or b""
    )
    fresh = rules.freshened(rules.kept_fields(answer), request)
    assert not {name.lower() for name, _ in fresh} & {b"age", b"connection", b"content-length"}
    for name, value in rules.conditions(answer):
        assert name and value


def test_fields_of_one_payment_or_connection_are_not_kept() -> None:
    kept = [(b"X-A", b"1"), (b"Content-Type", b"a/b"), (b"ETag", b'"1"')]
    gone = [
        (b"Connection", b"X-Hop, close"), (b"X-Hop", b"1"), (b"Keep-Alive", b"1"), (b"Age", b"1"),
        (b"PAYMENT-RESPONSE", b"1"), (b"Autopay-State", b"paid"), (b"Proxy-Authenticate", b"x"),
        (b"Content-Length", b"9"), (b"Trailer", b"x"),
    ]  # fmt: skip
    assert list(rules.kept_fields([*gone, *kept])) == kept
    stored = [(b"X-A", b"0"), (b"X-B", b"0"), (b"content-type", b"c/d")]
    assert list(rules.freshened(stored, [*gone, *kept])) == [
        (b"X-B", b"0"), (b"content-type", b"c/d"), (b"X-A", b"1"), (b"ETag", b'"1"'),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "said", "agrees"),
    [
        ([(b"ETag", b'"1"')], [(b"ETag", b'"1"')], True),
        ([(b"ETag", b'W/"1"')], [(b"ETag", b'"1"')], True),
        ([(b"ETag", b'"1"')], [(b"ETag", b'"2"')], False),
        ([(b"ETag", b'"1"')], [], True),
        ([(b"Last-Modified", LATER)], [(b"Last-Modified", LATER)], True),
        ([(b"Last-Modified", LATER)], [(b"Last-Modified", b"another")], False),
        ([], [(b"ETag", b'"2"')], False),
    ],
)
def test_which_answer_a_304_is_about(stored: RawHeaders, said: RawHeaders, agrees: bool) -> None:
    assert rules.agrees(stored, said) is agrees


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("Authorization Cookie X-API-Key Api-Key X-Auth-Token X-Access-Token", True),
        ("SIGN-IN-WITH-X Sign-In-With-X X-Goog-Api-Key apikey X-RapidAPI-Key", True),
        ("Ocp-Apim-Subscription-Key X-Amz-Security-Token X-Session-Id", True),
        ("X-Client-Secret X-Amz-Credential X-CSRF-TOKEN", True),
        ("Idempotency-Key Sec-WebSocket-Key Autopay-Session Autopay-Idempotency-Key", False),
        ("Accept Accept-Language User-Agent Cache-Control X-Request-Id Keep-Alive", False),
    ],
)
def test_credentials_are_told_by_their_names(names: str, found: bool) -> None:
    for name in names.encode().split():
        for written in (name, name.lower(), name.upper()):
            assert is_credential(written) is found, written
            assert rules.wish([(written, b"x")]).credential is found, written


def test_every_condition_is_seen() -> None:
    for name, bypass in product((b"Range", b"If-Range", b"If-Match", b"X-PAYMENT"), (True,)):
        assert rules.wish([(name, b"x")]).bypass is bypass
    assert rules.wish([(b"If-None-Match", b"*")]).known == (b"*",)
    assert rules.wish([(b"Pragma", b"No-Cache")]).asks.no_cache
    assert not rules.wish(
        [(b"Pragma", b"no-cache"), (b"Cache-Control", b"max-age=1")]
    ).asks.no_cache
