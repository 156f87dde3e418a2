"""Run the proxy until SIGTERM or Ctrl-C."""

import argparse
import asyncio
import errno
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib import import_module

from proxy import __version__
from proxy.cli.errors import CommandError, refusal
from proxy.cli.render import note, say
from proxy.ledger import LedgerError, agents
from proxy.service import Service
from proxy.settings import Address, Settings
from proxy.tasks import end
from proxy.wire.plane import tune_malloc


def arguments(_parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(options: argparse.Namespace) -> int:
    settings = Settings.load(options.config)
    _log_to_stderr(settings.log_level)
    _check_listeners(settings)
    tune_malloc()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()

    def stop() -> None:
        # The second signal finds the system's own handlers, and ends us at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        told_to_stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    service = Service(settings)
    starting = asyncio.create_task(service.start())
    stopping = asyncio.create_task(told_to_stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await end(starting)
        await service.stop()  # it may have been done just then
        return
    try:
        await starting
    except BaseException:
        stopping.cancel()
        raise
    try:
        await _announce(service)
        await stopping
        note("autopay is stopping …")
    finally:
        await service.stop()


async def _announce(service: Service) -> None:
    settings = service.settings
    mounted = ", ".join(f"/{name}" for name in settings.providers) or "no [providers.NAME] yet"
    say(f"autopay {__version__} is ready")
    say(f"  proxy   http://{Address(*service.proxy_address)}")
    say(f"  mounts  http://{Address(*service.mounts_address)}  ({mounted})")
    if settings.listen.admin is not None:
        say(f"  admin   http://{Address(*service.admin_address)}")
    say(f"  pays    on {', '.join(settings.networks)}")
    # It serves already: a database that has just gone away is no reason to end it.
    with suppress(LedgerError):
        if not any(info.is_active for info in await agents.list_all(service.store.database)):
            note("no agent may use it yet; run: autopay agent add NAME")


def _check_listeners(settings: Settings) -> None:
    """Bind every address for a moment: what cannot be bound is said by its setting's name, before
    anything else is started."""
    with ExitStack() as bound:
        for name, address in settings.listen:
            if address is None:
                continue
            try:
                found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
                for family, _, _, _, where in found:
                    bound.enter_context(socket.create_server(where, family=family))
            except OSError as error:
                taken = "stop what uses it, or " if error.errno == errno.EADDRINUSE else ""
                raise CommandError(
                    f"cannot listen at {address}: {refusal(error)}; {taken}set listen.{name} in "
                    f"autopay.toml or AUTOPAY_LISTEN__{name.upper()}=HOST:PORT"
                ) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:  # there is none for Windows
        return None
    return factory


def _log_to_stderr(level: str) -> None:
    formatter = logging.Formatter(
        "%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])
