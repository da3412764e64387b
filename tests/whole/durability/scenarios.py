"""The table of what can be interrupted: each command that writes, with what leads up to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support.replay import Asked, MadeUp, folded, invoice

from bulkfetch.sandbox.pdf import pdf

BILLING = "billing_line_items"
OFFICE, MODERN = ("office", BILLING), ("one_time", BILLING)
UNBILLED = ("unbilled", "one_time", "usage_line_items")

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Service:
    """What the service says for a while: invoices, what each detail is answered, documents.

    A detail that is asked for again gets its next answer, and the last one from then on.
    """

    charges: Mapping[str, float]
    answers: Mapping[Key, tuple[tuple[str, ...], ...]]
    statements: Mapping[str, bytes] = field(default_factory=dict)

    def settled(self) -> Service:
        """Return what it says from its last answers on."""
        last = {key: answers[-1:] for key, answers in self.answers.items()}
        return replace(self, answers=last)


class Tenant:
    """Answers requests as a service does, and counts how often each detail is asked for."""

    def __init__(self, service: Service) -> None:
        self.statements = service.statements
        invoices = [
            invoice(name, *_details_of(name, service), totalCharges=charge)
            for name, charge in service.charges.items()
        ]
        self._answers = service.answers
        self._walks: dict[Key, int] = {}
        self._made_up = MadeUp(invoices, {})

    def __call__(self, asked: Asked) -> Any:
        for key, answers in self._answers.items():
            if asked.detail == (key[0], folded(key[1]), folded(key[2])):
                if not asked.offset and not asked.token:
                    self._walks[key] = self._walks.get(key, 0) + 1
                names = answers[min(self._walks.get(key, 1), len(answers)) - 1]
                self._made_up.rows[key] = [_row(name) for name in names]
        return self._made_up(asked)


def _details_of(name: str, service: Service) -> list[tuple[str, str]]:
    return [(provider, kind) for each, provider, kind in service.answers if each == name]


def _row(name: str) -> str:
    return json.dumps({"customerName": name, "totalForCustomer": 1, "new": name})


def names(count: int, name: str, *, kept: int = 0) -> tuple[str, ...]:
    """Return the rows of a generation by their names; the first `kept` are in every generation."""
    return tuple(f"row{n}" if n < kept else f"{name}{n}" for n in range(count))


def detail(name: str, kind: tuple[str, str]) -> Key:
    return (name, *kind)


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what the service says meanwhile; or a change by somebody else.

    The command may be killed before a change, given by its beginning.
    """

    words: tuple[str, ...] = ()
    service: Service | None = None
    alter: Callable[[Path], object] | None = None
    killed_before: str = ""

    def again(self) -> Step:
        """Return the same command, once the service has given its last answers."""
        return replace(self, service=self.service.settled()) if self.service else self


@dataclass(frozen=True, slots=True)
class Scenario:
    """A command that is interrupted, after the steps `before`.

    Of `damaged` records, files or records are damaged or lost before it. What `may_go` can be
    deleted: generations of records, by the beginning of their names. What is kept of the replaced
    is compared with that of an undisturbed run unless `keeps_more`: a run that goes on may meet
    another answer first, or may find a lost file that is there again. `gives_way` are a record that
    goes and the one that takes its place: they are never seen together.
    """

    name: str
    before: tuple[Step, ...]
    command: Step
    damaged: tuple[str, ...] = ()
    may_go: tuple[str, ...] = ()
    keeps_more: bool = False
    gives_way: tuple[str, str] | None = None

    @property
    def services(self) -> list[Service]:
        """All that the service says in this scenario."""
        steps = [*self.before, self.command]
        return [step.service for step in steps if step.service is not None]


LAKE = "{lake}"
EXPORT = ("export", LAKE)
WITH_DOCUMENTS = ("export", LAKE, "--documents")
WITH_UNBILLED = (
    *("export", LAKE, "--unbilled", "--currency", "USD", "--line-item-type", UNBILLED[2]),
    *("--keep-snapshots", "2"),
)
A, B, A_DOCUMENT = detail("A", OFFICE), detail("B", MODERN), "A-statement"
A_COMMIT, HEADERS, SNAPSHOTS = "A+office+billing_line_items", "invoices", "~unbilled"


def _says(charged: float, *answers: tuple[str, ...], b_rows: int = 0) -> Service:
    """Return a service with invoice A, its line items answered one way or another, and maybe B."""
    if not b_rows:
        return Service({"A": charged}, {A: answers})
    return Service({"A": charged, "B": b_rows}, {A: answers, B: (names(b_rows, "b"),)})


def _says_modern(charged: float, *answers: tuple[str, ...]) -> Service:
    """Return a service with an invoice of a kind of which it is not known whether it adds up."""
    return Service({"A": charged}, {detail("A", MODERN): answers})


