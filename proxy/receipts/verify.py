"""An exported ledger, proved or not, with no database and no network.

What is shown when nothing is found: every link is the text that was hashed, is followed by the next
of its agent with no gap and no fork, up to the head that the header names, and is signed by a key
that was accepted. What is not shown: that the header's head is the newest one there is. For that,
name an earlier export, or the head as somebody else knows it; or look at the chain.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from proxy.receipts.canonical import canonical, digest, read_canonical
from proxy.receipts.export import FORMAT
from proxy.receipts.keys import EXPORT, LINK, is_signed, key_id_of
from proxy.receipts.link import KINDS, NOTHING, RECEIPT, REVERSAL, Link, link_of
from proxy.receipts.sums import Entry, Place, Total, totals

MOST_PROBLEMS = 1_000  # kept; all are counted
_MOST_HEADER = 64 * 1024 * 1024
_MOST_LINE = 1024 * 1024

# Three headings, or more; an export of ours begins with a brace.
_CSV = re.compile(rb'(\xef\xbb\xbf)?"?\w+"?([,;\t]"?\w+"?){2}')

# Members of `canonical` that the line around it says again.
_REPEATED = ("agent_id", "seq", "kind", "receipt_id", "previous")
_TEXTS = (
    *("asset", "network", "pay_to", "payer", "source_account", "destination_account", "source"),
    *("transaction", "claimed_transaction", "client_signature", "recorded_at"),
)
# Of a receipt, that what is said of it later must repeat.
_SAME = ("amount_atomic", "price_micros", "asset", "symbol", "network")


class NoExport(ValueError):
    """A file of another kind. `str()` says of which, and what is read here."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`line` of the file, from 1; 0: of the file as a whole."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.line else self.what


@dataclass(slots=True)
class Chain:
    """One agent's: what the header says of it, and what was found. `last` and `head` move on.

    `proved_to`: its links from `first` to this one are proved, 0 if none is: nothing is wrong with
    any of them, each is signed, and no signed link contradicts them. `wrong`: what was found first.
    """

    agent_id: UUID
    agent: str
    length: int
    said_head: bytes
    said_first: int
    said_last: int
    first: int = 0
    last: int = 0
    head: bytes = NOTHING
    proved_to: int = 0
    unsigned: int = 0
    wrong: Problem | None = None

    @property
    def sound(self) -> bool:
        """All of it that is in the file is proved."""
        return self.wrong is None and not self.unsigned

    @property
    def from_the_start(self) -> bool:
        return self.said_first == 1

    @property
    def to_the_head(self) -> bool:
        return self.said_last == self.length


@dataclass(frozen=True, slots=True)
class Standing:
    """One link of a payment. `transaction`: as it names it. `key_id`: whose good signature it has;
    None without one."""

    agent_id: UUID
    line: int
    seq: int
    kind: str
    recorded_at: str | None
    transaction: str | None
    key_id: bytes | None


@dataclass(slots=True)
class Paid:
    """What a receipt claims about the chain, as its later links left it. `content` is that of the
    later link where the receipt itself is older than the file. `reversed_at`: as that link says.
    `links`: what the file has of it, in order."""

    line: int
    receipt_id: UUID
    content: Mapping[str, Any]
    transaction: str | None
    reversed: bool = False
    reversed_at: str | None = None
    links: list[Standing] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Unread:
    """A link that is no link of any payment, by what was found in it."""

    problem: Problem
    link: Link


