"""`autopay db migrate --profile` and `autopay db seed`, as an operator types them."""

from tests.cli.conftest import Autopay
from tests.cli.test_cli_db import do


def test_a_profile(autopay: Autopay, dsn: str) -> None:
    told = autopay.well("db", "migrate", "--profile", "development")
    assert told.endswith("The development profile is in force.\n")
    open_tables = autopay("db", "verify")
    assert open_tables.returncode == 1
    assert "table chat_messages, policy Allow all operations" in open_tables.stdout
    autopay.well("db", "migrate", "--profile", "production")
    assert "Allow all operations" not in autopay("db", "verify").stdout


def test_demo_data(autopay: Autopay, dsn: str) -> None:
    assert autopay.well("db", "seed") == "Wrote 5 payments of DemoAutopayAgent.\n"
    assert autopay.well("db", "seed") == "The demo data is there already.\n"
    assert "DemoAutopayAgent" in autopay.well("receipts")


def test_no_demo_data_among_real_payments(autopay: Autopay, dsn: str) -> None:
    autopay.well("agent", "add", "bot")
    do(
        dsn,
        "SELECT reserve(jsonb_build_object('payment_id', gen_random_uuid(), 'agent_id', "
        "(SELECT id FROM agents WHERE name = 'bot'), 'price_micros', 10, 'amount_atomic', 10, "
        "'provider', 'p', 'method', 'GET', 'endpoint', 'e', 'x402_version', 2, 'network', 'n', "
        "'asset', 'a', 'symbol', 'USDC', 'pay_to', 'x'))",
    )
    assert "there are real payments in this database" in autopay.refused("db", "seed")
