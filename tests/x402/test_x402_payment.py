"""Writing payments: what official servers insist on."""

import base64
import json

import pytest
from x402.schemas import parse_payment_payload

from proxy.x402 import PAYMENT_HEADERS, payment_header, read_challenge

PAYLOAD = {"transaction": "AgAA"}


def decode(value):
    assert value.isascii()
    assert len(value) % 4 == 0
    return json.loads(base64.b64decode(value, validate=True))


def test_v2_echoes_the_raw_entry_and_the_resource(load_fixture):
    case, headers, body = load_fixture("00_official_v2")
    challenge = read_challenge(headers, body)
    name, value = payment_header(challenge, challenge.offers[0], PAYLOAD)
    document = case["headers"][0][1]["base64"]
    assert name == b"PAYMENT-SIGNATURE"
    assert decode(value) == {
        "x402Version": 2,
        "payload": PAYLOAD,
        "accepted": document["accepts"][0],
        "resource": document["resource"],
    }
    assert parse_payment_payload(decode(value)).accepted.pay_to == challenge.offers[0].pay_to


def test_v1_names_scheme_and_network_as_the_server_did(load_fixture):
    _, headers, body = load_fixture("07_solidus_wrapped_sol_and_symbols")
    challenge = read_challenge(headers, body)
    name, value = payment_header(challenge, challenge.offers[0], PAYLOAD, "p" * 16)
    assert name == b"X-PAYMENT"
    assert decode(value) == {
        "x402Version": 1,
        "scheme": "exact",
        "network": "solana-mainnet-beta",
        "payload": PAYLOAD,
    }


def test_payment_identifier_is_added_to_the_servers_own_info(load_fixture):
    _, headers, body = load_fixture("00_official_v2")
    challenge = read_challenge(headers, body)
    _, value = payment_header(challenge, challenge.offers[0], PAYLOAD, "pay_0123456789abcdef")
    assert decode(value)["extensions"] == {
        "payment-identifier": {
            "info": {"required": False, "id": "pay_0123456789abcdef"},
            "schema": {},
        }
    }


def test_payment_identifier_is_not_sent_where_it_was_not_offered(load_fixture):
    _, headers, body = load_fixture("01_signalpulse_v2_header_and_v1_body")
    challenge = read_challenge(headers, body)
    _, value = payment_header(challenge, challenge.offers[0], PAYLOAD, "pay_0123456789abcdef")
    assert "extensions" not in decode(value)


@pytest.mark.parametrize("payment_id", ["", "short", "x" * 129, "no spaces allowed!"])
def test_a_payment_id_of_another_form_is_refused(payment_id, load_fixture):
    _, headers, body = load_fixture("00_official_v2")
    challenge = read_challenge(headers, body)
    with pytest.raises(ValueError, match="payment id"):
        payment_header(challenge, challenge.offers[0], PAYLOAD, payment_id)


def test_a_resource_that_is_no_object_is_left_out(load_fixture):
    _, headers, body = load_fixture("02_x402_solana_v2_in_body_only")
    document = json.loads(body)
    document["resource"] = "https://api.example/x"
    challenge = read_challenge(headers, json.dumps(document).encode())
    assert challenge.resource == "https://api.example/x"
    assert "resource" not in decode(payment_header(challenge, challenge.offers[0], PAYLOAD)[1])


def test_numbers_of_the_entry_survive_the_echo():
    text = (
        b'{"x402Version":2,"accepts":[{"scheme":"exact","network":"solana-devnet","amount":1000,'
        b'"asset":"4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU","big":123456789012345678901,'
        b'"payTo":"GyGKxMyg1p9SsHfm15MkNUu1u9TN2JtTspcdmrtGUdse","rate":0.1,"uni":"\xc3\xa9",'
        b'"extra":{"feePayer":"9hSR6S7WPtxmTojgo6GG3k4yDPecgJY292j7xrsUGWBu"}}]}'
    )
    challenge = read_challenge([], text)
    _, value = payment_header(challenge, challenge.offers[0], PAYLOAD)
    assert decode(value)["accepted"] == json.loads(text)["accepts"][0]
    assert b'"big":123456789012345678901' in base64.b64decode(value)


def test_payment_headers_are_the_two_request_headers():
    assert {b"payment-signature", b"x-payment"} == PAYMENT_HEADERS
