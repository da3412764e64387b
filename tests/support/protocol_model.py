"""How an archive is written: an executable specification, checked exhaustively.

    python tests/support/protocol_model.py                check the protocol: states and verdict
    python tests/support/protocol_model.py --broken all   how each tempting order fails
    python tests/support/protocol_model.py --syncs        leave out each sync in turn
    python tests/support/protocol_model.py --orders       try all 720 orders of the six steps

`tests/unit/archive/test_publishing.py` holds the code of `archive/publishing/` against it.

Several transfers, where some take the place of others, are modelled at the end (`Exchange`). Else there is one, T (a document, a snapshot, the table of headers are the same shape: files and one commit that names them).

    directory  what is in it                                         name in the model
    S          _bulkfetch/staging: new parts, whole                  T-0-b.parquet.part
    C          _bulkfetch/commits: the commit, and the records       T.json   T.next   T.m1.old
    L          line_items/...: what readers glob                     T-0-b.parquet
    X, X/m1    _bulkfetch/superseded/<moment>: what was replaced     T-0-a.parquet.old   T.json.old

`T.next` has exactly the bytes of the commit to come (or says `withdrawn`); `T.<moment>.old` is the old commit, renamed. They are the intent.
A disk keeps file content after fsync(file), and entries after fsync(directory). What is not synced is lost or kept in any combination; a
rename within a directory is one change, a move between two is an entry that comes and an entry that goes, each lost or kept by itself.
An object store applies put-if-absent, copy-if-absent and delete one by one, each at once and for good, and has no rename.
A process may be killed before or after every step, in the middle of a write, or power may be cut; a full disk or an error of a step is such
a kill, since nothing is cleaned up after one: the next command rolls forward. The lock excludes a second writer, so there is one process.
"""

import argparse
import itertools
import sys
from collections import deque
from functools import partial

CRASHES = 3
STEPS = ("withdraw", "keep", "remove", "publish", "forget", "commit")
T_JSON, T_NEXT, WITHDRAWN = ("C", "T.json"), ("C", "T.next"), "withdrawn"


# ---- what is stored: a generation is {name: content}, and its commit says so ----------------------------------------------------------
def part(number, content):
    return f"T-{number}-{content}.parquet"


def generation(*contents):
    return {part(n, c): c for n, c in enumerate(contents)}


PAIRS = {  # old generation, new generation
    "1 part by 1": (generation("a"), generation("b")),
    "2 parts by 2, first shared": (generation("a", "b"), generation("a", "c")),
    "2 parts by 1": (generation("a", "b"), generation("c")),
    "1 part by 2": (generation("a"), generation("c", "d")),
    "2 parts by 2": (generation("a", "b"), generation("c", "d")),
    "document, same name": ({"T.pdf": "a"}, {"T.pdf": "b"}),
}


def read(content):
    """The parts that a commit or record names, or None if it cannot be read. A commit has a hash of itself: what is torn is known."""
    content = (content or "torn").rstrip("~")
    if is_withdrawn(content):
        return {}
    return (
        None
        if not content.startswith("commit ")
        else dict(p.split("=") for p in content[7:].split())
    )


def is_withdrawn(content):
    return content.startswith(WITHDRAWN)


def commit_of(parts):
    return "commit " + " ".join(f"{name}={content}" for name, content in sorted(parts.items()))


def whole(files, place, content):
    return (
        files.get(place, "").rstrip("~") == content
    )  # the sha256 is looked at, never the name alone


# ---- the stores ------------------------------------------------------------------------------------------------------------------------
class Disk:
    """Visible entries, durable entries, and the changes of directories that are not synced. `~` marks content that is not synced."""

    power_cuts = True

    def start(self, files):
        return frozenset(files.items()), frozenset(files.items()), ()

    def apply(self, state, op, half=False):
        visible, durable, pending = dict(state[0]), dict(state[1]), list(state[2])
        kind, *args = op

        def change(directory, **entries):
            changes = tuple(sorted(entries.items(), key=str))
            pending.append((directory, changes))
            for name, content in changes:
                visible.pop((directory, name), None)
                if content is not None:
                    visible[directory, name] = content

        if kind == "write":
            (directory, name), content = args
            change(directory, **{name: "torn" if half else content + "~"})
        elif kind == "fsync":
            there = visible.get(args[0], "")
            clean = {there: there.rstrip("~")}
            visible = {k: clean.get(v, v) for k, v in visible.items()}
            durable = {k: clean.get(v, v) for k, v in durable.items()}
            pending = [
                (d, tuple((n, clean.get(c, c)) for n, c in entries)) for d, entries in pending
            ]
        elif kind == "sync":
            durable = {k: v for k, v in durable.items() if k[0] != args[0]} | {
                k: v for k, v in visible.items() if k[0] == args[0]
            }
            pending = [p for p in pending if p[0] != args[0]]
        elif kind == "link":
            source, target = args
            assert target not in visible, f"EEXIST {target}"
            change(target[0], **{target[1]: visible[source]})
        elif kind == "unlink":
            change(args[0][0], **{args[0][1]: None})
        elif kind == "rename":
            source, target = args
            content = visible[source]
            if source[0] == target[0]:
                change(source[0], **{source[1]: None, target[1]: content})
            else:
                change(target[0], **{target[1]: content})
                change(source[0], **{source[1]: None})
        elif kind == "mkdir":
            change("X", **{args[0]: "directory"})
        elif kind == "rmdir":
            change("X", **{args[0]: None})
        free = sorted(
            {p for p in pending if p[0] != "C"}, key=str
        )  # changes of one name each: any of its contents may be found
        return (
            frozenset(visible.items()),
            frozenset(durable.items()),
            (*free, *[p for p in pending if p[0] == "C"]),
        )

    def after_power_cut(self, state):
        _, durable, pending = state
        found, outcomes = set(), {durable}
        free = [p for p in pending if p[0] != "C"]
        for directory, entries in (*free, *reversed(free), *[p for p in pending if p[0] == "C"]):
            outcomes |= {_entered(files, directory, entries) for files in outcomes}
        for outcome in outcomes:
            files = dict(outcome)
            files = {k: v for k, v in files.items() if "/" not in k[0] or ("X", k[0][2:]) in files}
            unsynced = sorted({v for v in files.values() if v.endswith("~")})
            for torn in itertools.product((False, True), repeat=len(unsynced)):
                fate = {v: "torn" if t else v[:-1] for v, t in zip(unsynced, torn)}
                found.add(frozenset((k, fate.get(v, v)) for k, v in files.items()))
        return [(files, files, ()) for files in found]


