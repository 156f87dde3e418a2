"""The certificate authority that makes https readable to autopay, and to nobody else.

It was made on this machine by `autopay init`; its key never leaves the data directory. `autopay
run` makes the programs that it starts trust it; nothing else does, unless you install it.
"""

import argparse
import sys
from pathlib import Path

from proxy.authority import PLATFORMS, Authority, install_hint, this_platform, write_certificate
from proxy.cli.errors import CommandError
from proxy.cli.render import say
from proxy.launch import trust
from proxy.paths import ca_directory
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    export = actions.add_parser("export", help="its certificate, in PEM")
    export.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: stdout")
    export.set_defaults(act=_export)
    rotate = actions.add_parser("rotate", help="make a new one; the old key is gone")
    rotate.set_defaults(act=_rotate)
    hint = actions.add_parser("install-hint", help="how to make a whole system trust it")
    hint.add_argument("--system", choices=PLATFORMS, help="default: this one")
    hint.set_defaults(act=_hint)


def run(options: argparse.Namespace) -> int:
    options.act(options, Settings.load(options.config))
    return 0


def _export(options: argparse.Namespace, settings: Settings) -> None:
    authority = Authority.load(ca_directory(settings.data_dir))
    if options.file is None:
        sys.stdout.write(authority.certificate_pem.decode("ascii"))
    else:
        write_certificate(options.file, authority)
        say(
            f"{options.file}  (SHA-256 {authority.fingerprint}, until {authority.expires:%Y-%m-%d})"
        )


def _rotate(_options: argparse.Namespace, settings: Settings) -> None:
    directory = ca_directory(settings.data_dir)
    old = Authority.load(directory)
    new = Authority.rotate(directory)
    trust.certificate_file(settings.data_dir, new)
    say(f"new  SHA-256 {new.fingerprint}, until {new.expires:%Y-%m-%d}")
    say(f"old  {directory / f'ca-{old.fingerprint}.pem'}: take it out wherever you installed it")
    say("A proxy that runs takes it up at once. Programs that `autopay run` started, and shells")
    say("that `autopay env` set up, trust the old one until they are started or set up again.")


def _hint(options: argparse.Namespace, settings: Settings) -> None:
    system = options.system or this_platform()
    if system is None:
        known = ", ".join(PLATFORMS)
        raise CommandError(f"this system is not known; name one of {known} with --system")
    authority = Authority.load(ca_directory(settings.data_dir))
    say(install_hint(system, trust.certificate_file(settings.data_dir, authority)).rstrip())
