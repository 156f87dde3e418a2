"""`autopay ca rotate` beside a running proxy: the next tunnel is opened with the new CA."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tunnel_rig import Ca, Inside, inside

from proxy.authority import KEY_NAME, Authority, AuthorityFile, Leaves


@pytest.fixture
async def rig(ca: Ca, tmp_path: Path) -> AsyncIterator[Inside]:
    first = Authority.create(tmp_path / "ours")
    file = AuthorityFile(tmp_path / "ours")
    leaves = Leaves(file.current(), newest=file.current)
    ours = Ca(ca.theirs, leaves, first.certificate_pem.decode())
    async with inside(ours) as it:
        yield it
    leaves.close()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.certificate_pem.decode())


async def buys(rig: Inside, trust: ssl.SSLContext) -> bool:
    try:
        client = await rig.behind(await rig.opened(), trust)
    except ssl.SSLCertVerificationError:
        return False
    await client.send(rig.request(b"/a"))
    assert (await client.answer()).status == 200
    client.close()
    return True


async def test_it_is_taken_up_at_once(
    rig: Inside, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = rig.ca.trusting
    assert await buys(rig, old)
    kept = await rig.behind(await rig.opened(), old)
    with caplog.at_level(logging.WARNING, "proxy.authority"):
        new = Authority.rotate(tmp_path / "ours")
        assert await buys(rig, trusting(new))
    assert new.fingerprint in caplog.text
    assert not await buys(rig, old)
    await kept.send(rig.request(b"/b"))
    assert (await kept.answer()).status == 200, "what is open stays open"
    newer = Authority.rotate(tmp_path / "ours")
    assert [await buys(rig, trusting(ca)) for ca in (new, newer)] == [False, True]


async def test_who_has_rejected_the_old_one_has_said_nothing_of_the_new(
    rig: Inside, tmp_path: Path
) -> None:
    stranger = Authority.create(tmp_path / "stranger")
    for _ in range(3):
        assert not await buys(rig, trusting(stranger))
        await asyncio.sleep(0.05)
    # From here on its tunnels are joined blind: it is shown the provider's own certificate.
    theirs = rig.ca.trust(theirs=True)
    assert await buys(rig, theirs)
    new = Authority.rotate(tmp_path / "ours")
    assert await buys(rig, trusting(new))


@pytest.mark.parametrize("how", ["half", "empty", "gone", "readable", "no CA"])
async def test_what_is_no_ca_changes_nothing(
    rig: Inside, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path = tmp_path / "ours" / KEY_NAME
    good = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "readable":
        path.chmod(0o644)
        path.write_bytes(good + b"\n")
    else:
        path.write_bytes({"half": good[:300], "empty": b"", "no CA": b"hello"}[how])
    with caplog.at_level(logging.ERROR, "proxy.authority"):
        assert await buys(rig, rig.ca.trusting)
        assert await buys(rig, rig.ca.trusting)
    assert caplog.text.count("stays the one that was there before") == 1
    path.unlink(missing_ok=True)
    new = Authority.create(tmp_path / "ours")
    assert await buys(rig, trusting(new))


async def test_a_leaf_that_was_on_its_way_is_not_kept(tmp_path: Path) -> None:
    """Asked for under the old CA, ready under the new one: who asked gets it, nobody else does."""
    Authority.create(tmp_path)
    file = AuthorityFile(tmp_path)
    leaves = Leaves(file.current(), newest=file.current)
    waiting = asyncio.create_task(leaves.context_for("a.example"))
    await asyncio.sleep(0)
    Authority.rotate(tmp_path)
    assert leaves.generation == 1
    old = await waiting
    new = await leaves.context_for("a.example")
    assert new is not old
    assert leaves.cached("a.example") is new
    leaves.close()
