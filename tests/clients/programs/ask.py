"""`ask.py LIBRARY METHOD URL BODY`: prints what comes as it comes, then the status."""

import asyncio
import os
import sys


def show(piece: bytes) -> None:
    os.write(1, piece)


def by_requests(method: str, url: str, body: bytes | None) -> int:
    import requests

    with requests.request(method, url, data=body, stream=True) as answer:
        for piece in answer.iter_content(None):
            show(piece)
    return answer.status_code


def by_httpx(method: str, url: str, body: bytes | None) -> int:
    import httpx

    with httpx.stream(method, url, content=body) as answer:
        for piece in answer.iter_raw():
            show(piece)
    return answer.status_code


def by_aiohttp(method: str, url: str, body: bytes | None) -> int:
    import aiohttp

    async def ask() -> int:
        async with (
            aiohttp.ClientSession(trust_env=True) as session,
            session.request(method, url, data=body) as answer,
        ):
            async for piece in answer.content.iter_any():
                show(piece)
            return answer.status

    return asyncio.run(ask())


def by_urllib(method: str, url: str, body: bytes | None) -> int:
    import urllib.error
    import urllib.request

    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, body, method=method))
    except urllib.error.HTTPError as error:
        answer = error
    while piece := answer.read1():
        show(piece)
    return int(answer.status)


if __name__ == "__main__":
    library, method, url, body = sys.argv[1:]
    status = globals()[f"by_{library}"](method, url, body.encode() or None)
    show(b"\nstatus=%d" % status)
