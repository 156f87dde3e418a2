"""A payment of one cent, as the ledger is asked to reserve it: said once, for tests and benches."""

import secrets
from dataclasses import replace
from hashlib import sha256
from uuid import UUID

from proxy.ledger import Reservation, new_id


def reservation(agent_id: UUID, **changes: object) -> Reservation:
    """Two of them differ in nothing but their id and their message."""
    usual = Reservation(
        payment_id=new_id(),
        agent_id=agent_id,
        price=10_000,
        session_id=None,
        trace_id=None,
        provider="https://api.example.com:443",
        method="GET",
        endpoint="https://api.example.com/v1/quote",
        request_body_sha256=None,
        x402_version=2,
        network="solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        asset="4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        symbol="USDC",
        amount=10_000,
        pay_to="2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4",
        blockhash="EkSnNWid2cvwEVnVx9aBqawnmiCNiDgp3gUdkDPTKN1N",
        last_valid_block_height=250,
        client_signature=secrets.token_hex(32),
        message_sha256=sha256(secrets.token_bytes(16)).digest(),
        payload={"transaction": "AQ=="},
    )
    return replace(usual, **changes)  # type: ignore[arg-type]
