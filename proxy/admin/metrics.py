"""What the parts have counted, in Prometheus' text format."""

import asyncio
import platform
from collections.abc import Iterable, Iterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.admin.parts import Parts
from proxy.admin.rights import anyone, needs
from proxy.admin.roles import Role
from proxy.metrics import Durations, Tally

MOST_BREAKERS = 200

_BREAKER = {"closed": 0, "half-open": 1, "open": 2}


def routes(parts: Parts, *, open_to_all: bool) -> list[web.RouteDef]:
    process = ProcessCollector(registry=CollectorRegistry())

    async def metrics(_: web.Request) -> web.Response:
        """Prometheus metrics, in its text format."""
        # Read here, where nothing changes meanwhile; written out where nobody waits for it.
        families = [*families_of(parts), *process.collect()]
        text = await asyncio.to_thread(generate_latest, _Collected(families))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    text = "text/plain"
    mark = anyone(gives=text) if open_to_all else needs(Role.READER, gives=text)
    return [web.get("/metrics", mark(metrics))]


def families_of(parts: Parts) -> Iterator[Metric]:
    """Every number of ours, at this moment."""
    counts, plane, ledger = parts.counts, parts.plane, parts.ledger
    yield InfoMetricFamily(
        "autopay_build",
        "What runs.",
        value={"version": __version__, "python": platform.python_version()},
    )
    yield _requests(parts)
    yield _counter(
        "autopay_problems", "Answers of autopay's own, by code.", ["code"],
        (((code,), count) for code, count in plane.outcomes.problems.items()),
    )  # fmt: skip
    yield _tally("autopay_decisions", "Rows of the decision log.", counts.decisions)
    yield _tally(
        "autopay_payments",
        "Payments asked for, by what came of them: paid, in_doubt, released, reversed, denied or"
        " replayed; and those of the paid that were paid_failed.",
        counts.payments,
    )
    yield _tally("autopay_spent_micro_usd", "Spent, in millionths of a USD.", counts.spent_micros)
    yield _tally(
        "autopay_lost_micro_usd",
        "Of that, for what was not delivered as it was paid for, in millionths of a USD.",
        counts.lost_micros,
    )
    yield _tally(
        "autopay_cache_answers", "Answers that nobody had to pay for again.", counts.saved_answers
    )
    yield _tally(
        "autopay_saved_micro_usd",
        "What those would have cost, in millionths of a USD.",
        counts.saved_micros,
    )
    if plane.cache is not None:
        yield _gauge("autopay_cache_bytes", "Taken up by cached answers.", plane.cache.used)
        yield _gauge("autopay_cache_entries", "Cached answers.", plane.cache.entries)
    yield _tally(
        "autopay_certificate_rejections",
        "How often a program's tunnels to a host began to be left alone, since it rejected"
        " autopay's certificate.",
        counts.rejections,
    )
    yield _tally(
        "autopay_retries",
        "Requests tried again, by what came of it: succeeded, failed, or withheld, where it would"
        " have been more than the provider can bear.",
        counts.retries,
    )
    yield _tally(
        "autopay_intent_wishes",
        "Requests to intents, by what came of it: served, unserved, refused or abandoned.",
        counts.wishes,
    )
    yield _tally(
        "autopay_intent_attempts",
        "Candidates asked for them: served, lost (paid for nothing), in_doubt or failed.",
        counts.attempts,
    )
    yield _tally(
        "autopay_intent_lost_micro_usd",
        "Paid for attempts that did not serve, in millionths of a USD.",
        counts.intent_lost_micros,
    )
    yield _histogram(
        "autopay_reserve_seconds", "To take a price from the budgets.", ledger.reserving
    )
    yield _histogram("autopay_settle_seconds", "To book a payment as spent.", ledger.settling)
    yield _gauge("autopay_outbox_writes", "Not on disk yet.", ledger.waiting)
    yield _gauge("autopay_connections", "Programs that are connected.", plane.connections)
    yield _gauge("autopay_tunnels", "Blind tunnels and WebSockets.", plane.tunnels)
    yield _gauge("autopay_pool_connections", "Connections to providers.", len(plane.pool.open))
    yield _gauge("autopay_pool_idle_connections", "Those waiting for use.", plane.pool.idle)
    yield from _breakers(parts)
    yield _counter(
        "autopay_rpc_calls", "Requests to a network's RPC.", ["network"],
        (((name,), chain.rpc_calls) for name, chain in parts.chains.items()),
    )  # fmt: skip
    yield _counter(
        "autopay_rpc_errors", "Those that failed.", ["network"],
        (((name,), chain.rpc_errors) for name, chain in parts.chains.items()),
    )  # fmt: skip
    yield from _behind(parts)


