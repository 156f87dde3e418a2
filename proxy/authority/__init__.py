"""Our certificate authority: the CA, a leaf for every host it answers for, and how to trust it."""

from proxy.authority.bundle import system_roots, write_bundle, write_certificate
from proxy.authority.ca import KEY_NAME, Authority, AuthorityError
from proxy.authority.hints import PLATFORMS, install_hint, this_platform
from proxy.authority.leaves import Leaves
from proxy.authority.truststore import JAVA_PASSWORD, write_java_truststore
from proxy.authority.watch import AuthorityFile

__all__ = [
    "JAVA_PASSWORD",
    "KEY_NAME",
    "PLATFORMS",
    "Authority",
    "AuthorityError",
    "AuthorityFile",
    "Leaves",
    "install_hint",
    "system_roots",
    "this_platform",
    "write_bundle",
    "write_certificate",
    "write_java_truststore",
]
