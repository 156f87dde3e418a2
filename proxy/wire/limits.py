"""The bounds of the data plane: bytes, and seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of heads, challenges and kept bodies; seconds of waiting."""

    header_bytes: int = 64 * 1024
    challenge_bytes: int = 64 * 1024
    replay_memory_bytes: int = 1024 * 1024
    replay_disk_bytes: int = 100 * 1024 * 1024
    connections: int = 1000
    """Programs connected at once, those behind tunnels among them."""
    connect: float = 10.0
    response: float = 300.0
    """Until an answer's head is whole, from the request's last byte or a 1xx on."""
    paid_response: float = 120.0
    """The same, for a request that carries a payment."""
    idle: float = 600.0
    """Between two bytes of a body or a tunnel, and between two requests of a program."""
    client_header: float = 30.0
    """Until a request's head is complete."""
    challenge: float = 10.0
    """How long the body of a 402 is waited for before what has come of it is decided on."""
    keep_memory_bytes: int = 64 * 1024 * 1024
    """Copies of paid answers under way, all together, in case that their programs hang up."""
    receipt_wait: float = 2.0
    """How long a paid answer's last byte waits for its receipt."""
