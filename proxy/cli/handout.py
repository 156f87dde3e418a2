"""What a new agent's owner needs: its token, once, in the lines to paste."""

from proxy.settings import Address, Settings

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


def reachable(address: Address) -> Address:
    """Where a program on this machine finds a listener that may be bound to every address."""
    return Address(_EVERY_ADDRESS.get(address.host, address.host), address.port)


def proxy_url(settings: Settings, agent: str, token: str) -> str:
    return f"http://{agent}:{token}@{reachable(settings.listen.proxy)}"


def mount_url(settings: Settings, token: str, provider: str) -> str:
    return f"http://{reachable(settings.listen.mounts)}/~{token}/{provider}"


def handout(settings: Settings, agent: str, token: str) -> str:
    """The lines for a terminal."""
    mounts = reachable(settings.listen.mounts)
    providers = list(settings.providers) or ["NAME"]
    lines = [
        "Its token is shown this once; only a hash of it is kept.",
        "",
        "Any program, with all that its runtime needs:",
        f"  autopay run --agent {agent} -- COMMAND",
        "",
        "A program that knows HTTP_PROXY (for https:// it must trust `autopay ca export`):",
        f"  export http_proxy={proxy_url(settings, agent, token)}",
        "  export HTTP_PROXY=$http_proxy https_proxy=$http_proxy HTTPS_PROXY=$http_proxy",
        "",
        "A program that knows only a base URL"
        + ("" if settings.providers else " (first: [providers.NAME] in autopay.toml)")
        + ":",
    ]
    lines += [f"  {mount_url(settings, token, name)}" for name in providers]
    lines += [
        f"  or http://{mounts}/{providers[0]} with the header  Autopay-Token: {token}",
    ]
    return "\n".join(lines)
