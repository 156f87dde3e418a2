"""The data plane: bytes in, bytes out. It knows that a 402 exists, not what it costs."""
