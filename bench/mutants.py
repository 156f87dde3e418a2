"""Does the campaign see what it is there to see? autopay, spoilt on purpose, a copy at a time.

`python -m bench.mutants [NAME …] [--seeds N]`. Each mutant is one mistake that a ledger of payments
may have; the harness that must catch it is run on a copy of the tree in a temporary directory.
Exits with 1 if one survives, or if the unspoilt copy does not pass.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREES = ("proxy", "policies", "sql", "tests", "bench", "pyproject.toml", "README.md", "docs")


@dataclass(frozen=True, slots=True)
class Edit:
    """In one file of the copy; the text must be there once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Rule:
    """In one SQL function as the migrations leave it: what is written first counts for nothing."""

    function: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    edits: Sequence[Edit] = ()
    rules: Sequence[Rule] = ()
    sql: str = ""
    tests: Sequence[str] = ()
    """What must fail. None: the campaign."""
    options: Sequence[str] = ()
    """For the campaign."""


_TODAY = "current_setting('autopay.today')::timestamptz"
MUTANTS = (
    Mutant(
        "release by timeout",
        [
            Edit(
                "proxy/reconciler/reconciler.py",
                "        wanted = [\n"
                "            account for account in await self._books.watches()",
                """        await self._books._database.fetch(
            "SELECT disprove(id, 'timeout') FROM payments"
            " WHERE status = 'SIGNED' AND created_at < now() - interval '0.5 s'"
        )
        wanted = [
            account for account in await self._books.watches()""",
            )
        ],
    ),
    Mutant(
        "release on error",
        [
            Edit(
                "proxy/ledger/ledger.py",
                '        reached("doubt.before")',
                '        return await self.release(payment_id, "never_sent")',
            )
        ],
    ),
    Mutant(
        "no idempotency, no join",
        rules=[
            Rule(
                "prior_payment",
                "BEGIN\n    IF p_key IS NOT NULL THEN",
                "BEGIN\n    RETURN;\n    IF p_key IS NOT NULL THEN",
            )
        ],
        sql="DROP INDEX idx_payments_idempotency",
    ),
    Mutant(
        "check, then act",
        [
            Edit(
                "proxy/ledger/lane.py",
                "        move = _Move(name, args,",
                """        if name == "reserve":
            fits = await self._database.fetchval("SELECT fits($1)", json.dumps(args))
            await asyncio.sleep(0.01)
            if not fits:
                zero = dict.fromkeys(("limit_micros", "spent_micros", "held_micros"), 0)
                nothing = dict.fromkeys(("resets_at", "joined"))
                return {"code": "over_daily_limit", **zero, **nothing}
        move = _Move(name, args,""",
            )
        ],
        rules=[
            Rule(
                "take",
                "ELSIF v_counter.spent_micros + v_counter.held_micros + q.price_micros > v_limit",
                "ELSIF false",
            )
        ],
        sql="""
ALTER TABLE budget_counters DISABLE TRIGGER USER;
CREATE FUNCTION fits(p jsonb) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$
    SELECT coalesce(bool_and(
               b.spent_micros + b.held_micros + q.price_micros <= counter_limit(b, a)), true)
      FROM jsonb_populate_record(NULL::reservation_request, p) q,
           counters_of(q, limits_of(q.agent_id, q.provider), now()) c, budget_counters b,
           agent_policies a
     WHERE b.scope = c.scope AND a.agent_id = q.agent_id
       AND counter_limit(b, a) IS NOT NULL
$$;
GRANT EXECUTE ON FUNCTION fits(jsonb) TO PUBLIC""",
        options=("--calm",),
    ),
    Mutant(
        "sign anew on a second 402",
        [
            Edit(
                "proxy/exchange.py",
                "            # A bare 402 would make the program pay again.\n",
                "            again = committed.deal.purchase\n"
                "            again._answer = None  # type: ignore[attr-defined]\n"
                "            return await self.pay(again, PaymentRequired(answer.headers, said))\n",
            )
        ],
    ),
    Mutant(
        "dead a block early",
        [
            Edit(
                "proxy/chains/solana/fate.py",
                "return height <= evidence.last_valid_block_height + 1",
                "return height <= evidence.last_valid_block_height",
            )
        ],
        tests=["tests/reconciler/test_dead.py", "tests/reconciler/test_fate.py"],
    ),
    Mutant(
        "the day of the local clock",
        [
            Edit(
                "proxy/ledger/database.py",
                '                        "timezone": "UTC",\n',
                '                        "timezone": "UTC",\n'
                '                        "autopay.today": __import__("time").strftime("%F"),\n',
            )
        ],
        rules=[
            Rule("take", "(now() AT TIME ZONE 'UTC')::date", f"{_TODAY}::date"),
            Rule("take", "counters_of(q, v_limits, now())", f"counters_of(q, v_limits, {_TODAY})"),
            Rule(
                "tick", "lock_counters(v_requests, now(),", f"lock_counters(v_requests, {_TODAY},"
            ),
        ],
        tests=["tests/campaign/test_rows.py", "-k", "clocks"],
    ),
    Mutant(
        "settling twice spends twice",
        rules=[
            Rule(
                "settle",
                "RETURN 'already';",
                "UPDATE budget_counters c SET paid_calls = c.paid_calls + 1,"
                " spent_micros = c.spent_micros + v_payment.price_micros"
                " WHERE c.scope = ANY (v_payment.scopes); RETURN 'already';",
            )
        ],
    ),
    Mutant(
        "a claimed transaction is believed",
        [
            Edit(
                "proxy/reconciler/watch.py",
                "                by_signature.get(payment.evidence.client_signature, ()),\n",
                "                [\n"
                "                    replace(\n"
                "                        e, client_signature=payment.evidence.client_signature\n"
                "                    )\n"
                "                    for e in self._seen.values()\n"
                "                    if e.signature == payment.claim\n"
                "                    or e.client_signature == payment.evidence.client_signature\n"
                "                ],\n",
            )
        ],
    ),
    Mutant(
        "an empty index is believed",
        [
            Edit(
                "proxy/chains/solana/fate.py",
                "    return None if sweep.conserves(since) else Why.NOT_CONSERVED",
                "    return None",
            )
        ],
        tests=["tests/reconciler/test_untrusted_rpcs.py"],
    ),
    Mutant(
        "paid though the ledger is away",
        [
            Edit(
                "proxy/ledger/ledger.py",
                "            if error.may_have_happened:\n"
                "                self._give_up(r.payment_id)\n"
                "            raise\n",
                "            del error\n            return Reserved(0, 0, 0, 0, date.today())\n",
            )
        ],
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="campaigns before it has survived")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.names or any(n in m.name for n in options.names)]
    survivors = []
    for mutant in chosen:
        began = time.monotonic()
        how = caught(mutant, options.seeds)
        if not how:
            survivors.append(mutant.name)
        say(f"{mutant.name:35} {how or 'SURVIVED':50} {time.monotonic() - began:5.0f} s")
    say(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")
    sys.exit(bool(survivors))


def caught(mutant: Mutant, seeds: int) -> str:
    """What caught it, "" if nothing did."""
    with tempfile.TemporaryDirectory(prefix="autopay-mutant-") as name:
        tree = Path(name)
        copy(tree)
        apply(mutant, tree)
        if mutant.tests:
            done = run(tree, "pytest", "-x", "-rf", *mutant.tests)
            failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
            if failed:
                return failed[0].split()[1].rpartition("::")[2]
            if done.returncode != 0:
                raise RuntimeError(f"{mutant.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            return ""
        for seed in range(1, seeds + 1):
            words = ("--minutes", "0.15", "--seed", str(seed), "--replicas", "2")
            done = run(tree, "bench.endure", *words, *mutant.options)
            if done.returncode == 1 and "  promises " in done.stdout:
                broken = [
                    part
                    for line in done.stdout.splitlines()
                    if line.startswith(("  promises ", "  books "))
                    for part in line.split("   ", 1)[1].strip().split(", ")
                    if not part.endswith(" 0")
                ]
                said = [line for line in done.stdout.splitlines() if line.startswith("  ! ")]
                return ", ".join(broken) or f"only a complaint: {said[0][4:150]}"
            if done.returncode != 0:
                raise RuntimeError(f"{mutant.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return ""


def copy(tree: Path) -> None:
    for part in TREES:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / part)


def apply(mutant: Mutant, tree: Path) -> None:
    """Raises ValueError where the text that is to be spoilt is not there (once)."""
    for edit in mutant.edits:
        path = tree / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise ValueError(f"{mutant.name}: {edit.file} has {text.count(edit.old)} of it")
        path.write_text(text.replace(edit.old, edit.new))
    if mutant.rules or mutant.sql:
        last = max(int(path.name[:4]) for path in (tree / "sql/migrations").glob("*.sql"))
        path = tree / "sql/migrations" / f"{last + 1:04}_mutant.sql"
        steps = "\n".join(rewritten(rule) for rule in mutant.rules)
        path.write_text(f"DO $mutant$\nBEGIN\n{steps}\nEND $mutant$;\n{mutant.sql};\n")


def rewritten(rule: Rule) -> str:
    """SQL that replaces a function by itself with a text of it replaced."""
    old, new = (text.replace("'", "''") for text in (rule.old, rule.new))
    source = f"SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = '{rule.function}'"  # noqa: S608
    return f"""
    IF strpos(({source}), '{old}') = 0 THEN
        RAISE EXCEPTION 'the text is not in {rule.function}';
    END IF;
    EXECUTE replace(({source}), '{old}', '{new}');"""


def run(tree: Path, module: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
