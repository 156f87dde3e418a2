"""Other people's programs, run to their end and heard out."""

import asyncio
from collections.abc import Mapping, Sequence


async def heard(
    command: Sequence[str], env: Mapping[str, str], seconds: float
) -> tuple[int | None, str, str]:
    """(exit status, or None if it had to be killed; stdout; stderr)."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError:
        return None, "", ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