FIRST = _says(23, names(23, "a", kept=10), b_rows=7)
SMALL = _says(4, names(4, "a"))
CHANGED_SMALL = _says(5, names(5, "n"))
CHANGED_IN_PART = _says(24, names(24, "n", kept=10), b_rows=7)
CHANGED_WHOLLY = _says(24, names(24, "n"), b_rows=7)
WITH_ONE_MORE = _says(4, names(4, "a"), b_rows=3)
DIFFERING = _says(7, names(4, "a"))


def _with_statement(text: str, charged: int, name: str) -> Service:
    said = _says(charged, names(charged, name))
    content = pdf([text], seed=1, padding=200)
    return Service(said.charges, said.answers, {"A": content})


def _with_unbilled(number: int) -> Service:
    answers = {A: (names(2, "a"),), UNBILLED: (names(3, f"u{number}-"),)}
    return Service({"A": 2}, answers)


def _find(root: Path, pattern: str) -> Path:
    (path,) = root.glob(pattern)
    return path


def _flip_a_bit(pattern: str) -> Callable[[Path], object]:
    def flip(root: Path) -> None:
        path = _find(root, pattern)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return flip


def _lose(*patterns: str) -> Callable[[Path], object]:
    def lose(root: Path) -> None:
        for pattern in patterns:
            _find(root, pattern).unlink()

    return lose


def _put_back_a_replaced_part(root: Path) -> None:
    """Put a part of a replaced generation back beside the new ones, as a backup does."""
    kept = _find(root, "_bulkfetch/superseded/*/A-00000-*.parquet.old")
    folder = _find(root, "line_items/*/*/A-00000-*.parquet").parent
    folder.joinpath(kept.name.removesuffix(".old")).write_bytes(kept.read_bytes())


_A_COMMIT_FILE = f"_bulkfetch/commits/{A_COMMIT}.json"
_FIRST_EXPORT = Step(EXPORT, FIRST)
_SMALL_EXPORT = Step(EXPORT, SMALL)
_DIFFERING_BESIDE = Service(
    {"A": 4, "B": 7}, {A: (names(4, "a"),), detail("B", OFFICE): (names(4, "b"),)}
)
CHANGED_SMALL_BESIDE = replace(
    _DIFFERING_BESIDE,
    charges={"A": 5, "B": 7},
    answers={**_DIFFERING_BESIDE.answers, A: (names(5, "n"),)},
)
_SMALL_AND_DIFFERING = (Step(EXPORT, _DIFFERING_BESIDE),)
_TWO_GENERATIONS = (_SMALL_EXPORT, Step(EXPORT, CHANGED_SMALL))


def _replacement_killed(before: str) -> tuple[Step, Step]:
    return (_SMALL_EXPORT, Step(EXPORT, CHANGED_SMALL, killed_before=before))


