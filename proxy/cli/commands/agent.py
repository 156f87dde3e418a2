"""Who may spend, and how much.

An agent is a name, a token and a policy. A running proxy hears of every change at once. Amounts are
in USD; an endpoint is a pattern like "GET https://api.example.com/v1/*"; a list of what may be paid
that is not given allows everything, and `any` empties one. Whatever it pays, an agent is taken to
public addresses only: --allow-target names others (`none`: no others), --allow-port the ports it
may use on public ones (`usual`: 80, 443 and from 1024 up those of no other well-known service).
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

from policies import Policy, format_usd
from proxy.cli.actions import Actions, for_machines
from proxy.cli.books import existing_store
from proxy.cli.errors import CommandError
from proxy.cli.handout import handout, mount_url, proxy_url
from proxy.cli.questions import life, usd
from proxy.cli.render import dollars, moment, say, table
from proxy.ledger import agents
from proxy.ledger.agents import AgentInfo, NewAgent
from proxy.records import plain
from proxy.settings import Settings
from proxy.store import Store

Action = Callable[[argparse.Namespace, Settings, Store], Coroutine[Any, Any, None]]

_LISTS = ("allowed_endpoints", "allowed_pay_to", "allowed_assets", "allowed_networks")
_EMPTY = dict.fromkeys(_LISTS, "any") | {"allowed_targets": "none", "allowed_ports": "usual"}
_BY = "autopay agent"
_LONGEST_GRACE = 30 * 86_400


def arguments(parser: argparse.ArgumentParser) -> None:
    action = Actions[Action](parser).add
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("name", metavar="NAME")
    machine = for_machines()
    policy = _policy_arguments()
    capture = argparse.ArgumentParser(add_help=False)
    capture.add_argument(
        "--capture-chat",
        choices=("on", "off"),
        help="keep what it says to chat endpoints, and the answers (default: off)",
    )

    action("add", "make an agent; prints its token once", _add, name, policy, capture, machine)
    action("list", "show the agents and their policies", _list, machine)
    action("set", "change what is given of an agent's policy", _set, name, policy, capture)
    action("freeze", "let an agent pay nothing until further notice", _freeze, name)
    action("unfreeze", "let a frozen agent pay again", _unfreeze, name)
    rotate = action("rotate", "give an agent a new token; the others end", _rotate, name, machine)
    rotate.add_argument(
        "--grace",
        type=_grace,
        default=timedelta(),
        metavar="SECONDS",
        help="let the others hold for so long (default: they end at once)",
    )
    rotate.add_argument(
        "--expires",
        type=life,
        metavar="TIME",
        help="the new one ends by itself, like 30d, 12h or 45m",
    )
    action("remove", "end an agent and its token; its books stay", _remove, name)


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    settings = Settings.load(options.config)
    async with existing_store(settings, new=options.act is _add) as store:
        await options.act(options, settings, store)


async def _add(options: argparse.Namespace, settings: Settings, store: Store) -> None:
    policy = _changed(settings.policy.of(options.name), options)
    new = await agents.add(store.database, store.vault, options.name, policy, by=_BY)
    if options.capture_chat == "on":
        await agents.set_capture_chat(store.database, options.name, True)
    if not options.json:
        say(f"Agent {options.name} may spend {_limits(policy)}.")
        _say_capture(options)
    _hand_out(options, settings, new)


async def _rotate(options: argparse.Namespace, settings: Settings, store: Store) -> None:
    new = await agents.rotate_token(
        store.database, store.vault, options.name, grace=options.grace, lives=options.expires
    )
    if not options.json and options.grace:
        say(f"Its other tokens end {options.grace.total_seconds():.0f} seconds from now.")
    if not options.json and new.expires_at is not None:
        say(f"The new one ends by itself at {moment(new.expires_at)} UTC.")
    _hand_out(options, settings, new)


async def _set(options: argparse.Namespace, _settings: Settings, store: Store) -> None:
    known = {
        info.agent.name: info for info in await agents.list_all(store.database) if info.is_active
    }
    if options.name not in known:
        raise CommandError(f"there is no agent {options.name!r}; see: autopay agent list")
    before = known[options.name].policy
    policy = _changed(before, options)
    if options.capture_chat is not None:
        await agents.set_capture_chat(store.database, options.name, options.capture_chat == "on")
        _say_capture(options)
        if policy == before:
            return
    elif policy == before:
        raise CommandError("nothing to change is given; see: autopay agent set --help")
    version = await agents.set_policy(store.database, policy, by=_BY)
    say(f"Agent {options.name} may spend {_limits(policy)} (policy version {version}).")


async def _freeze(options: argparse.Namespace, _settings: Settings, store: Store) -> None:
    await agents.set_frozen(store.database, options.name, True, by=_BY)
    say(f"Agent {options.name} is frozen: it pays nothing. Other requests still go through.")


async def _unfreeze(options: argparse.Namespace, _settings: Settings, store: Store) -> None:
    await agents.set_frozen(store.database, options.name, False, by=_BY)
    say(f"Agent {options.name} may pay again.")


async def _remove(options: argparse.Namespace, _settings: Settings, store: Store) -> None:
    await agents.remove(store.database, options.name)
    say(f"Agent {options.name} is removed and its token is worth nothing. Its books stay.")


async def _list(options: argparse.Namespace, _settings: Settings, store: Store) -> None:
    found = [info for info in await agents.list_all(store.database) if info.is_active]
    if options.json:
        for info in found:
            say(json.dumps(_as_record(info)))
    elif found:
        headings = (
            "AGENT",
            "STATE",
            ">PER CALL",
            ">DAILY",
            ">SESSION",
            "ONLY",
            "REACHES",
            "SINCE (UTC)",
        )
        say(table(headings, [_as_row(info) for info in found]))
    else:
        say("No agents yet; run: autopay agent add NAME")


def _hand_out(options: argparse.Namespace, settings: Settings, new: NewAgent) -> None:
    token = new.token
    if not options.json:
        say(handout(settings, options.name, token))
        return
    say(
        json.dumps(
            {
                "agent": options.name,
                "token": token,
                "expires_at": None if new.expires_at is None else plain(new.expires_at),
                "proxy_url": proxy_url(settings, options.name, token),
                "mount_urls": {
                    name: mount_url(settings, token, name) for name in settings.providers
                },
            }
        )
    )


def _say_capture(options: argparse.Namespace) -> None:
    if options.capture_chat == "on":
        say(f"What agent {options.name} says to chat endpoints, and the answers, are kept.")
    elif options.capture_chat == "off":
        say(f"What agent {options.name} says to chat endpoints is not kept.")


def _limits(policy: Policy) -> str:
    return (
        f"at most {dollars(policy.per_call_limit)} per call, {dollars(policy.daily_limit)} per "
        f"day, {dollars(policy.session_limit)} per session and {dollars(policy.trace_limit)} per "
        "trace"
    )


def _as_row(info: AgentInfo) -> list[str]:
    policy = info.policy
    return [
        info.agent.name,
        ("frozen" if policy.frozen else "active")
        + (", chats kept" if info.agent.capture_chat else ""),
        dollars(policy.per_call_limit),
        dollars(policy.daily_limit),
        dollars(policy.session_limit),
        "; ".join(", ".join(getattr(policy, name)) for name in _LISTS if getattr(policy, name))
        or "(anything)",
        _reach(policy),
        moment(info.created_at),
    ]


def _reach(policy: Policy) -> str:
    ports = ",".join(map(str, policy.allowed_ports))
    return ", ".join((f"public:{ports}" if ports else "public", *policy.allowed_targets))


def _as_record(info: AgentInfo) -> dict[str, Any]:
    policy = info.policy
    return {
        "agent": info.agent.name,
        "frozen": policy.frozen,
        "capture_chat": info.agent.capture_chat,
        "per_call_usd": format_usd(policy.per_call_limit),
        "daily_usd": format_usd(policy.daily_limit),
        "session_usd": format_usd(policy.session_limit),
        "trace_usd": format_usd(policy.trace_limit),
        **{name: list(getattr(policy, name)) for name in _EMPTY},
        "policy_version": policy.version,
    }


def _policy_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    for option, field, what in (
        ("--per-call", "per_call_limit", "the most that one call may cost"),
        ("--daily", "daily_limit", "the most per UTC day"),
        ("--session", "session_limit", "the most per session (the Autopay-Session header)"),
        ("--trace", "trace_limit", "the most per trace (Autopay-Trace, or W3C traceparent)"),
    ):
        parser.add_argument(option, dest=field, type=usd, metavar="USD", help=what)
    for option, field, metavar, what in (
        ("--allow-endpoint", "allowed_endpoints", "PATTERN", "pay only for this"),
        ("--allow-pay-to", "allowed_pay_to", "ADDRESS", "pay only this seller"),
        ("--allow-asset", "allowed_assets", "ASSET", "pay only with this, like USDC"),
        ("--allow-network", "allowed_networks", "NETWORK", "pay only on this, like solana-devnet"),
        ("--allow-target", "allowed_targets", "ADDRESS", "reach this too, like 10.0.0.0/8[:PORT]"),
        ("--allow-port", "allowed_ports", "PORT", "of public addresses, reach only this port"),
    ):
        parser.add_argument(
            option, dest=field, action="append", metavar=metavar, help=f"{what}; may be repeated"
        )
    return parser


def _grace(text: str) -> timedelta:
    if not (text.isascii() and text.isdecimal() and int(text) <= _LONGEST_GRACE):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds of at most 30 days")
    return timedelta(seconds=int(text))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise CommandError(f"--allow-port {text}: is not a port; give a number, or usual")
    return int(text)


def _changed(policy: Policy, options: argparse.Namespace) -> Policy:
    """`policy` with what the options name."""
    changes: dict[str, Any] = {}
    for name in ("per_call_limit", "daily_limit", "session_limit", "trace_limit"):
        if (limit := getattr(options, name)) is not None:
            changes[name] = limit
    for name, nothing in _EMPTY.items():
        if (entries := getattr(options, name)) is not None:
            changes[name] = tuple(entry for entry in entries if entry != nothing)
    if "allowed_ports" in changes:
        changes["allowed_ports"] = tuple(map(_port, changes["allowed_ports"]))
    return replace(policy, **changes)