@dataclass(slots=True)
class Verdict:
    """All of it. `signed`: how many links by each key. `pinned`: only keys that the caller named
    were accepted; else the file vouches for its own keys. `totals`: of what is proved alone."""

    chains: dict[UUID, Chain] = field(default_factory=dict)
    totals: dict[Place, Total] = field(default_factory=dict)
    signed: Counter[bytes] = field(default_factory=Counter)
    pinned: bool = False
    header_signed_by: bytes | None = None
    header_wrong: bool = False
    links: int = 0
    unsigned: int = 0
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    paid: list[Paid] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)

    @property
    def proved(self) -> bool:
        return not self.problem_count and not self.unsigned

    def stands(self, chain: Chain) -> bool:
        """It is all that the header says of it, and the header can be believed."""
        return chain.sound and not self.header_wrong


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain was known to be."""

    seq: int
    sha256: bytes


def verify(
    lines: Iterable[bytes],
    *,
    trusted: Collection[bytes] = (),
    known: Mapping[UUID, Head] | None = None,
) -> Verdict:
    """Reads a file once, line by line. `trusted`: the only key ids to accept; none: those that the
    file names. `known`: heads of an earlier time, which the chains must go through. Raises
    NoExport."""
    check = _Check(frozenset(trusted), dict(known or {}))
    for number, line in enumerate(lines, 1):
        check.line(number, line)
    return check.end()


def heads_of(header: bytes) -> dict[UUID, Head]:
    """The heads that the first line of an earlier export names. Raises ValueError."""
    _not_csv(header)
    return {
        agent: Head(chain.length, chain.said_head)
        for agent, chain in _chains(_object(header, _MOST_HEADER)).items()
    }


class _Check:
    def __init__(self, trusted: frozenset[bytes], known: dict[UUID, Head]) -> None:
        self.verdict = Verdict(pinned=bool(trusted))
        self._trusted = trusted
        self._known = known
        self._keys: dict[bytes, bytes] = {}
        self._header_read = False
        self._said_links = 0
        self._receipts: dict[UUID, Paid] = {}
        self._older: dict[UUID, Paid] = {}
        self._entries: list[Entry] = []
        self._signatures: set[str] = set()
        self._at: Chain | None = None
        self._current: UUID | None = None
        self._past: set[UUID] = set()

    def line(self, number: int, line: bytes) -> None:
        self._at = None
        link = None
        try:
            if number == 1:
                _not_csv(line)
                self._header(line)
                self._header_read = True
            elif self._header_read:  # without a header nothing can be said of any link
                link = link_of(_object(line, _MOST_LINE))
                self._link(number, link)
        except NoExport:
            raise
        except ValueError as error:
            problem = self._problem(number, str(error))
            if link is not None:
                self.verdict.unread.append(Unread(problem, link))

    def end(self) -> Verdict:
        verdict = self.verdict
        self._at = None
        if not self._header_read:
            verdict.chains = {}
            if not verdict.problem_count:
                self._problem(0, "the file is empty")
            return verdict
        for chain in verdict.chains.values():
            if chain.last != chain.said_last:
                what = f"{_chain(chain)} ends at {chain.last}, not at {chain.said_last}"
                self._problem(0, what, chain)
            elif chain.to_the_head and chain.last and chain.head != chain.said_head:
                what = f"{_chain(chain)} does not end in the head that the header names"
                self._problem(0, what, chain)
        if verdict.links != self._said_links:
            self._problem(
                0, f"the file has {verdict.links} links; its header says {self._said_links}"
            )
        for agent, head in self._known.items():
            known = verdict.chains.get(agent)
            if known is None:
                self._problem(0, f"the chain of agent {agent} is missing, which was there before")
            elif known.length < head.seq:
                what = f"{_chain(known)} is {known.length} links long; before it was {head.seq}"
                self._problem(0, what, known)
            elif known.last and known.first > head.seq:
                what = f"{_chain(known)} begins behind the head that was known before"
                self._problem(0, what, known)
        verdict.paid = [*self._receipts.values(), *self._older.values()]
        proved_to = {agent: chain.proved_to for agent, chain in verdict.chains.items()}
        verdict.totals = totals(self._entries, proved_to)
        return verdict

    def _header(self, line: bytes) -> None:
        header = _object(line, _MOST_HEADER)
        if header.get("format") != FORMAT:
            raise ValueError("this is no export of receipts of a kind that is known here")
        self.verdict.chains = _chains(header)
        try:
            for key in header["keys"]:
                public = bytes.fromhex(key["public_key"])
                if key_id_of(public).hex() != key["key_id"]:
                    self._problem(1, f"the key {key['key_id']} has another's name")
                else:
                    self._keys[key_id_of(public)] = public
            self._said_links = int(header["links"])
            signature, key_id = header.pop("signature"), header["key_id"]
        except (KeyError, TypeError, AttributeError):
            raise ValueError("the header is not whole") from None
        if signature is None:
            return
        by, signed = bytes.fromhex(str(key_id)), bytes.fromhex(str(signature))
        if not self._accepts(by):
            self._problem(1, f"the header is signed by {by.hex()}, which is not accepted")
        elif not is_signed(self._keys[by], EXPORT, digest(canonical(header)), signed):
            self._problem(1, "the header's signature does not fit: it was changed")
        else:
            self.verdict.header_signed_by = by

    def _link(self, number: int, link: Link) -> None:
        self.verdict.links += 1
        chain = self.verdict.chains.get(link.agent_id)
        if chain is None:
            raise ValueError(f"a receipt of agent {link.agent_id}, whom the header does not name")
        self._at = chain
        if link.agent_id != self._current:
            if link.agent_id in self._past:
                self._problem(number, f"{_chain(chain)} is taken up a second time")
            self._past.add(link.agent_id)
            self._current = link.agent_id
        found = link.hash
        if found != link.sha256:
            self._problem(number, f"{_name(link)} was changed: its text has another hash")
        before = chain.last, chain.head
        self._place(number, chain, link, found)
        signed = self._signature(number, chain, link, found)
        content = read_canonical(link.canonical)
        if signed:
            _contradict(chain, content, *before)
        said = {
            **{"agent_id": str(link.agent_id), "seq": link.seq, "kind": link.kind},
            **{"receipt_id": str(link.receipt_id), "previous": link.previous.hex()},
        }
        for name in _REPEATED:
            if content.get(name) != said[name]:
                self._problem(number, f"{_name(link)}: {name} is not what its text says")
        if content.get("v") != 1 or content.get("kind") not in KINDS:
            raise ValueError(f"{_name(link)} is of a kind that is not known here")
        self._account(number, link, content, link.key_id if signed else None)
        if chain.sound:
            chain.proved_to = link.seq

    def _place(self, number: int, chain: Chain, link: Link, found: bytes) -> None:
        """Behind the link before it, and at a head that was known."""
        expected = chain.last + 1 if chain.last else chain.said_first
        if link.seq != expected:
            self._problem(number, f"{_name(link)} comes where {expected} should be")
        if chain.last == 0:
            chain.first = link.seq
            if link.seq == 1 and link.previous != NOTHING:
                self._problem(number, f"{_name(link)} names one before the first")
        elif link.previous != chain.head:
            self._problem(number, f"{_name(link)} does not follow the one before it")
        chain.last = link.seq
        chain.head = found
        known = self._known.get(link.agent_id)
        if known is not None and known.seq == link.seq and known.sha256 != found:
            self._problem(number, f"{_name(link)} is not what was the head before: rewritten")
            chain.proved_to = 0  # since which link, nobody can tell

    def _signature(self, number: int, chain: Chain, link: Link, found: bytes) -> bool:
        """Whether it is a good one."""
        if link.key_id is None or link.signature is None:
            self.verdict.unsigned += 1
            chain.unsigned += 1
        elif not self._accepts(link.key_id):
            self._problem(
                number, f"{_name(link)} is signed by {link.key_id.hex()}, which is not accepted"
            )
        elif not is_signed(self._keys[link.key_id], LINK, found, link.signature):
            self._problem(number, f"{_name(link)}: the signature does not fit")
        else:
            self.verdict.signed[link.key_id] += 1
            return True
        return False

    def _accepts(self, key_id: bytes) -> bool:
        return key_id in self._keys and (not self._trusted or key_id in self._trusted)

    def _account(
        self, number: int, link: Link, content: dict[str, Any], key_id: bytes | None
    ) -> None:
        """What it adds up to. Raises ValueError."""
        amount, price = _money(content, "amount_atomic"), _money(content, "price_micros")
        of = self._receipts.get(link.receipt_id)
        agent = link.agent_id
        place = agent, str(content.get("network")), str(content.get("asset"))
        entry = Entry(place, link.seq, amount, price)
        if any(not isinstance(content.get(name), str | None) for name in _TEXTS):
            raise ValueError(f"{_name(link)} is not made as receipts are")
        standing = _standing(number, link, content, key_id)
        if link.kind == RECEIPT:
            if of is not None:
                raise ValueError(f"{_name(link)} is a second receipt of one payment")
            if signature := content.get("client_signature"):
                if signature in self._signatures:
                    raise ValueError(f"{_name(link)} is of a payment that has a receipt already")
                self._signatures.add(signature)
            # Booked as nobody's, where the provider named another payment's: that is to be seen.
            transaction = content.get("transaction") or content.get("claimed_transaction")
            self._receipts[link.receipt_id] = Paid(
                number, link.receipt_id, content, transaction, links=[standing]
            )
            self._entries.append(entry)
            return
        chain = self.verdict.chains[agent]
        if of is None:
            if chain.said_first == 1:
                raise ValueError(f"{_name(link)} tells of a receipt that is not there")
            before = self._older.get(link.receipt_id)
            self._older[link.receipt_id] = Paid(
                number,
                link.receipt_id,
                content,
                content.get("transaction"),
                links=[*(before.links if before else ()), standing],
            )
            if link.kind == REVERSAL:  # of one before this file's first
                self._entries.append(replace(entry, older=True))
            return
        if any(of.content.get(name) != content.get(name) for name in _SAME) or (
            of.content.get("agent_id") != str(agent)
        ):
            raise ValueError(f"{_name(link)} tells of another amount than its receipt")
        if of.reversed:
            raise ValueError(f"{_name(link)} tells of a payment that was reversed already")
        of.links.append(standing)
        # A reversal names the transaction that failed, if there is one.
        of.transaction = content.get("transaction") or of.transaction
        if link.kind == REVERSAL:
            of.reversed, of.reversed_at = True, content.get("recorded_at")
            self._entries.append(replace(entry, reverses=True))

    def _problem(self, line: int, what: str, chain: Chain | None = None) -> Problem:
        """`chain`: whose it is, if not that of the link that is read."""
        problem = Problem(line, what)
        self.verdict.problem_count += 1
        self.verdict.header_wrong |= line == 1
        if len(self.verdict.problems) < MOST_PROBLEMS:
            self.verdict.problems.append(problem)
        chain = chain or self._at
        if chain is not None and chain.wrong is None:
            chain.wrong = problem
        return problem


def _standing(line: int, link: Link, content: Mapping[str, Any], key_id: bytes | None) -> Standing:
    recorded_at, transaction = content.get("recorded_at"), content.get("transaction")
    return Standing(link.agent_id, line, link.seq, link.kind, recorded_at, transaction, key_id)


def _contradict(chain: Chain, content: Mapping[str, Any], last: int, head: bytes) -> None:
    """A signed link behind `last` speaks against links before it: it takes the place of one, or
    follows another than `head`. Which of them is right, nobody can tell."""
    seq = content.get("seq")
    if type(seq) is not int:
        return
    if seq <= last:
        agreed = seq - 1
    elif seq == last + 1 and last and content.get("previous") != head.hex():
        agreed = seq - 2
    else:
        return
    chain.proved_to = min(chain.proved_to, agreed)
    if chain.proved_to < chain.first:
        chain.proved_to = 0


def _chains(header: Mapping[str, Any]) -> dict[UUID, Chain]:
    """Raises ValueError."""
    try:
        return {
            UUID(one["agent_id"]): Chain(
                UUID(one["agent_id"]),
                str(one["agent"]),
                int(one["length"]),
                bytes.fromhex(one["head"]),
                int(one["first"]),
                int(one["last"]),
            )
            for one in header["chains"]
        }
    except (KeyError, TypeError, AttributeError):
        raise ValueError("the header is not whole") from None


def _not_csv(line: bytes) -> None:
    """Raises NoExport."""
    if _CSV.match(line):
        raise NoExport(
            "this is CSV; verify reads the JSON lines that"
            " `autopay receipts export FILE.jsonl` writes"
        )


def _object(line: bytes, most: int) -> dict[str, Any]:
    """Raises ValueError."""
    if len(line) > most:
        raise ValueError(f"longer than {most} bytes")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not a line of JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _money(content: Mapping[str, Any], name: str) -> int:
    text = content.get(name)
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ValueError(f"{name} is no amount")
    return int(text)


def _name(link: Link) -> str:
    return f"{link.kind} {link.seq} of agent {link.agent_id}"


def _chain(chain: Chain) -> str:
    return f"the chain of agent {chain.agent or chain.agent_id}"
