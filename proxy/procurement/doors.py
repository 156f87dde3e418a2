"""How a program that knows nothing of it has an intent served: by a host of its name."""

from proxy.ledger import Agent
from proxy.procurement.procurement import Procurement
from proxy.procurement.run import Run
from proxy.procurement.wish import Wish
from proxy.wire.aside import Onward, Passed
from proxy.wire.delivering import replay
from proxy.wire.gate import Replayed, Whole
from proxy.wire.intents import Wanted
from proxy.wire.problem import Problem


class Host:
    """Answers `http://NAME.intent.autopay/…` (`DataPlane.intents`)."""

    def __init__(self, procurement: Procurement) -> None:
        self._procurement = procurement

    async def __call__(self, wanted: Wanted) -> None:
        """Raises Problem where nothing was begun."""
        procurement = self._procurement
        assert isinstance(wanted.agent, Agent), "the directory hands out the agents"
        wish = Wish(
            wanted.agent,
            procurement.intent(wanted.name),
            wanted.method,
            wanted.suffix,
            wanted.headers,
            wanted.body,
            wanted.session,
            wanted.trace,
            wanted.tool,
            wanted.key,
        )
        onward = Onward(wanted.call, wanted.downstream, begin=lambda _status, _ours: None)
        _write(wanted, await procurement.run(wish, onward))


def _write(wanted: Wanted, run: Run) -> None:
    answer, reply = run.answer, wanted.call.reply
    if isinstance(answer, Passed):
        return  # it is there by now
    if isinstance(answer, Whole):
        served = run.served
        assert served is not None, "what did not serve is no answer"
        outcome = "paid" if served.cost else "answered"
        replay(wanted.call, Replayed(answer, [*answer.ours, *run.headers()]), outcome=outcome)
        return
    assert isinstance(answer, Problem), "what is too long went on"
    answer.headers = (*answer.headers, *run.headers())
    reply.problem(answer)