def _behind(parts: Parts) -> Iterator[Metric]:
    """What is done while nobody asks for it, and what of it somebody should hear of."""
    reconciler, keeper, capture = parts.reconciler, parts.keeper, parts.capture
    yield _counter(
        "autopay_reconciler_rounds", "Looks at the chain, by how they ended.", ["outcome"],
        ((("done",), reconciler.rounds), (("failed",), reconciler.failures)),
    )  # fmt: skip
    yield _counter(
        "autopay_reconciled", "Payments whose fate the chain told.", ["fate"],
        (
            (("landed",), reconciler.landed),
            (("verified",), reconciler.verified),
            (("dead",), reconciler.proved_dead),
        ),
    )  # fmt: skip
    yield _counter(
        "autopay_rpc_disagreements", "Fates that two RPCs told differently.", [],
        (((), reconciler.disagreements),),
    )  # fmt: skip
    yield _gauge("autopay_audit_findings", "What the last audit found wrong.", keeper.findings)
    yield _gauge(
        "autopay_default_partition_rows", "Log rows that found no partition.", keeper.default_rows
    )
    yield _counter(
        "autopay_upkeep_failures", "Tasks of the database's upkeep that failed.", [],
        (((), keeper.failures),),
    )  # fmt: skip
    yield _gauge(
        "autopay_unaccepted_tokens",
        "Tokens in the database without a true seal.",
        sum(one.tokens for one in parts.directory.unaccepted),
    )
    yield _counter(
        "autopay_captures_dropped", "Chats and data that could not be kept.", [],
        (((), capture.dropped),),
    )  # fmt: skip


def _requests(parts: Parts) -> Metric:
    requests = parts.plane.outcomes.requests.items()
    return _counter(
        "autopay_requests", "What became of requests.", ["outcome", "status"],
        (
            ((outcome, f"{first}xx" if first else ""), count)
            for (outcome, first), count in requests
        ),
    )  # fmt: skip


def _breakers(parts: Parts) -> Iterator[Metric]:
    """Every tripped one and the closed ones used last, up to a bound, and how many there are; and
    the scores of the providers used last."""
    breakers = parts.providers.breakers()
    each = GaugeMetricFamily(
        "autopay_breaker_state",
        "Of a provider: 0 closed, 1 half-open, 2 open. At most 200 of them, the tripped first.",
        labels=["provider"],
    )
    for provider, state in breakers[:MOST_BREAKERS]:
        each.add_metric([provider], _BREAKER[state])
    yield each
    total = GaugeMetricFamily("autopay_breakers", "How many there are.", labels=["state"])
    for state in _BREAKER:
        total.add_metric([state], sum(state == found for _, found in breakers))
    yield total
    scores = GaugeMetricFamily(
        "autopay_provider_score",
        "How good a provider is, 0 to 1. At most 200 of them, the last used.",
        labels=["provider"],
    )
    for provider in parts.providers.met()[:MOST_BREAKERS]:
        scores.add_metric([provider], parts.providers.score(provider))
    yield scores


def _tally(name: str, text: str, tally: Tally) -> Metric:
    return _counter(name, text, tally.labels, tally.sums())


def _counter(
    name: str,
    text: str,
    labels: Iterable[str],
    sums: Iterable[tuple[tuple[str, ...], int]],
) -> Metric:
    family = CounterMetricFamily(name, text, labels=list(labels))
    for values, count in sums:
        family.add_metric(values, count)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, durations: Durations) -> Metric:
    buckets, below = [], 0
    for bound, count in zip((*durations.BOUNDS, "+Inf"), durations.counts, strict=True):
        below += count
        buckets.append((str(bound), below))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=durations.total)


class _Collected(Collector):
    """What was read a moment ago, as `generate_latest` wants it."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
