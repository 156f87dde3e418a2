"""What agents may pay for, where, and how much of it: in files, in force, and as it would be.

  autopay policy show > policies/now.toml                   what holds, as a file
  autopay policy lint policies/                             what is said in vain
  autopay policy test policies/                             the [[test]] cases of the files
  autopay policy diff policies/                             what apply would change
  autopay policy apply policies/ --note "for the launch"    make it hold, at once, everywhere
  autopay policy explain --agent bot --url https://api.example.com/v1 --price 0.05
  autopay policy simulate --since 7d policies/              what it would have denied
  autopay policy shadow policies/                           let it decide too, for the log alone
  autopay policy history                                    who changed what, when, from where
  autopay policy rollback 41                                as it was at version 41

docs/policies.md tells what files can say. A layer in the files replaces the one that holds; what
the files do not name stays, unless --prune is given.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from proxy.cli import policy_asking, policy_changing, policy_looking
from proxy.cli.actions import Actions, for_machines
from proxy.cli.policy_files import add_files
from proxy.cli.questions import ago, positive, usd
from proxy.settings import Settings

Action = Callable[[argparse.Namespace, Settings], Awaitable[int]]


def arguments(parser: argparse.ArgumentParser) -> None:
    action = Actions[Action](parser).add
    machine = for_machines()
    note = argparse.ArgumentParser(add_help=False)
    note.add_argument("--note", default="", metavar="TEXT", help="why, for the history")
    prune = argparse.ArgumentParser(add_help=False)
    prune.add_argument(
        "--prune", action="store_true", help="the files are all there is: what they lack goes"
    )
    expect = argparse.ArgumentParser(add_help=False)
    expect.add_argument(
        "--expect", type=int, metavar="VERSION", help="only if this is the version that holds"
    )

    apply = action("apply", "make files hold", policy_changing.apply, prune, note, expect, machine)
    add_files(apply)
    apply.add_argument(
        "--create", action="store_true", help="make agents that are missing, without a token"
    )
    apply.add_argument(
        "--force", action="store_true", help="even if lint or a [[test]] finds something wrong"
    )
    diff = action("diff", "what apply would change", policy_looking.diff, prune, machine)
    add_files(diff)
    diff.add_argument("--exit-code", action="store_true", help="1 if there is any change")
    show = action("show", "what holds, as a policy file", policy_looking.show, machine)
    show.add_argument("--agent", metavar="NAME", help="only what is about this agent")
    check = action("lint", "contradictions, and what can never match", policy_looking.lint, machine)
    add_files(check, some=False)
    check.add_argument("--strict", action="store_true", help="1 for warnings too")
    test = action("test", "try the [[test]] cases of files", policy_looking.test, prune, machine)
    add_files(test)
    test.add_argument(
        "--running", action="store_true", help="with what holds, where the files do not say"
    )
    _asking(action, machine, prune)
    history = action("history", "what was changed, newest first", policy_changing.history, machine)
    history.add_argument(
        "--limit", type=positive, default=20, metavar="N", help="at most so many (default: 20)"
    )
    history.add_argument("--agent", metavar="NAME", help="only of this agent's layers")
    rollback = action(
        "rollback", "as it was at a version", policy_changing.rollback, note, expect, machine
    )
    rollback.add_argument("version", type=int, metavar="VERSION")
    shadow = action(
        "shadow",
        "let files decide beside what holds, for the log alone; without files: what does",
        policy_changing.shadow,
        prune,
        note,
        machine,
    )
    add_files(shadow, some=False)
    shadow.add_argument("--off", action="store_true", help="end it")


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    status: int = await options.act(options, Settings.load(options.config))
    return status


def _asking(
    action: Callable[..., argparse.ArgumentParser],
    machine: argparse.ArgumentParser,
    prune: argparse.ArgumentParser,
) -> None:
    explain = action("explain", "every rule in order", policy_asking.explain, machine)
    explain.add_argument("--agent", required=True, metavar="NAME")
    explain.add_argument("--url", required=True, metavar="URL")
    explain.add_argument("--price", required=True, type=usd, metavar="USD")
    for option, default, metavar, what in (
        ("--method", "GET", "METHOD", "default: GET"),
        ("--body", None, "TEXT|@FILE", "what is sent; an approval is for it too (GET: nothing)"),
        ("--pay-to", "", "ADDRESS", "the receiver"),
        ("--asset", "USDC", "ASSET", "a symbol or network/address (default: USDC)"),
        ("--network", "solana", "NETWORK", "default: solana"),
        ("--scheme", "exact", "SCHEME", "of x402 (default: exact)"),
        ("--flow", "authorization", "FLOW", "of x402 (default: authorization)"),
        ("--session", None, "ID", "whose budget it would be"),
        ("--trace", None, "ID", "whose budget it would be"),
    ):
        explain.add_argument(option, default=default, metavar=metavar, help=what)
    explain.add_argument(
        "--timeout", type=int, default=60, metavar="SECONDS", help="maxTimeoutSeconds (default: 60)"
    )
    explain.add_argument(
        "--at", type=_moment, metavar="TIME", help="for opening hours (default: now)"
    )
    simulate = action(
        "simulate", "replay the log under files", policy_asking.simulate, prune, machine
    )
    add_files(simulate)
    simulate.add_argument(
        "--since", type=ago, default=timedelta(days=7), metavar="TIME", help="7d, 24h (default: 7d)"
    )
    simulate.add_argument("--agent", metavar="NAME", help="only this agent's decisions")


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text}: write a moment like 2026-03-02T09:30:00Z")
    return at