def _entered(files, directory, entries):
    files = dict(files)
    _enter(files, directory, entries)
    return frozenset(files.items())


def _enter(files, directory, entries):
    for name, content in entries:
        files.pop((directory, name), None)
        if content is not None:
            files[directory, name] = content


class Objects(Disk):
    """Whole at once, durable at once; copies instead of links; no rename."""

    power_cuts = False

    def apply(self, state, op, half=False):
        if op[0] in ("fsync", "sync", "mkdir", "rmdir"):
            return state
        assert op[0] != "rename", "an object store cannot rename"
        visible, _, _ = super().apply(state, op)
        visible = frozenset((k, v.rstrip("~")) for k, v in visible)
        return visible, visible, ()


# ---- the protocol ----------------------------------------------------------------------------------------------------------------------
class Bound(Exception):
    """More replacements than the model has moments for."""


class Protocol:
    """Each method is a step: it looks at the files that are there and gives the operations to do. Recovery is the same steps."""

    def __init__(self, store, broken="", order=STEPS, without=()):
        self.store, self.broken, self.order, self.without = store, broken, order, without

    def recovery(self, files):
        """What every command does first, lock in hand, before it asks the server anything."""
        next_, _, olds = self.records(files)
        return (
            ("begin", "check", "adopt", *self.order, "tidy", "begin")
            if next_ or olds
            else ("begin",)
        )

    def blocks(self, verb, answer):
        """What a command does after that."""
        if verb == "prune":
            return ("prune", "end")
        work = ("work", "check", *self.order, "tidy")
        return (
            ("end",)
            if answer == "refused"
            else (*work, *work, "end")
            if verb == "repair"
            else (*work, "end")
        )

    def rename(self, source, target):
        """Within `commits/`: one step on a disk, a copy and a delete in an object store."""
        return (
            [("rename", source, target)]
            if self.store.power_cuts
            else [("link", source, target), ("unlink", source)]
        )

    def move(self, source, target):
        return (
            [("rename", source, target)]
            if self.broken == "move-by-rename" and self.store.power_cuts
            else [("link", source, target)]
        )

    def records(self, files):
        olds = {
            name[2:-4]: content
            for (d, name), content in sorted(files.items())
            if d == "C" and name.endswith(".old")
        }
        return files.get(T_NEXT), files.get(T_JSON), olds

    def wanted(self, files):
        next_, current, _ = self.records(files)
        return read(next_) if next_ else read(current) if current else {}

    # -- before: what every command does first, with the lock in its hand and no server asked
    def begin(self, files, _):
        return [("sync", "S", "begin S"), ("sync", "C", "begin C")]

    def check(self, files, _):
        """A record that was never durable is dropped: nothing of the old generation had moved."""
        next_, current, olds = self.records(files)
        if not next_:
            return []
        new = read(next_)
        if new is None:
            return [("unlink", T_NEXT)]
        if self.broken == "roll-back" and not current and olds:
            return [("unlink", T_NEXT)]
        if (
            all(
                whole(files, ("S", name + ".part"), c) or whole(files, ("L", name), c)
                for name, c in new.items()
            )
            or olds
        ):
            return []
        kept = read(current) or {}
        gone = [
            ("unlink", ("L", name))
            for name, c in new.items()
            if name not in kept and whole(files, ("L", name), c)
        ]
        return [*gone, ("sync", "L", "drop"), ("unlink", T_NEXT)]

    def adopt(self, files, _):
        """What a killed process left is seen, and not durable: sync it before anything relies on it."""
        next_, _, _ = self.records(files)
        if not next_ or self.broken == "trust-what-is-seen":
            return []
        staged = [
            ("fsync", ("S", name + ".part"))
            for name in read(next_)
            if ("S", name + ".part") in files
        ]
        return [*staged, ("fsync", T_NEXT)]

    # -- a replacement, a first publication, a withdrawal: six steps, each of which may find itself done
    def withdraw(self, files, _):
        next_, current, olds = self.records(files)
        if not next_ or not current:
            return []
        new = read(next_)
        if (
            current.rstrip("~") == next_.rstrip("~")
            and not olds
            and all(whole(files, ("L", n), c) for n, c in new.items())
        ):
            return []  # all is done but to remove the record
        if not self.store.power_cuts and current in olds.values():
            return [("unlink", T_JSON), ("table",)]  # killed between copy and delete
        moments = [
            m
            for m in self.moments
            if ("X", m) not in files and m not in olds and not any(d == "X/" + m for d, _ in files)
        ]
        if not moments:
            raise Bound
        return [
            *self.rename(T_JSON, ("C", f"T.{moments[0]}.old")),
            ("sync", "C", "withdraw"),
            *self.tables(),
        ]

    def keep(self, files, _):
        ops = []
        new = self.wanted(files)
        for moment, content in self.records(files)[2].items():
            folder, links = "X/" + moment, []
            for name, c in (read(content) or {}).items():
                there = files.get(("L", name))
                is_new_only = there == new.get(name) and there != c
                if there and not is_new_only and (folder, name + self.ending) not in files:
                    links += self.move(("L", name), (folder, name + self.ending))
            if (folder, "T.json.old") not in files:
                links += [("link", ("C", f"T.{moment}.old"), (folder, "T.json.old"))]
            made = [] if ("X", moment) in files else [("mkdir", moment)]
            ops += [*made, ("sync", "X", "superseded"), *links, ("sync", folder, "moment")]
        return ops

    @property
    def ending(self):
        return "" if self.broken == "superseded-keeps-its-ending" else ".old"

    def remove(self, files, _):
        _, _, olds = self.records(files)
        new = self.wanted(files)
        if self.broken == "by-name":
            stay = {(name, files.get(("L", name))) for name in new}
        else:
            stay = set(new.items())
        names = sorted({name for content in olds.values() for name in read(content) or {}})
        gone = [
            ("unlink", ("L", n))
            for n in names
            if ("L", n) in files and (n, files["L", n]) not in stay
        ]
        return [*self.tables(), *gone, ("sync", "L", "remove")] if olds else []

    def publish(self, files, _):
        next_, _, _ = self.records(files)
        if not next_:
            return []
        new = read(next_)
        missing = [n for n, c in sorted(new.items()) if not whole(files, ("L", n), c)]
        ops = []
        for n in missing:
            ops += self.move(("S", n + ".part"), ("L", n))
        return [*ops, ("sync", "L", "publish")] if new else []

    def forget(self, files, _):
        return [("unlink", ("C", f"T.{moment}.old")) for moment in self.records(files)[2]]

    def commit(self, files, _):
        next_, current, _ = self.records(files)
        if not next_:
            return []
        if is_withdrawn(next_) or (current and not self.store.power_cuts):
            return [("unlink", T_NEXT)]
        return self.rename(T_NEXT, T_JSON)

    def tidy(self, files, command):
        if command[1] == "gone" and command[0] != "":
            return []
        return [
            ("table",),
            *[
                ("unlink", place)
                for place in sorted(files)
                if place[0] == "S" and place[1].startswith("T")
            ],
        ]

    def tables(self):
        return [] if self.broken == "table-last" else [("table",)]

    # -- the work of export and repair: what to fetch, and the record of it
    def work(self, files, command):
        verb, answer = command
        next_, current, olds = self.records(files)
        if next_ or olds:
            return []  # could not be rolled forward: a finding
        named = read(current) or {}
        strays = {
            n: c for (d, n), c in files.items() if d == "L" and n.startswith("T") and n not in named
        }
        if strays and not current and verb == "repair":
            if all(
                n == part(int(n[2]), c) for n, c in strays.items()
            ):  # footers and names prove themselves
                return self.record(commit_of(strays), replaces=False)
        if answer in ("gone", "refused"):
            return []
        if answer == WITHDRAWN:
            return self.record(WITHDRAWN, replaces=True) if current else []
        new = dict(answer)
        sound = {
            n
            for n, c in named.items()
            if (whole(files, ("L", n), c) if verb == "repair" else ("L", n) in files)
        }
        if named == new and sound == set(named):
            return []
        if any(n in strays for n in new) or (strays and not current):
            return []  # the name is taken by a file that is not ours, or parts without a commit: `repair` first
        staged = []
        for n, c in sorted(new.items()):
            if not whole(files, ("L", n), c) or self.broken == "today":
                staged += [("write", ("S", n + ".part"), c), ("fsync", ("S", n + ".part"), "part")]
        if self.broken == "today":
            return self.today(files, staged, new)
        if self.broken == "no-record-for-the-first" and not current:
            links = [op for n in sorted(new) for op in (("link", ("S", n + ".part"), ("L", n)),)]
            return [
                *staged,
                *links,
                ("sync", "L", ""),
                ("write", T_JSON, commit_of(new)),
                ("fsync", T_JSON, ""),
                ("sync", "C", ""),
            ]
        return [*staged, *self.record(commit_of(new), replaces=bool(current))]

    def record(self, content, replaces):
        """The intent. Where something is replaced, the new parts have to be durable under their staged names before."""
        first = [("sync", "S", "staged"), ("sync", "C", "before record")] if replaces else []
        return [
            *first,
            ("write", T_NEXT, content),
            ("fsync", T_NEXT, "record"),
            ("sync", "C", "record entry"),
        ]

    def today(self, files, staged, new):
        old = read(files.get(T_JSON)) or {}
        gone = [("unlink", T_JSON), ("sync", "C", "")] if old else []
        gone += [("unlink", ("L", n)) for n in sorted(old) if ("L", n) in files]
        come = [("rename", ("S", n + ".part"), ("L", n)) for n in sorted(new)]
        return [
            *staged,
            *gone,
            ("sync", "L", ""),
            *come,
            ("sync", "L", ""),
            ("write", T_JSON, commit_of(new)),
            ("fsync", T_JSON, ""),
            ("sync", "C", ""),
        ]

    def prune(self, files, _):
        ops = []
        for moment in [
            m for m in ("m1",) if any(d == "X/" + m for d, _ in files)
        ]:  # older than what was asked for
            folder = "X/" + moment
            named = [
                (folder, n + self.ending) for n in read(files.get((folder, "T.json.old"))) or {}
            ]
            parts = [("unlink", place) for place in named if place in files]
            record = [("unlink", (folder, "T.json.old"))] if (folder, "T.json.old") in files else []
            both = (
                [*record, *parts]
                if self.broken == "prune-commit-first"
                else [*parts, ("sync", folder, "prune"), *record]
            )
            foreign = any(
                d == folder and (d, n) not in named and n != "T.json.old" for d, n in files
            )
            ops += [*both, *([] if foreign else [("rmdir", moment)])]
        return ops

    def end(self, files, _):
        return [("sync", "C", "end")]

    def steps(self, block, files, command):
        ops = [
            op
            for op in getattr(self, block)(files, command)
            if op[-1] not in self.without or op[0] not in ("sync", "fsync")
        ]
        return ops


