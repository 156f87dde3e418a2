"""The demo from its first line to its last."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

from proxy.demo.narrator import Narrator
from proxy.demo.programs import NotAsTold, is_setting, this_program
from proxy.demo.stage import Stage, stage
from proxy.demo.story import Story


async def demo(*, keep: bool = False) -> int:
    """Tell the story; 0 if every step went as told. `keep`: then wait until told to stop."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    narrator = Narrator()
    narrator.tell("autopay demo: programs that know nothing of payments buy from a paid API.")
    narrator.blank()
    narrator.tell(
        "All of it runs on this machine, in a directory of its own, with play money: a real "
        "PostgreSQL, the real Solana token programs on a network of one, and the autopay that you "
        "would run yourself."
    )
    narrator.blank()
    began = time.monotonic()
    async with stage(narrator) as running:
        story = Story(running, narrator)
        try:
            await story.tell()
        except NotAsTold as error:
            sys.stdout.flush()
            sys.stderr.write(f"\nautopay: the demo did not go as told: {error}\n")
            return 1
        narrator.blank()
        narrator.tell(
            f"Every step went as told ({story.checks} checks), in "
            f"{time.monotonic() - began:.1f} seconds."
        )
        if keep:
            await _keep(running, narrator)
        narrator.blank()
    narrator.blank()
    narrator.tell("To set up your own:  autopay init")
    return 0


async def _keep(running: Stage, narrator: Narrator) -> None:
    """Say how to try it, and wait for Ctrl-C."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    api, autopay = running.net.api_url, f"{_own_name()} --config {running.config}"
    if overriding := sorted(name for name in os.environ if is_setting(name)):
        # They would come before the demo's file.
        autopay = f"env -u {' -u '.join(overriding)} {autopay}"
    narrator.blank()
    narrator.tell("It is all left running until Ctrl-C. To paste into another terminal:")
    narrator.blank()
    narrator.block(
        f"""\
export http_proxy={running.proxy_url}
export HTTP_PROXY=$http_proxy
curl -i {api}/weather
curl -i {api}/v1/quote
curl -N {api}/stream
curl -i {api}/premium
curl --noproxy '*' -i {running.shop_url}/weather

{autopay} status
{autopay} receipts
{autopay} decisions
{autopay} agent freeze demo"""
    )
    await stopped.wait()


def _own_name() -> str:
    """What to type for this very program."""
    called = this_program()
    found = shutil.which("autopay")
    same = len(called) == 1 and found and Path(found).resolve() == Path(called[0]).resolve()
    return "autopay" if same else shlex.join(called)
