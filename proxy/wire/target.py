"""Where a request goes, and for whom."""

from dataclasses import dataclass

from proxy.wire.agent import Agent
from proxy.wire.origin import Origin


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A provider under a path. `outer` is what the program asks below (`/NAME`), `inner` the base
    path of the provider (no trailing slash)."""

    name: str
    origin: Origin
    outer: bytes
    inner: bytes


@dataclass(slots=True)
class Target:
    """`path` is the origin-form target in bytes; `mount` is set for reverse mounts: (the path
    prefix under which the program sees the provider, the provider's own)."""

    agent: Agent
    origin: Origin
    path: bytes
    mount: MountPoint | None = None