# ---- the invariants --------------------------------------------------------------------------------------------------------------------
INVARIANTS = {
    "law 1": "every file and commit ever committed is in L or C or superseded/, whole, at every instant (prune aside), and each moment is complete",
    "law 2": "a refused command without open record changes nothing (by construction: it only syncs; see `recovery` and `blocks`)",
    "law 3": "a name never shows other content while a commit or a table names it (checked as law 5 c and tables)",
    "law 4": "whenever a command ends, whatever the server said: no record is open, and old or new is committed with all its parts",
    "law 5 a": "whatever ends in .parquet, anywhere in the tree, is whole",
    "law 5 b": "no reader that globs sees two generations, or one file twice",
    "law 5 c": "a commit that can be seen names only files that are there, whole",
    "law 6 a": "what is not ours has the name and content it had",
    "law 6 b": "every file of ours in L is named by the commit or by a record, at every instant: nothing has to be guessed",
    "law 7": "a command that ends leaves nothing to do for the same command",
    "tree": "after a quiet successful run the tree is the undisturbed one, superseded/ aside",
    "tables": "every file that the table names is there with that content; after a successful run the table is the commits",
}


class Scenario:
    def __init__(self, name, files, old, new, foreign=(), stuck=False, sound=True, moments=("m1",)):
        self.name, self.old, self.new, self.foreign, self.stuck, self.sound = (
            name,
            old,
            new,
            dict(foreign),
            stuck,
            sound,
        )
        self.moments = moments
        self.files = {**files, **self.foreign}
        self.answers = [
            tuple(sorted(old.items())),
            tuple(sorted(new.items())),
            "gone",
            "refused",
            WITHDRAWN,
        ]


