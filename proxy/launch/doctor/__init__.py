"""`autopay doctor`: what each runtime on this machine does behind autopay, by doing it."""

from proxy.launch.doctor.checkup import Check, Row, checkup

__all__ = ["Check", "Row", "checkup"]
