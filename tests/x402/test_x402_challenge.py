"""Reading challenges: every oddity seen in the wild, every rule, and noise of all kinds."""

import base64
import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.x402 import ASSETS, Challenge, NotPayable, find_asset, payment_header, read_challenge

CASES = sorted(path.stem for path in (Path(__file__).parent / "fixtures").glob("*.json"))
CODES = {"not_x402", "no_offers", "no_payable_offer", "malformed", "other_protocol"}


@pytest.mark.parametrize("name", CASES)
def test_fixture(name, load_fixture):
    case, headers, body = load_fixture(name)
    expect = case["expect"]
    if "code" in expect:
        with pytest.raises(NotPayable) as refusal:
            read_challenge(headers, body)
        assert refusal.value.code == expect["code"]
        dropped = [[drop.index, drop.reason] for drop in refusal.value.dropped]
        assert dropped == expect.get("dropped", dropped)
        return

    challenge = read_challenge(headers, body)
    assert (challenge.version, challenge.source) == (expect["version"], expect["source"])
    assert [[drop.index, drop.reason] for drop in challenge.dropped] == expect["dropped"]
    entries = entries_of(case, challenge)
    assert len(challenge.offers) == len(expect["offers"])
    for offer, wanted in zip(challenge.offers, expect["offers"], strict=True):
        assert offer.raw == entries[wanted["index"]], "the raw entry is echoed as it came"
        assert offer.version == challenge.version
        seen = {
            "scheme": offer.scheme,
            "network": offer.network,
            "symbol": offer.asset.symbol,
            "amount": offer.amount,
            "memo": offer.memo,
            "flow": offer.payment_flow,
            "timeout": offer.max_timeout_seconds,
            "fee_payer": offer.fee_payer,
            "price": offer.price,
        }
        assert {key: seen[key] for key in wanted if key != "index"} == {
            key: value for key, value in wanted.items() if key != "index"
        }


def entries_of(case, challenge):
    """The accepts list of the document that the fixture expects to be used."""
    if challenge.source == "body":
        return case["body"]["accepts"]
    values = [value for _, value in case["headers"] if isinstance(value, dict)]
    document = values[0].get("raw", values[0].get("base64"))
    if isinstance(document, list):
        return document
    return document.get("accepts", [document])


def test_every_oddity_of_the_list_has_a_fixture():
    assert {name[:2] for name in CASES if name[:2].isdigit()} == {f"{n:02}" for n in range(13)}


def good_v2(**entry):
    return {
        "x402Version": 2,
        "error": "Payment required",
        "resource": {"url": "https://api.example/x"},
        "accepts": [
            {
                "scheme": "exact",
                "network": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
                "amount": "1000",
                "asset": "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
                "payTo": "GyGKxMyg1p9SsHfm15MkNUu1u9TN2JtTspcdmrtGUdse",
                "maxTimeoutSeconds": 300,
                "extra": {"feePayer": "9hSR6S7WPtxmTojgo6GG3k4yDPecgJY292j7xrsUGWBu"},
                **entry,
            }
        ],
        "extensions": {"payment-identifier": {"info": {"required": False}, "schema": {}}},
    }


def as_header(document):
    return [(b"PAYMENT-REQUIRED", base64.b64encode(json.dumps(document).encode()))]


def test_text_of_the_server_is_one_bounded_printable_line():
    document = good_v2()
    document["error"] = "pay\r\nSet-Cookie: x\x1b[31m\u202e\ud800" + "z" * 5000
    error = read_challenge(as_header(document), b"").error
    assert error.startswith("pay Set-Cookie: x [31m z")
    assert len(error) == 300
    assert error.isprintable()


def test_decimals_names_and_symbols_of_the_server_are_ignored():
    extra = {
        "feePayer": "9hSR6S7WPtxmTojgo6GG3k4yDPecgJY292j7xrsUGWBu",
        "decimals": 18,
        "name": "Free Money",
        "symbol": "FREE",
    }
    (offer,) = read_challenge(as_header(good_v2(amount="1000000", extra=extra)), b"").offers
    assert (offer.asset.symbol, offer.asset.decimals, offer.price) == ("USDC", 6, 1_000_000)