def scenarios():
    for name, (old, new) in PAIRS.items():
        there = {("L", n): c for n, c in old.items()} | {T_JSON: commit_of(old)}
        yield Scenario(f"nothing there; {name}", {}, old, new)
        yield Scenario(f"replaced: {name}", there, old, new)
        if name == "1 part by 1":
            yield Scenario("replaced, and back again", there, old, new, moments=("m1", "m2"))
    old, new = PAIRS["2 parts by 2, first shared"]
    there = {("L", n): c for n, c in old.items()} | {T_JSON: commit_of(old)}
    yield Scenario(
        "a part is damaged", there | {("L", part(0, "a")): "damaged"}, old, new, sound=False
    )
    yield Scenario(
        "a part is missing",
        {k: v for k, v in there.items() if k != ("L", part(1, "b"))},
        old,
        new,
        sound=False,
    )
    yield Scenario(
        "the commit is lost", {k: v for k, v in there.items() if k != T_JSON}, old, new, sound=False
    )
    foreign = {
        ("L", "notes.parquet"): "foreign",
        ("S", "notes.part"): "foreign",
        ("X", "m1"): "directory",
        ("X/m1", part(0, "a") + ".old"): "foreign",
    }
    yield Scenario("files of others", there, old, new, foreign=foreign, moments=("m1", "m2"))
    yield Scenario(
        "the new name is taken",
        there,
        old,
        new,
        foreign={("L", part(1, "c")): "foreign"},
        stuck=True,
    )


def kept_by(files):
    """What a commit that can be seen vouches for: from now on it may not be lost."""
    parts = read(files.get(T_JSON))
    if parts is None:
        return frozenset()
    return frozenset(
        {files[T_JSON].rstrip("~")}
        | {files[p].rstrip("~") for n in parts if (p := ("L", n)) in files}
    )


def instant_faults(files, kept, table, scenario):
    parts = read(files.get(T_JSON))
    for place, content in scenario.foreign.items():
        if files.get(place) != content and place != ("X", "m1"):
            yield "law 6 a", f"{place} of somebody else is {files.get(place)}"
    safe = {c.rstrip("~") for (d, n), c in files.items() if d[0] in "LX" or d == "C"}
    for content in kept - safe:
        yield "law 1", f"'{content}' was committed, and is nowhere"
    seen = [
        (n, c.rstrip("~"))
        for (d, n), c in files.items()
        if n.endswith((".parquet", ".pdf")) and c != "foreign"
    ]
    if any(c == "torn" for _, c in seen):
        yield "law 5 a", "half a file has its final name"
    if len({n for n, _ in seen}) < len(seen):
        yield "law 5 b", f"a file is seen twice: {sorted(n for n, _ in seen)}"
    names = {n for n, _ in seen}
    if names - set(scenario.new) and names - set(scenario.old):
        yield "law 5 b", f"old and new are seen together: {sorted(names)}"
    if (
        T_JSON in files
        and scenario.sound
        and (parts is None or not all(whole(files, ("L", n), c) for n, c in parts.items()))
    ):
        yield "law 5 c", f"the commit ({files[T_JSON]}) names what is not there"
    named = {n for (d, n_), c in files.items() if d == "C" for n in read(c) or {}}
    strays = {n for (d, n), c in files.items() if d == "L" and c != "foreign"} - named
    if strays and scenario.name != "the commit is lost":
        yield "law 6 b", f"no record names {sorted(strays)}"
    for name, content in table if scenario.sound else ():
        if not whole(files, ("L", name), content):
            yield "tables", f"the table names {name}, which is not there with its content"


def end_faults(files, command, kept, table, gone, scenario, protocol, pruned):
    verb, answer = command
    open_ = [n for d, n in files if d == "C" and n != "T.json"]
    parts = read(files.get(T_JSON))
    if open_:
        yield "law 4", f"the command ended and {sorted(open_)} is open"
    if kept and not gone and scenario.sound and parts is None:
        yield "law 4", "neither old nor new is committed"
    for block in ("check", "withdraw", "keep", "publish", "forget", "commit"):
        if [op for op in protocol.steps(block, files, command) if op[0] not in ("sync", "fsync")]:
            yield "law 7", f"{block} has something left to do"
    if (verb != "prune" and answer != "refused" and protocol.steps("work", files, command)) or (
        verb == "prune"
        and any(n.startswith("T") and c != "foreign" for (d, n), c in files.items() if d == "X/m1")
    ):
        yield "law 7", f"{verb} has something left to do"
    for d, n in files:
        if n == "T.json.old" and not pruned and scenario.sound:
            lacks = [p for p in read(files[d, n]) or {} if (d, p + protocol.ending) not in files]
            if lacks:
                yield "law 1", f"superseded {d} lacks {lacks}"
    if isinstance(answer, tuple) and not scenario.stuck and (scenario.sound or (verb == "repair")):
        want = {("L", n): c for n, c in answer} | {T_JSON: commit_of(dict(answer))}
        have = {k: v for k, v in files.items() if k[0][0] != "X" and k not in scenario.foreign}
        if {k: v.rstrip("~") for k, v in have.items()} != want:
            yield "tree", f"is {sorted(have.items())}"
        if set(table) != set(answer):
            yield "tables", f"the table has {sorted(table)}"


