"""Run a local Solana network, a facilitator and a paid demo API until Ctrl-C.

The token programs are the real ones; the money is worth nothing. To pay on it, put the lines that
are printed into autopay.toml and restart `autopay serve`.
"""

import argparse
import asyncio
import signal

from proxy.cli.errors import CommandError, refusal
from proxy.cli.render import say
from proxy.localnet import Localnet
from proxy.settings import Settings
from proxy.wallets import load_wallets

FUNDS = 100_000_000  # of each token, atomic units: 100 dollars


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port",
        type=int,
        default=8899,
        help="of the Solana node; the facilitator and the API take the next two (default: 8899)",
    )
    parser.add_argument(
        "--fund",
        action="append",
        metavar="ADDRESS",
        help="give 100 USDC and 100 CASH to this address; may be repeated "
        "(default: to autopay's own wallets, if there are any)",
    )


def run(options: argparse.Namespace) -> int:
    addresses = options.fund if options.fund is not None else _own_wallets(options)
    try:
        asyncio.run(_run(options.port, addresses))
    except OSError as error:
        raise CommandError(
            f"cannot listen at ports {options.port} to {options.port + 2}: {refusal(error)}; "
            "choose others with --port"
        ) from None
    return 0


async def _run(port: int, addresses: list[str]) -> None:
    net = Localnet(rpc_port=port, facilitator_port=port + 1, api_port=port + 2)
    for address in addresses:
        try:
            net.fund(address, usdc=FUNDS, cash=FUNDS, usdc_mainnet=FUNDS)
        except ValueError:
            raise CommandError(f"--fund {address}: is not a Solana address") from None
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with net:
        say(f"Solana node   {net.rpc_url}")
        say(f"facilitator   {net.facilitator_url}")
        say(f"paid API      {net.api_url}  (/free /weather /echo /stream /cash /premium /v1/quote)")
        for address in addresses:
            say(f"funded        {address}  with 100 USDC and 100 CASH")
        say(f'\nFor autopay.toml:\n\n[networks.devnet]\nrpc_url = "{net.rpc_url}"')
        say(f'[networks.mainnet]  # /cash is sold there\nrpc_url = "{net.rpc_url}"')
        say("\nFor an agent:\n\nautopay agent set NAME --allow-target 127.0.0.0/8")
        # `autopay run` and `env` leave this machine out, so that programs reach their own servers.
        say("\nTo buy, name the proxy yourself:\n")
        say(f"curl -x http://NAME:TOKEN@127.0.0.1:8402 {net.api_url}/weather")
        say("\nCtrl-C ends it.")
        await stopped.wait()


def _own_wallets(options: argparse.Namespace) -> list[str]:
    return [wallet.address for wallet in load_wallets(Settings.load(options.config)).values()]
