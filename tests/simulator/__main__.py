"""`python -m tests.simulator --runs 10000 --seed 1`: a long campaign.
`python -m tests.simulator --seed 17 --trace`: one run, told line by line."""

import argparse
import random
import sys
import time

from tests.simulator.campaign import campaign
from tests.simulator.judge import verdict
from tests.simulator.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.simulator", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--trace", action="store_true", help="of the run of this one seed")
    options = parser.parse_args()
    if options.trace:
        world = World(options.seed, keep_trace=True)
        world.run()
        print(*(world.trace.lines or []), world.trace.digest, sep="\n")
        print(*(verdict(world) or ["every promise was kept"]), sep="\n")
        return 0
    began = time.monotonic()
    print(f"the simulator: seeds {options.seed} to {options.seed + options.runs - 1}")
    tally = campaign(options.seed, options.runs)
    print(f"{tally} (in {time.monotonic() - began:.0f} s)")
    for seed, wrong in tally.broken:
        print(f"seed {seed}:", *wrong, sep="\n  ")
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