# ---- the search: breadth first, so that the first counterexample is a shortest one -----------------------------------------------------
def explore(protocol, scenario, limit=None, laws=tuple(INVARIANTS)):
    """Return (states, fault); fault is None or (law, what, trace)."""
    store = protocol.store
    disk = store.start(
        {k: v for k, v in scenario.files.items() if store.power_cuts or v != "directory"}
    )
    files = dict(disk[0])
    table = frozenset((read(files.get(T_JSON)) or {}).items()) if scenario.sound else frozenset()
    commands = [("export", a) for a in scenario.answers] + [("prune", None)]
    commands += [
        ("repair", a) for a in (scenario.answers[1:3] if scenario.sound else scenario.answers)
    ]
    first = (
        disk,
        None,
        kept_by(files),
        table,
        False,
        False,
    )  # files, process, and what only the checker knows
    came, queue, verdicts = {first: None}, deque([first]), {}
    while queue:
        state = queue.popleft()
        disk, process, kept, table, gone, pruned = state
        files = dict(disk[0])
        key = (disk[0], kept, table)
        if key not in verdicts:
            verdicts[key] = next(
                (f for f in instant_faults(files, kept, table, scenario) if f[0] in laws), None
            )
        if verdicts[key]:
            return len(came), (*verdicts[key], trace(came, state))
        following = []
        protocol.moments = (
            scenario.moments[1:] if pruned else scenario.moments
        )  # no moment comes twice
        try:
            if process is None:
                for cut in store.after_power_cut(disk) if disk[2] else ():
                    following.append(((cut, None, kept, table, gone, pruned), "POWER CUT"))
                blocks = protocol.recovery(files)
                following.append(
                    (
                        (disk, (("", None), blocks, ()), kept, table, gone, pruned),
                        "a command starts: it takes the lock",
                    )
                )
            else:
                command, blocks, ops = process
                now_table = frozenset((read(files.get(T_JSON)) or {}).items())
                while True:
                    while ops and idle(ops[0], disk, table, now_table):
                        ops = ops[1:]
                    if ops or not blocks:
                        break
                    ops, blocks = tuple(protocol.steps(blocks[0], files, command)), blocks[1:]
                    if len(blocks) == 1 and command[0] == "prune":
                        kept, pruned = kept_by(files), True
                if ops:
                    after = store.apply(disk, ops[0])
                    now = dict(after[0])
                    now_gone = T_JSON not in now and (
                        gone or now.get(T_NEXT, "").rstrip("~") == WITHDRAWN
                    )
                    now_table = now_table if ops[0][0] == "table" else table
                    following.append(
                        (
                            (
                                after,
                                (command, blocks, ops[1:]),
                                kept | kept_by(now),
                                now_table,
                                now_gone,
                                pruned,
                            ),
                            "  " + show(ops[0]),
                        )
                    )
                    following.append(((disk, None, kept, table, gone, pruned), "KILLED"))
                    if ops[0][0] == "write" and store.power_cuts:
                        half = store.apply(disk, ops[0], half=True)
                        following.append(
                            (
                                (half, None, kept, table, gone, pruned),
                                "KILLED while it writes " + show(ops[0]),
                            )
                        )
                elif command == ("", None):
                    for verb, answer in commands:
                        process = (verb, answer), protocol.blocks(verb, answer), ()
                        following.append(
                            (
                                (disk, process, kept, table, gone, pruned),
                                f"  it is {verb}{describe(answer, scenario)}",
                            )
                        )
                else:
                    faults = end_faults(
                        files, command, kept, table, gone, scenario, protocol, pruned
                    )
                    fault = next((f for f in faults if f[0] in laws), None)
                    if fault:
                        return len(came), (*fault, trace(came, state))
                    following.append(((disk, None, kept, table, gone, pruned), "  it ends"))
        except Bound:
            continue
        except (AssertionError, KeyError, AttributeError, TypeError) as error:
            return len(came), (
                "law 4",
                f"the next step cannot be done: {error!r}",
                trace(came, state),
            )
        reach(following, state, came, queue)
        if limit and len(came) > limit:
            break
    return len(came), None


def reach(following, state, came, queue):
    """Note how the states that follow are reached, and queue those that are new."""
    for successor, line in following:
        if successor not in came:
            came[successor] = (state, line)
            queue.append(successor)


def idle(op, disk, table, now_table):
    """Whether a step changes nothing: no state of its own."""
    if op[0] == "sync":
        return not any(directory == op[1] for directory, _ in disk[2])
    if op[0] == "fsync":
        return not dict(disk[0]).get(op[1], "").endswith("~")
    return op[0] == "table" and table == now_table


def trace(came, state):
    lines = []
    while came[state]:
        state, line = came[state]
        lines.append(line)
    return lines[::-1]


def describe(answer, scenario):
    if isinstance(answer, tuple):
        return (
            " (the server has: old)" if dict(answer) == scenario.old else " (the server has: new)"
        )
    return f" (the server: {answer})" if answer else ""


def show(op):
    return " ".join("/".join(a) if isinstance(a, tuple) else str(a) for a in op if a != "")


# ---- transfers that take the place of others: an invoice has other details now ---------------------------------------------------------
# `U.next` is `withdrawn U W; T=commit ... | V=commit ...`: U and W go together, and it names the commits that are to come in their place.


def withdrawn_for(transfer, leaving, coming):
    """The record that a transfer goes, which go with it, and which commits take their place: it does not go without them."""
    named = " | ".join(f"{name}={commit_of(parts)}" for name, parts in sorted(coming.items()))
    others = " ".join(sorted({*leaving} - {transfer}))
    return f"{WITHDRAWN} {transfer} {others}; {named}"


def coming_in(content):
    """The commits that take the place of what goes, by transfer."""
    named = (content or "").rstrip("~").partition("; ")[2]
    return dict(each.split("=", 1) for each in named.split(" | ")) if named else {}


def leaving_in(content):
    """The transfers that go together."""
    return (content or "").rstrip("~").partition("; ")[0].split()[1:]


def view(transfer, files):
    """The files of one transfer as if it were alone, under the name T: its parts lie in a directory of their own."""
    own = "L" if transfer == "T" else "L" + transfer
    seen = {place: content for place, content in files.items() if place[0] == "X"}
    for (directory, name), content in files.items():
        if name[0] == transfer and directory[0] in ("S", "C", "X", own[0]):
            seen["L" if directory == own else directory, "T" + name[1:]] = content
    return seen


def in_all(transfer, op):
    """An operation of one transfer, among the files of all."""
    own = "L" if transfer == "T" else "L" + transfer
    kind, *args = op

    def renamed(arg):
        if isinstance(arg, tuple):
            return own if arg[0] == "L" else arg[0], transfer + arg[1][1:]
        return arg

    args = [renamed(arg) for arg in args]
    if kind == "sync" and args[0] == "L":
        args[0] = own
    return (kind, *args)


