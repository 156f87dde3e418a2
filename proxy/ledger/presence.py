"""That this process lives, as others on the same database can see, and for whom it waits, as they
can ask.

An advisory lock of a session says the first: it is gone with its connection, so a process that was
killed is known to be gone at once, and no clock has a say in it. Should a live process lose the
connection for a moment, others may take its payments for forsaken and send the very same bytes
again, which moves no money twice.

The second goes by notifications, on that same connection: whoever can be seen to live can hear. No
answer is no word for anybody.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg

from proxy.ledger.errors import TROUBLE
from proxy.ledger.listening import listen
from proxy.tasks import end

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger(__name__)

# Shared: several services of one process are the same process.
_SAY = "SELECT pg_advisory_lock_shared(instance_key($1))"
_TELL = "SELECT pg_notify($1, $2)"
_LOOK_SECONDS = 5.0
_LONGEST_PAUSE = 5.0
_ANSWER_SECONDS = 2.0
_MOST_ASKED = 150  # payments in one question: a notification holds 8,000 bytes


class Presence:
    """`start()` before the first payment, `close()` after the last."""

    def __init__(
        self,
        dsn: str,
        instance: UUID,
        *,
        word: Callable[[UUID], str],
        role: str = "",
        timeout: float = 5.0,
    ) -> None:
        """`word`: what we can say of a payment of ours, to others; "" for nothing."""
        self._dsn = dsn
        self._instance = instance
        self._word = word
        self._role = role
        self._timeout = timeout
        self._connection: Connection | None = None
        self._one_at_a_time = asyncio.Lock()
        self._questions: dict[str, asyncio.Future[dict[str, str]]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """An unreachable database is no error here: it is tried again and again."""
        with contextlib.suppress(*TROUBLE):
            await self._say()
        self._keeper = asyncio.create_task(self._keep(), name="presence")

    async def close(self) -> None:
        await end(*self._answering, self._keeper)
        if self._connection is not None:
            self._connection.terminate()

    async def words(self, senders: Mapping[UUID, UUID]) -> dict[UUID, str]:
        """What is said of these payments, each by the process that sent it. Nothing of those of
        which there is nothing to be said, or whose sender was asked for two seconds in vain; never
        raises for a lost connection."""
        by_sender: dict[UUID, list[str]] = {}
        for payment_id, sender in senders.items():
            by_sender.setdefault(sender, []).append(str(payment_id))
        asked: dict[str, asyncio.Future[dict[str, str]]] = {}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                for sender, payments in by_sender.items():
                    for first in range(0, len(payments), _MOST_ASKED):
                        number = uuid4().hex
                        asked[number] = asyncio.get_running_loop().create_future()
                        self._questions[number] = asked[number]
                        some = payments[first : first + _MOST_ASKED]
                        question = {"by": str(self._instance), "number": number, "payments": some}
                        await self._tell(sender, question)
                if asked:
                    await asyncio.wait(asked.values())
        except (TimeoutError, *TROUBLE) as error:
            log.warning("a process that sent an equal payment was asked, in vain: %r", error)
        finally:
            for number in asked:
                self._questions.pop(number, None)
        answers = [answer.result() for answer in asked.values() if answer.done()]
        return {UUID(payment): word for answer in answers for payment, word in answer.items()}

    async def _tell(self, instance: UUID, what: Mapping[str, Any]) -> None:
        async with self._one_at_a_time:
            connection = self._connection
            if connection is None:
                raise ConnectionError("there is no connection")
            await connection.execute(_TELL, _channel(instance), json.dumps(what))

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        said = json.loads(str(payload))
        question = self._questions.get(said["number"])
        if "by" in said:
            task = asyncio.create_task(self._answer(said), name="says for whom it waits")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif question is not None and not question.done():
            question.set_result(said["words"])

    async def _answer(self, asked: Mapping[str, Any]) -> None:
        words = {payment: self._word(UUID(payment)) for payment in asked["payments"]}
        said = {payment: word for payment, word in words.items() if word}
        try:
            await self._tell(UUID(asked["by"]), {"number": asked["number"], "words": said})
        except TROUBLE as error:
            log.warning("another process asked for whom we wait, in vain: %s", error)

    async def _keep(self) -> None:
        pause = 0.1
        while True:
            try:
                await self._say()
            except TROUBLE as error:
                log.warning("others cannot see that this process lives: %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                pause = 0.1
                await asyncio.sleep(_LOOK_SECONDS)

    async def _say(self) -> None:
        async with self._one_at_a_time:
            connection = self._connection
            if connection is not None and not connection.is_closed():
                try:
                    await connection.execute("SELECT 1")
                except BaseException:
                    connection.terminate()
                    raise
                return
            self._connection = await self._connect()

    async def _connect(self) -> "Connection":
        # First the ears: whoever is seen to live will be asked.
        return await listen(
            self._dsn,
            _channel(self._instance),
            self._heard,
            lambda connection: connection.execute(_SAY, self._instance),
            name="autopay presence",
            role=self._role,
            timeout=self._timeout,
        )


def _channel(instance: UUID) -> str:
    return f"autopay_{instance.hex}"
