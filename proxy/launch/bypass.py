"""NO_PROXY: what a program asks for directly.

Clients agree on little: `*.name` is understood by Go only, `127.*` by none, and address ranges by
curl and requests, but not by httpx. So names stand as they are, and globs become what most read.
"""

from collections.abc import Iterable, Mapping

# This machine's own services: the proxy takes nobody there unless the agent's policy says so.
LOCAL = ("localhost", "127.0.0.1", "::1")


def merged(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What both spellings of NO_PROXY in `environ` name, then this machine itself; each once.

    `*.name` becomes `.name`. `*`, which would send everything past autopay, and other globs, which
    no client reads, are dropped.
    """
    named = [
        entry.strip()
        for variable in ("NO_PROXY", "no_proxy")
        for entry in environ.get(variable, "").split(",")
    ]
    plain = (entry[1:] if entry.startswith("*.") else entry for entry in named)
    return tuple(dict.fromkeys([*(e for e in plain if e and "*" not in e), *LOCAL]))


def for_java(entries: Iterable[str]) -> str:
    """The same for -Dhttp.nonProxyHosts, which knows globs and nothing but globs."""
    patterns = []
    for entry in entries:
        if "/" in entry:
            continue  # an address range
        if entry == "127.0.0.1":
            patterns.append("127.*")
        elif ":" in entry and not entry.startswith("["):
            patterns.append(f"[{entry}]" if entry.count(":") > 1 else entry.partition(":")[0])
        elif entry.startswith("."):
            patterns += [f"*{entry}", entry[1:]]
        else:
            patterns.append(entry)
    return "|".join(dict.fromkeys(patterns))
