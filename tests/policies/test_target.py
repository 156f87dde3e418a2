from ipaddress import ip_network

import pytest

from policies import Policy, PolicyError, parse_target, validated


@pytest.mark.parametrize(
    ("text", "network", "port", "spelling"),
    [
        ("127.0.0.1", "127.0.0.1/32", None, "127.0.0.1"),
        (" 127.0.0.1/32 ", "127.0.0.1/32", None, "127.0.0.1"),
        ("127.0.0.1:8080", "127.0.0.1/32", 8080, "127.0.0.1:8080"),
        ("10.0.0.0/8", "10.0.0.0/8", None, "10.0.0.0/8"),
        ("10.0.0.0/8:443", "10.0.0.0/8", 443, "10.0.0.0/8:443"),
        ("::1", "::1/128", None, "::1"),
        ("[::1]", "::1/128", None, "::1"),
        ("[0:0::1]:65535", "::1/128", 65535, "[::1]:65535"),
        ("FD00::/8", "fd00::/8", None, "fd00::/8"),
        ("[fd00::/8]:1", "fd00::/8", 1, "[fd00::/8]:1"),
        ("::ffff:0:0:0/96", "::ffff:0:0:0/96", None, "::ffff:0:0:0/96"),
    ],
)
def test_what_a_target_says(text: str, network: str, port: int | None, spelling: str) -> None:
    target = parse_target(text)
    assert target == (ip_network(network), port)
    assert str(target) == spelling
    assert parse_target(spelling) == target


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "10.0.0.0/8"),
        ("localhost", "write an address"),
        ("api.example:443", "write an address"),
        ("*", "write an address"),
        ("127.1", "write an address"),
        ("0177.0.0.1", "write an address"),
        ("2130706433", "write an address"),
        ("256.0.0.1", "write an address"),
        ("10.0.0.0/33", "write an address"),
        ("10.0.0.0/255.0.0.0", "write an address"),
        ("10.1.2.3/8", "the network is written 10.0.0.0/8"),
        ("[fd00::1/8]:80", "the network is written fd00::/8"),
        ("127.0.0.1:", "write an address"),
        ("127.0.0.1:0", "a port is 1 to 65535"),
        ("127.0.0.1:65536", "a port is 1 to 65535"),
        ("127.0.0.1:+80", "write an address"),
        ("127.0.0.1:٨٠", "write an address"),
        ("[::1]8080", "write an address"),
        ("[::1", "write an address"),
        ("fe80::1%eth0", "write an address"),
        ("::ffff:127.0.0.1", "write the IPv4 address itself"),
        ("::ffff:7f00:0/104", "write the IPv4 address itself"),
        ("http://127.0.0.1", "write an address"),
    ],
)
def test_what_is_no_target(text: str, hint: str) -> None:
    with pytest.raises(PolicyError, match=hint) as error:
        parse_target(text)
    assert "\n" not in str(error.value)


def test_a_policy_is_stored_in_one_spelling() -> None:
    policy = Policy("bot", allowed_targets=("[::1]", "127.0.0.1/32:80"), allowed_ports=(22,))
    assert validated(policy).allowed_targets == ("::1", "127.0.0.1:80")
    for wrong in (0, 65536, -1):
        with pytest.raises(PolicyError, match=f"{wrong} is not a port"):
            validated(Policy("bot", allowed_ports=(wrong,)))
    with pytest.raises(PolicyError, match="'nowhere'"):
        validated(Policy("bot", allowed_targets=("nowhere",)))