class Exchange:
    """Several transfers of one invoice: some go, others come in their place. Each takes the six steps; what is new is the order
    in which their records are written, and what recovery does with several open ones."""

    def __init__(self, store, scenario, broken=""):
        self.store, self.scenario, self.broken = store, scenario, broken
        self.one = Protocol(store)

    def of_one(self, transfer, block, files):
        self.one.moments = self.scenario.moments[transfer]
        ops = self.one.steps(block, view(transfer, files), ("", None))
        return [in_all(transfer, op) for op in ops if op[0] != "table"]

    def open_ones(self, files):
        return sorted({name[0] for d, name in files if d == "C" and not name.endswith(".json")})

    def next_of(self, transfer, files):
        return files.get(("C", transfer + ".next"), "").rstrip("~")

    def olds_of(self, transfer, files):
        return [n for d, n in files if d == "C" and n[0] == transfer and n.endswith(".old")]

    def is_leaving(self, transfer, files):
        return is_withdrawn(self.next_of(transfer, files))

    def is_ready(self, transfer, commit, files):
        """Whether a commit that takes the place of others is there, or is sure to come."""
        if files.get(("C", transfer + ".json"), "").rstrip("~") == commit:
            return True
        if self.broken == "any-generation":
            return ("C", transfer + ".json") in files or bool(self.next_of(transfer, files))
        seen = view(transfer, files)
        return self.next_of(transfer, files) == commit and all(
            whole(seen, ("S", name + ".part"), c) or whole(seen, ("L", name), c)
            for name, c in read(commit).items()
        )

    def is_sure(self, content, files):
        """Whether all that takes the place of what goes is sure to come, and all that is to go with it is sure to go."""
        coming, leaving = coming_in(content), leaving_in(content)
        if self.broken == "each-goes-alone":
            leaving = []
        return all(self.is_ready(t, commit, files) for t, commit in coming.items()) and all(
            ("C", x + ".json") not in files or self.is_leaving(x, files) for x in leaving
        )

    # -- recovery
    def recovery(self, files):
        opened = self.open_ones(files)
        if not opened:
            return (("begin", None),)
        if self.broken == "each-alone":
            blocks = [(b, x) for x in opened for b in ("check", "adopt", *STEPS, "tidy")]
            return (("begin", None), *blocks, ("begin", None))
        leaving = [x for x in opened if self.is_leaving(x, files)]
        ordered = [*leaving, *[x for x in opened if x not in leaving]]
        first = [(b, x) for b in ("check", "adopt") for x in ordered]
        steps = [(b, x) for x in ordered for b in (*STEPS, "tidy")]
        if self.broken == "adopted-late":
            first = [("check", x) for x in ordered]
            steps = [(b, x) for x in ordered for b in ("adopt", *STEPS, "tidy")]
        return (("begin", None), ("together", None), *first, *steps, ("begin", None))

    def together(self, files):
        """What goes without what comes in its place being sure is dropped, and before it the records of what would come."""
        dropped, leaving = [], []
        for x in self.open_ones(files):
            if not self.is_leaving(x, files) or self.olds_of(x, files):
                continue
            if self.is_sure(self.next_of(x, files), files):
                continue
            leaving.append(x)
            coming = coming_in(self.next_of(x, files))
            dropped += [
                t
                for t, commit in coming.items()
                if self.next_of(t, files) == commit and t not in dropped
            ]
        if self.broken == "half-may-come":
            dropped = []
        between = [("sync", "C", "dropped")] if dropped else []
        if self.broken == "dropped-at-once":
            between = []
        return [
            *[("unlink", ("C", x + ".next")) for x in dropped],
            *between,
            *[("unlink", ("C", x + ".next")) for x in leaving],
        ]

    # -- the act
    def wanted(self, answer):
        return self.scenario.new if answer == "new" else self.scenario.old

    def leaving_and_coming(self, answer, files):
        want = self.wanted(answer)
        names = {name[0] for d, name in files if d == "C" and name.endswith(".json")}
        coming = {
            x: parts
            for x, parts in want.items()
            if files.get(("C", x + ".json"), "").rstrip("~") != commit_of(parts)
        }
        return sorted(names - set(want)), coming

    def blocks(self, answer, files):
        if answer == "refused":
            return (("end", None),)
        leaving, coming = self.leaving_and_coming(answer, files)
        go = [(b, x) for x in leaving for b in STEPS]
        come = [(b, x) for x in sorted(coming) for b in (*STEPS, "tidy")]
        if self.broken == "publish-first":
            return (("record", answer), *come, *go, ("end", None))
        if self.broken == "withdraw-first":
            return (("record-gone", answer), *go, ("record-come", answer), *come, ("end", None))
        return (("record", answer), *go, *come, ("end", None))

    def record(self, answer, files):
        """The records: what goes first, durable, and it names what comes; then those of what comes."""
        leaving, coming = self.leaving_and_coming(answer, files)
        first = [("sync", "S", "staged"), ("sync", "C", "before record")]
        gone = self.gone_records(leaving, coming)
        come = self.come_records(coming)
        if self.broken == "come-before-gone":
            gone, come = come, gone
        if self.broken == "records-together":
            gone = gone[:-1]
        return [*self.staged(coming, files), *first, *gone, *come]

    def staged(self, coming, files):
        ops = []
        for x, parts in sorted(coming.items()):
            for name, c in sorted(parts.items()):
                place = ("S", x + name[1:] + ".part")
                if not whole(view(x, files), ("L", name), c):
                    ops += [("write", place, c), ("fsync", place, "part")]
        return ops

    def gone_records(self, leaving, coming):
        ops = []
        for x in leaving:
            place = ("C", x + ".next")
            ops += [("write", place, withdrawn_for(x, leaving, coming)), ("fsync", place, "record")]
        return [*ops, ("sync", "C", "gone")] if leaving else []

    def come_records(self, coming):
        ops = []
        for x, parts in sorted(coming.items()):
            place = ("C", x + ".next")
            ops += [("write", place, commit_of(parts)), ("fsync", place, "record")]
        return [*ops, ("sync", "C", "record entry")] if coming else []

    def steps(self, block, files):
        name, x = block
        if name in ("begin", "end"):
            return self.one.steps(name, {}, ("", None))
        if name == "together":
            return self.together(files)
        if name == "record":
            return self.record(x, files)
        if name == "record-gone":
            return self.gone_records(*self.leaving_and_coming(x, files))
        if name == "record-come":
            coming = self.leaving_and_coming(x, files)[1]
            return [
                *self.staged(coming, files),
                ("sync", "S", "staged"),
                *self.come_records(coming),
            ]
        return self.of_one(x, name, files)


class Change:
    """A scenario of several transfers: which generations there are, and which are to be."""

    sound, foreign = True, {}

    def __init__(self, name, old, new, back=False):
        self.name, self.old, self.new = name, old, new
        self.answers = ("new", "old", "refused") if back else ("new", "refused")
        used = sorted({*old, *new})
        self.moments = {
            x: tuple(f"m{1 + n + len(used) * turn}" for turn in range(2 if back else 1))
            for n, x in enumerate(used)
        }
        self.files = {("C", x + ".json"): commit_of(parts) for x, parts in old.items()}
        for x, parts in old.items():
            self.files |= {(directory_of(x), x + name[1:]): c for name, c in parts.items()}


def directory_of(transfer):
    return "L" if transfer == "T" else "L" + transfer