SCENARIOS = (
    Scenario("claim of a new archive", (), Step(EXPORT, Service({}, {}))),
    Scenario("first export", (), _FIRST_EXPORT),
    Scenario("first export with documents", (), Step(WITH_DOCUMENTS, _with_statement("1", 2, "a"))),
    Scenario("replacement, one part", (_SMALL_EXPORT,), Step(EXPORT, CHANGED_SMALL)),
    Scenario("replacement, several parts", (_FIRST_EXPORT,), Step(EXPORT, CHANGED_WHOLLY)),
    Scenario("replacement, one part shared", (_FIRST_EXPORT,), Step(EXPORT, CHANGED_IN_PART)),
    Scenario(
        "replacement, there and back", _TWO_GENERATIONS, Step(EXPORT, SMALL), may_go=(HEADERS,)
    ),
    Scenario(
        "replacement that does not add up",
        (Step(EXPORT, _says_modern(4, names(4, "a"))),),
        Step(EXPORT, _says_modern(5, names(6, "n"))),
    ),
    Scenario("replacement by nothing", (_SMALL_EXPORT,), Step(EXPORT, _says(0, ()))),
    Scenario(
        "killed replacement, finished by an export",
        _replacement_killed("remove lake/line_items/"),
        Step(EXPORT, CHANGED_SMALL),
    ),
    Scenario(
        "killed replacement, finished by a repair",
        _replacement_killed("remove lake/_bulkfetch/commits/"),
        Step(("repair", LAKE), CHANGED_SMALL),
    ),
    Scenario(
        "killed replacement, finished by a prune",
        _replacement_killed(f"rename lake/{_A_COMMIT_FILE}"),
        Step(("prune", LAKE, "--older-than", "0d")),
        may_go=(A_COMMIT, HEADERS),
    ),
    Scenario(
        "killed replacement, finished by an accept",
        (
            *_SMALL_AND_DIFFERING,
            Step(EXPORT, CHANGED_SMALL_BESIDE, killed_before="remove lake/line_items/"),
        ),
        Step(("accept", LAKE, "B", "--reason", "agreed")),
    ),
    Scenario(
        "documents replaced",
        (Step(WITH_DOCUMENTS, _with_statement("1", 2, "a")),),
        Step(WITH_DOCUMENTS, _with_statement("2", 3, "n")),
    ),
    Scenario(
        "another detail takes its place",
        (_SMALL_EXPORT,),
        Step(EXPORT, Service({"A": 4}, {detail("A", MODERN): (names(4, "m"),)})),
        gives_way=(A_COMMIT, "A+one_time+billing_line_items"),
    ),
    Scenario("headers replaced", (_SMALL_EXPORT,), Step(EXPORT, WITH_ONE_MORE)),
    Scenario(
        "unbilled snapshots",
        tuple(Step(WITH_UNBILLED, _with_unbilled(number)) for number in range(3)),
        Step(WITH_UNBILLED, _with_unbilled(3)),
        may_go=(SNAPSHOTS, HEADERS),
    ),
    Scenario(
        "repair of a damaged part",
        (_FIRST_EXPORT, Step(alter=_flip_a_bit("line_items/*/*/A-00001-*.parquet"))),
        Step(("repair", LAKE), FIRST),
        damaged=(A_COMMIT,),
    ),
    Scenario(
        "repair of a lost commit",
        (_FIRST_EXPORT, Step(alter=_lose(_A_COMMIT_FILE))),
        Step(("repair", LAKE), FIRST),
        damaged=(A_COMMIT,),
    ),
    Scenario(
        "repair of a lost commit and part",
        (
            _FIRST_EXPORT,
            Step(alter=_lose(_A_COMMIT_FILE, "line_items/*/*/A-00002-*.parquet")),
        ),
        Step(("repair", LAKE), FIRST),
        damaged=(A_COMMIT,),
    ),
    Scenario(
        "repair of lost headers",
        (_SMALL_EXPORT, Step(alter=_lose("invoices/*.parquet"))),
        Step(("repair", LAKE), SMALL),
        damaged=(HEADERS,),
        keeps_more=True,
    ),
    Scenario(
        "repair of a part that no record names",
        (_FIRST_EXPORT, Step(EXPORT, CHANGED_WHOLLY), Step(alter=_put_back_a_replaced_part)),
        Step(("repair", LAKE), CHANGED_WHOLLY),
        damaged=(A_COMMIT,),
    ),
    Scenario(
        "repair of a lost record of a document",
        (
            Step(WITH_DOCUMENTS, _with_statement("1", 2, "a")),
            Step(alter=_lose("_bulkfetch/documents/A-statement.json")),
        ),
        Step(("repair", LAKE), _with_statement("1", 2, "a")),
        damaged=(A_DOCUMENT,),
    ),
    Scenario(
        "repair of a damaged snapshot",
        (
            Step(WITH_UNBILLED, _with_unbilled(0)),
            Step(alter=_flip_a_bit("unbilled_line_items/*/*/period=current/*/*.parquet")),
        ),
        Step(("repair", LAKE), _with_unbilled(0)),
        damaged=("~unbilled-current-USD+one_time+usage_line_items",),
    ),
    Scenario(
        "repair of a damaged document",
        (
            Step(WITH_DOCUMENTS, _with_statement("1", 2, "a")),
            Step(alter=_flip_a_bit("documents/*.pdf")),
        ),
        Step(("repair", LAKE), _with_statement("1", 2, "a")),
        damaged=(A_DOCUMENT,),
    ),
    Scenario(
        "repair of a lost archive file",
        (_SMALL_EXPORT, Step(alter=_lose("_bulkfetch/archive.json"))),
        Step(("repair", LAKE), SMALL),
    ),
    Scenario(
        "prune",
        (*_TWO_GENERATIONS, Step(EXPORT, _says(6, names(6, "m")))),
        Step(("prune", LAKE, "--older-than", "0d")),
        may_go=(A_COMMIT, HEADERS),
    ),
    Scenario(
        "accept", (Step(EXPORT, DIFFERING),), Step(("accept", LAKE, "A", "--reason", "agreed"))
    ),
    Scenario(
        "asked again, the second answer wins",
        (),
        Step(EXPORT, _says(14, (), names(14, "a"))),
        keeps_more=True,
    ),
    Scenario(
        "asked again, the archived rows stay",
        (_SMALL_EXPORT,),
        Step(EXPORT, _says(4.5, names(2, "n"))),
    ),
    Scenario(
        "asked again, new rows are taken by name",
        (_SMALL_EXPORT,),
        Step(("export", LAKE, "--take-new", "A"), _says(4.5, names(2, "n"))),
    ),
)
