"""`autopay …`: what the operator types. One file per command, loaded only when it is called."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from proxy import __version__

COMMANDS = {  # in the order in which one needs them
    "init": "make the wallet, the database and a first agent",
    "serve": "run the proxy",
    "run": "start a program whose requests are paid for",
    "env": "print what a shell sets for its programs to be paid for",
    "doctor": "try what each runtime on this machine needs",
    "demo": "see it all work, with play money, and leave nothing behind",
    "localnet": "run a local Solana network, a facilitator and a paid API to try things on",
    "agent": "who may spend, and how much",
    "policy": "all that may be paid and what not: as files, as it holds, as it would be",
    "limit": "ceilings above the agents' own: per provider, per wallet, for all",
    "approval": "payments that wait for an operator's yes",
    "pin": "whom providers are paid to",
    "key": "who may use the operator's API",
    "wallet": "what is paid from",
    "ca": "the certificate authority that https is opened with",
    "secret": "the key that tokens are sealed with",
    "receipts": "what was paid",
    "claims": "what was paid for and not delivered, to be sent to the provider",
    "decisions": "what was allowed and denied, and why",
    "spend": "where the money went",
    "events": "what happened: the audit trail, and search in it",
    "webhook": "be told of what happens, wherever you are",
    "providers": "how good each provider is, and why",
    "show": "one payment whole",
    "db": "the database: its schema, its copies, its age",
    "reconcile": "ask the chain, now, what became of payments that are not proved",
    "audit": "check the books against themselves",
    "halt": "stop all spending at once",
    "resume": "let it go on",
    "status": "is everything well?",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: it could not be done, and stderr says why; 2: wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    called = parser.parse_args(words or ["--help"])
    command = import_module(f"proxy.cli.commands.{called.command}")
    parser = argparse.ArgumentParser(
        prog=f"autopay {called.command}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(parser)
    command.arguments(parser)
    options = parser.parse_args(called.rest, argparse.Namespace(config=called.config))
    try:
        status: int = command.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `autopay receipts | head`: nobody reads on. Nor shall Python complain of it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        lines = import_module("proxy.cli.errors").lines_for(error)
        if not lines:
            raise  # a bug: here a traceback is what one wants
        sys.stdout.flush()
        sys.stderr.writelines(f"autopay: {line}\n" for line in lines)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="autopay",
        usage="autopay [--config PATH] COMMAND …",
        description="A proxy that pays: x402 for any program, under a policy and a budget.",
        epilog=f"commands:\n{listed}\n\nautopay COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"autopay {__version__}")
    _add_config(parser)
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="what to do: one of these"
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    """Before the command and after it: people write it in either place."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        default=None if parser.prog == "autopay" else argparse.SUPPRESS,
        help="the settings file (default: ./autopay.toml, else your own autopay.toml)",
    )