def changes():
    t, t_old, u, v, w = (
        generation("b"),
        generation("a"),
        generation("u"),
        generation("x"),
        generation("w"),
    )
    return (
        Change("one takes the place of one", {"U": u}, {"T": t}),
        Change("one takes the place of one, and back again", {"U": u}, {"T": t}, back=True),
        Change("two take the place of one", {"U": u}, {"T": t, "V": v}),
        Change("one takes the place of two", {"U": u, "V": v}, {"T": t}),
        Change("one of two goes, the other is replaced", {"T": t_old, "U": u}, {"T": t}),
        Change("one of two goes, the other stays", {"T": t, "U": w}, {"T": t}),
        Change("all go, and nothing comes", {"T": t, "U": u}, {}),
    )


def kept_by_all(files):
    """What the commits that can be seen vouch for."""
    found = set()
    for d, name in files:
        if d == "C" and name.endswith(".json"):
            seen = view(name[0], files)
            found |= kept_by(seen)
    return frozenset(found)


def change_faults(files, kept, scenario):
    """What is wrong at an instant."""
    safe = {c.rstrip("~") for (d, n), c in files.items() if d[0] in "LXC"}
    for content in kept - safe:
        yield "law 1", f"'{content}' was committed, and is nowhere"
    parts = [(d, n, c.rstrip("~")) for (d, n), c in files.items() if n.endswith(".parquet")]
    if any(c == "torn" for _, _, c in parts):
        yield "law 5 a", "half a file has its final name"
    names = {n for _, n, _ in parts}
    if len(names) < len(parts):
        yield "law 5 b", f"a file is seen twice: {sorted(n for _, n, _ in parts)}"
    old, new = (
        {x + n[1:] for x, parts in side.items() for n in parts}
        for side in (scenario.old, scenario.new)
    )
    if names - old and names - new:
        yield "law 5 b", f"what goes and what comes are seen together: {sorted(names)}"
    for (d, name), content in files.items():
        if d == "C" and name.endswith(".json"):
            seen, named = view(name[0], files), read(content)
            if named is None or not all(whole(seen, ("L", n), c) for n, c in named.items()):
                yield "law 5 c", f"the commit {name} names what is not there"
    named = {name[0] + n[1:] for (d, name), c in files.items() if d == "C" for n in read(c) or {}}
    if strays := {n for (d, n), c in files.items() if d[0] == "L"} - named:
        yield "law 6 b", f"no record names {sorted(strays)}"


def change_end_faults(files, answer, scenario, ending=".old"):
    """What is wrong when a command has ended."""
    open_ = sorted(n for d, n in files if d == "C" and not n.endswith(".json"))
    if open_:
        yield "law 4", f"the command ended and {open_} is open"
    have = {(d, n): c.rstrip("~") for (d, n), c in files.items() if d[0] in "CL"}
    sides = {"old": scenario.old, "new": scenario.new}
    wanted = [Change("", side, {}).files for side in sides.values()]
    if have not in wanted:
        yield "law 4", f"neither old nor new alone is there: {sorted(have.items())}"
    if answer in sides and have != wanted[list(sides).index(answer)]:
        yield "law 7", f"what the invoice has now is not there: {sorted(have.items())}"
    for (d, n), content in files.items():
        if d[0] == "X" and n.endswith(".json.old"):
            lacks = [p for p in read(content) or {} if (d, n[0] + p[1:] + ending) not in files]
            if lacks:
                yield "law 1", f"superseded {d} lacks {lacks}"


def explore_change(store, scenario, limit=None, broken=""):
    """Return (states, fault), as `explore` does, of several transfers."""
    exchange = Exchange(store, scenario, broken)
    disk = store.start(scenario.files)
    first = (disk, None, kept_by_all(dict(disk[0])))
    came, queue = {first: None}, deque([first])
    while queue:
        state = queue.popleft()
        disk, process, kept = state
        files, following = dict(disk[0]), []
        fault = next(change_faults(files, kept, scenario), None)
        if fault:
            return len(came), (*fault, trace(came, state))
        try:
            if process is None:
                for cut in store.after_power_cut(disk) if disk[2] else ():
                    following.append(((cut, None, kept), "POWER CUT"))
                process = ("", exchange.recovery(files), ())
                following.append(((disk, process, kept), "a command starts: it takes the lock"))
            else:
                answer, blocks, ops = process
                while True:
                    while ops and idle(ops[0], disk, (), ()):
                        ops = ops[1:]
                    if ops or not blocks:
                        break
                    ops, blocks = tuple(exchange.steps(blocks[0], files)), blocks[1:]
                if ops:
                    after = store.apply(disk, ops[0])
                    known = kept | kept_by_all(dict(after[0]))
                    process = (answer, blocks, ops[1:])
                    following.append(((after, process, known), "  " + show(ops[0])))
                    following.append(((disk, None, kept), "KILLED"))
                    if ops[0][0] == "write" and store.power_cuts:
                        half = store.apply(disk, ops[0], half=True)
                        told = "KILLED while it writes " + show(ops[0])
                        following.append(((half, None, kept), told))
                elif answer == "":
                    for each in scenario.answers:
                        process = (each, exchange.blocks(each, files), ())
                        told = f"  it is export (the server has: {each})"
                        following.append(((disk, process, kept), told))
                else:
                    fault = next(change_end_faults(files, answer, scenario), None)
                    if fault:
                        return len(came), (*fault, trace(came, state))
                    following.append(((disk, None, kept), "  it ends"))
        except Bound:
            continue
        except (AssertionError, KeyError, AttributeError, TypeError) as error:
            told = f"the next step cannot be done: {error!r}"
            return len(came), ("law 4", told, trace(came, state))
        reach(following, state, came, queue)
        if limit and len(came) > limit:
            break
    return len(came), None


BROKEN_CHANGES = {  # name: what is tempting
    "come-before-gone": "the records of what comes are durable before those of what goes",
    "records-together": "all records are written, and made durable by one sync",
    "publish-first": "what comes is published before what goes is withdrawn",
    "withdraw-first": "what goes is withdrawn before what comes has its records",
    "each-alone": "recovery settles each record by itself, in the order of their names",
    "adopted-late": "recovery makes what comes durable only when what goes has gone",
    "half-may-come": "recovery drops what goes, and not the records of what would have come",
    "dropped-at-once": "recovery drops the records of both with no sync between them",
    "each-goes-alone": "what goes names only what comes, and not what goes with it",
    "any-generation": "what goes names the transfers that come, and not which commits",
}


