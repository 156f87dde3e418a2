"""A gigabyte through the proxy, and its memory stays where it was."""

import asyncio
import json
import resource
import sys
from pathlib import Path

import pytest
from wire_rig import CREDENTIAL, RECEIPT, Rig

from proxy.wire.plane import tune_malloc

GIGABYTE = 1 << 30
GROWTH = 24 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.asyncio(loop_factories=["uvloop"])
@pytest.mark.parametrize("mode", ["length", "chunked", "paid", "tunnel", "upload"])
async def test_a_gigabyte_with_flat_memory(rig: Rig, mode: str) -> None:
    tune_malloc()
    rig.gate.answering = rig.gate.buy
    peer = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("wire_peer.py")),
        str(rig.forward),
        CREDENTIAL.decode(),
        mode,
        str(GIGABYTE),
        stdout=asyncio.subprocess.PIPE,
    )
    running = asyncio.create_task(peer.communicate())
    before, peak = resident(), 0
    while not running.done():
        await asyncio.sleep(0.01)
        peak = max(peak, resident())
    out, _ = await running
    said = json.loads(out)
    assert said["got"] == GIGABYTE
    assert peak - before < GROWTH, f"{(peak - before) >> 20} MiB"
    if mode == "paid":
        assert (b"%b: %b" % RECEIPT).decode() in said["head"]
        assert rig.gate.deliveries[0].size == GIGABYTE
    print(mode, f"{said['seconds']:.2f} s, +{(peak - before) / 2**20:.1f} MiB")
