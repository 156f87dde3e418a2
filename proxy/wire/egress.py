"""Where a program may not be taken: addresses that only look like the internet.

Pure: what an address is, and whether an agent may be taken there. It is asked about the address
that is really dialled, so no name can be bound anew between the check and the connection.
"""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Kind(StrEnum):
    """What an address is. All but PUBLIC are refused unless the agent's policy names them."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link_local"
    METADATA = "metadata"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"
    RESERVED = "reserved"


@dataclass(frozen=True, slots=True)
class Place:
    """An address and a port as they are dialled. `address` is what is reached in the end: the IPv4
    address where one is written inside an IPv6 one."""

    address: IPAddress
    port: int
    kind: Kind

    @classmethod
    def of(cls, host: str, port: int) -> "Place":
        """Of a socket's address. Raises ValueError if `host` is not an IP address."""
        # A zone says through which interface, not where to.
        address = ipaddress.ip_address(host.partition("%")[0])
        return cls(_embedded(address) or address, port, kind_of(address))


@dataclass(frozen=True, slots=True)
class Leave:
    """Where an agent may be taken.

    `targets` are networks with a port, or None for every port: what they name is allowed, whatever
    it is. `ports` are those allowed on public addresses; empty means `usual_port`. `everywhere` is
    for what the operator named in the settings.
    """

    targets: tuple[tuple[IPNetwork, int | None], ...] = ()
    ports: frozenset[int] = frozenset()
    everywhere: bool = False

    def refusal(self, place: Place) -> str | None:
        """Why nobody may be taken there, as a stable code; None if they may."""
        if self.everywhere:
            return None
        if place.kind is not Kind.PUBLIC:
            code = f"egress_{place.kind}"
        elif place.port in self.ports if self.ports else usual_port(place.port):
            return None
        else:
            code = "egress_port"
        return None if self._named(place) else code

    def _named(self, place: Place) -> bool:
        # 0.0.0.0 is no place: the system puts another address in its stead.
        if place.kind is Kind.UNSPECIFIED:
            return False
        # Whoever allows 0.0.0.0/0 hardly meant to hand out the machine's cloud credentials.
        exact = place.kind is Kind.METADATA
        address, port = place.address, place.port
        return any(
            address in network
            and (only is None or only == port)
            and (not exact or network.num_addresses == 1)
            for network, only in self.targets
        )


EVERYWHERE = Leave(everywhere=True)

# From 1024 up: the ports that browsers refuse (WHATWG Fetch, "port blocking"), and databases,
# caches, queues, remote desktops and file servers. None of them is an HTTP API's, and some read a
# command out of an HTTP request.
_NO_WEB = frozenset(
    (
        *(1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670)),
        *(6679, 6697, 10080),
        *(1433, 1434, 1521, 1883, 3306, 3389, 5432, 5433, 5671, 5672, 5900, 5901, 6379, 6380),
        *(8883, 9042, 9092, 11211, 27017, 27018, 27019),
    )
)


def usual_port(port: int) -> bool:
    """Whether a program may go to this port of a public address by default: 80, 443, and from 1024
    up all but those of services that are not HTTP."""
    return port in (80, 443) or (port >= 1024 and port not in _NO_WEB)


def kind_of(address: IPAddress) -> Kind:
    """What an address is, seen through every way of writing an IPv4 address inside an IPv6 one."""
    if address in _METADATA:
        return Kind.METADATA
    inner = _embedded(address)
    if inner is None:
        return _first(_IPV4 if address.version == 4 else _IPV6, address)
    kind = kind_of(inner)
    # Nobody carries Teredo or IPv4-compatible addresses to the public IPv4 internet any more.
    dead = address in _TEREDO or address in _COMPATIBLE
    return Kind.RESERVED if kind is Kind.PUBLIC and dead else kind


def _embedded(address: IPAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside a mapped, NAT64, compatible, 6to4 or Teredo one."""
    if address.version == 4:
        return None
    if address.ipv4_mapped is not None or address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _COMPATIBLE and int(address) > 1:
        return ipaddress.IPv4Address(int(address))
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    return None


def _first(table: tuple[tuple[IPNetwork, Kind], ...], address: IPAddress) -> Kind:
    return next(kind for network, kind in table if address in network)


# Cloud metadata services, which hand the machine's credentials to whoever asks.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, DigitalOcean, Oracle, OpenStack and others
        "fe80::a9fe:a9fe",  # OpenStack
        "fd00:ec2::254",  # AWS
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
        "168.63.129.16",  # Azure's host agent
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "fd00:42::42",
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_TEREDO = ipaddress.ip_network("2001::/32")


def _table(text: str) -> tuple[tuple[IPNetwork, Kind], ...]:
    rows = (line.split() for line in text.strip().splitlines())
    return tuple((ipaddress.ip_network(network), Kind(kind)) for network, kind in rows)


# IANA's special-purpose registries, the first match counts. Our own copy: what Python's is_private
# and is_global say has changed between its patch releases.
_IPV4 = _table("""
0.0.0.0/32       unspecified
0.0.0.0/8        reserved
127.0.0.0/8      loopback
10.0.0.0/8       private
172.16.0.0/12    private
192.168.0.0/16   private
100.64.0.0/10    private
169.254.0.0/16   link_local
192.0.0.0/24     reserved
192.0.2.0/24     reserved
198.18.0.0/15    reserved
198.51.100.0/24  reserved
203.0.113.0/24   reserved
192.88.99.0/24   reserved
224.0.0.0/4      multicast
240.0.0.0/4      reserved
0.0.0.0/0        public
""")
# Of IPv6 only 2000::/3 is given out.
_IPV6 = _table("""
::/128           unspecified
::1/128          loopback
fe80::/10        link_local
fc00::/7         private
fec0::/10        private
64:ff9b:1::/48   private
ff00::/8         multicast
2001::/23        reserved
2001:db8::/32    reserved
3fff::/20        reserved
2000::/3         public
::/0             reserved
""")