def first_change_fault(broken, limit=60_000):
    """The shortest counterexample to an order over all scenarios, on a disk or else in an object store."""
    for store in (Disk(), Objects()):
        found = [
            (store, scenario.name, fault)
            for scenario in changes()
            if (fault := explore_change(store, scenario, limit, broken)[1])
        ]
        if found:
            store, name, fault = min(found, key=lambda each: len(each[2][2]))
            return type(store).__name__, name, fault
    return None


BROKEN = {  # name: (what is tempting, how the protocol is changed)
    "today": (
        "no record: the old commit and parts are removed, then the new come (version 0.1)",
        dict(only="replaced: 1 part by 1", laws=("law 4",), broken="today"),
    ),
    "roll-back": (
        "recovery drops a new generation that is not committed yet",
        dict(only="replaced: 1 part by 1", laws=("law 4",), broken="roll-back"),
    ),
    "move-by-rename": (
        "files go to superseded/ and to L by a rename between directories",
        dict(only="replaced: 1 part by 1", laws=("law 1",), broken="move-by-rename"),
    ),
    "trust-what-is-seen": (
        "recovery does not sync what a killed process left",
        dict(only="replaced: 1 part by 1", laws=("law 1", "law 5 a"), broken="trust-what-is-seen"),
    ),
    "no-record-for-the-first": (
        "a first publication has no record, only the commit at its end",
        dict(
            only="nothing there; 1 part by 1",
            laws=("law 6 b", "law 5 b"),
            broken="no-record-for-the-first",
        ),
    ),
    "publish-before-remove": (
        "new parts come before the old ones go",
        dict(
            only="replaced: 1 part by 1",
            order=("withdraw", "keep", "publish", "remove", "forget", "commit"),
        ),
    ),
    "remove-before-keep": (
        "old parts go before they are kept",
        dict(
            only="replaced: 1 part by 1",
            laws=("law 1",),
            order=("withdraw", "remove", "keep", "publish", "forget", "commit"),
        ),
    ),
    "commit-before-parts": (
        "the commit comes before its parts",
        dict(order=("withdraw", "keep", "remove", "forget", "commit", "publish")),
    ),
    "commit-over-commit": (
        "one rename of the new commit over the old one, which is withdrawn only then",
        dict(
            only="replaced: 1 part by 1",
            order=("keep", "remove", "publish", "withdraw", "forget", "commit"),
        ),
    ),
    "forget-early": (
        "the old commit is forgotten before its parts are removed",
        dict(
            only="replaced: 1 part by 1",
            order=("withdraw", "keep", "forget", "remove", "publish", "commit"),
        ),
    ),
    "by-name": (
        "a part that the new commit names is taken for good because of its name",
        dict(only="a part is damaged", broken="by-name"),
    ),
    "superseded-keeps-its-ending": (
        "files in superseded/ still end in .parquet",
        dict(only="replaced: 1 part by 1", broken="superseded-keeps-its-ending"),
    ),
    "table-last": (
        "the table is told after all is done",
        dict(only="replaced: 1 part by 1", broken="table-last"),
    ),
    "prune-commit-first": (
        "prune removes the commit before the parts",
        dict(only="replaced: 1 part by 1", broken="prune-commit-first"),
    ),
}
SYNCS = (
    "part",
    "record",
    "record entry",
    "staged",
    "before record",
    "withdraw",
    "superseded",
    "moment",
    "remove",
    "publish",
    "begin S",
    "begin C",
    "drop",
    "prune",
    "end",
)


def first_fault(limit, stores=(Disk, Objects), only="", laws=tuple(INVARIANTS), **changes):
    """The shortest counterexample over all scenarios, each explored up to a limit."""
    best = None
    for store in stores:
        for scenario in scenarios():
            if only not in scenario.name:
                continue
            _, fault = explore(Protocol(store(), **changes), scenario, limit, laws)
            if fault and (best is None or len(fault[2]) < len(best[2][2])):
                best = store.__name__, scenario.name, fault
        if best:
            break
    return best


def report(name, told, found):
    if not found:
        print(f"{name}: {told}\n  no counterexample found within the limit\n")
        return
    store, scenario, (law, what, lines) = found
    print(f"{name}: {told}\n  breaks {law}: {what}\n  {store}; {scenario}")
    print("".join(f"    {line}\n" for line in lines if line))


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--broken", metavar="NAME", choices=[*BROKEN, *BROKEN_CHANGES, "all"])
    options.add_argument("--syncs", action="store_true")
    options.add_argument("--orders", action="store_true")
    options.add_argument("--limit", type=int, default=None, help="states for each scenario")
    chosen = options.parse_args()
    limit = chosen.limit or 60_000
    if chosen.broken:
        for name in [*BROKEN, *BROKEN_CHANGES] if chosen.broken == "all" else [chosen.broken]:
            if name in BROKEN:
                report(name, BROKEN[name][0], first_fault(limit, **BROKEN[name][1]))
            else:
                report(name, BROKEN_CHANGES[name], first_change_fault(name, limit))
    elif chosen.syncs:
        for sync in SYNCS:
            for only in (
                "replaced: 1 part by 1",
                "nothing there; 1 part by 2",
                "the commit is lost",
            ):
                found = first_fault(90_000, stores=(Disk,), only=only, without=(sync,))
                if found:
                    break
            report("without " + sync, "one sync less", found)
    elif chosen.orders:
        good = [
            o
            for o in itertools.permutations(STEPS)
            if not first_fault(4_000, stores=(Objects,), only="replaced: 1 part by 1", order=o)
        ]
        print(f"{len(good)} of 720 orders stand:", *[" ".join(o) for o in good], sep="\n  ")
    else:
        for law, words in INVARIANTS.items():
            print(f"{law:8} {words}")
        total, broken = 0, 0
        for store in (Disk(), Objects()):
            runs = [(each, partial(explore, Protocol(store))) for each in scenarios()]
            runs += [(each, partial(explore_change, store)) for each in changes()]
            for scenario, run in runs:
                states, fault = run(scenario, chosen.limit)
                total, broken = total + states, broken + bool(fault)
                end = (
                    "BREAKS " + fault[0]
                    if fault
                    else "holds, up to the limit"
                    if chosen.limit and states > chosen.limit
                    else "holds"
                )
                print(
                    f"{type(store).__name__:8} {scenario.name:45} {states:9,} states  {end}",
                    flush=True,
                )
                if fault:
                    report(scenario.name, "", (type(store).__name__, scenario.name, fault))
        print(
            f"{total:,} states: "
            + (f"{broken} scenarios break" if broken else "every invariant holds in each")
        )
        return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