def test_price_is_rounded_up_to_whole_micros():
    offer = read_challenge(as_header(good_v2(amount="1")), b"").offers[0]
    assert offer.price == 1


def test_an_empty_or_wordless_memo_is_none():
    fee_payer = "9hSR6S7WPtxmTojgo6GG3k4yDPecgJY292j7xrsUGWBu"
    for memo in ("", 42, ["x"], None):
        document = good_v2(extra={"feePayer": fee_payer, "memo": memo})
        assert read_challenge(as_header(document), b"").offers[0].memo is None


def test_a_lone_surrogate_in_a_memo_drops_the_entry():
    fee_payer = "9hSR6S7WPtxmTojgo6GG3k4yDPecgJY292j7xrsUGWBu"
    document = good_v2(extra={"feePayer": fee_payer, "memo": "\ud800"})
    with pytest.raises(NotPayable) as refusal:
        read_challenge(as_header(document), b"")
    assert [drop.reason for drop in refusal.value.dropped] == ["bad_memo"]


def test_header_names_are_case_insensitive_and_the_first_good_one_counts():
    bad = (b"Payment-Required", b"!!")
    good = as_header(good_v2())[0][1]
    assert read_challenge([bad, (b"payment-REQUIRED", good)], b"").offers


def test_assets_are_the_official_ones():
    from x402.mechanisms.svm.default_assets import find_default_asset

    assert len({(asset.network, asset.address) for asset in ASSETS}) == len(ASSETS)
    for asset in ASSETS:
        official = find_default_asset(asset.address, asset.network)
        assert official is not None, asset
        ours = (asset.symbol, asset.decimals, asset.token_program)
        assert (official["symbol"], official["decimals"], official["token_program"]) == ours
        assert find_asset(asset.network, asset.address) is asset


def read_without_surprise(headers, body):
    """Whatever the bytes: a challenge that can be answered, or NotPayable."""
    try:
        challenge = read_challenge(headers, body)
    except NotPayable as refusal:
        assert refusal.code in CODES
        return
    assert isinstance(challenge, Challenge)
    assert challenge.offers
    for offer in challenge.offers:
        assert 1 <= offer.amount < 2**64
        name, value = payment_header(challenge, offer, {"transaction": ""}, "p" * 16)
        message = json.loads(base64.b64decode(value, validate=True))
        if name == b"PAYMENT-SIGNATURE":
            assert message["accepted"] == offer.raw


NAMES = st.sampled_from(
    [b"PAYMENT-REQUIRED", b"X-PAYMENT-REQUIRED", b"X-PAYMENT-REQUIREMENTS", b"WWW-Authenticate"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=4), st.binary(max_size=400))
def test_arbitrary_bytes_never_surprise(headers, body):
    read_without_surprise(headers, body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["exact", "solana", "1", "", "\ud800", "1" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def paths(value, at=()):
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*at, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from paths(child, (*at, index))


PATHS = [path for path in paths(good_v2(memo="x")) if path]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(PATHS), JSON | st.just("DELETE")), min_size=1, max_size=3),
    st.sampled_from(["header", "raw header", "body"]),
)
def test_mutated_challenges_never_surprise(changes, place):
    document = copy.deepcopy(good_v2(memo="x"))
    for path, replacement in changes:
        parent = document
        try:
            for key in path[:-1]:
                parent = parent[key]
            if replacement == "DELETE":
                del parent[path[-1]]
            else:
                parent[path[-1]] = replacement
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    raw = json.dumps(document).encode()
    if place == "header":
        read_without_surprise([(b"PAYMENT-REQUIRED", base64.b64encode(raw))], b"")
    elif place == "raw header":
        read_without_surprise([(b"PAYMENT-REQUIRED", raw)], b"")
    else:
        read_without_surprise([], raw)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 600), st.binary(max_size=8))
def test_challenges_with_bytes_overwritten_never_surprise(at, noise):
    raw = json.dumps(good_v2()).encode()
    read_without_surprise([], raw[:at] + noise + raw[at + len(noise) :])
