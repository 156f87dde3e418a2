"""autopay: a proxy that pays."""

__version__ = "0.1.0"
