"""The kernel under sanitizers, with its tests in C and mutated pages; and beside the exact way.

    python tests/whole/fuzz/kernel.py                                   half a minute
    python tests/whole/fuzz/kernel.py --cases 10000000 --workers 2      hours
    python tests/whole/fuzz/kernel.py --valgrind --cases 300            under valgrind

`--cases` are mutated bodies of up to 8 kB, `--pages` whole pages of 2,000 line items, each taken
through every call; `--drawn` are pages that have to give the columns of the exact way, or be
refused. All are spread over the declared schemas. A finding ends the program; its seed is in the
command that is printed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[3]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.kernels import kernel_of, reason_or_same  # noqa: E402
from support.pages import page  # noqa: E402
from support.payloads import LINE_ITEMS  # noqa: E402

from bulkfetch.billing.details import DETAILS  # noqa: E402
from bulkfetch.decoding.fields import LineItemSchema  # noqa: E402
from bulkfetch.decoding.jsontext import utf8_of  # noqa: E402
from bulkfetch.decoding.kernel import KINDS  # noqa: E402

WRAPPED = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "free")]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
BUILDS = {
    "address": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-fsanitize=thread"],
    "plain": ["-O2"],
    "bytewise": ["-O2", "-U__SSE2__", "-U__ARM_NEON"],
}
"""Flags of the compiler; `bytewise` looks at one byte at a time, as on other machines. Each build
is also tight: no byte is allocated that is not needed."""
SMALL_BYTES = 8_000
PAGE_ROWS = 2_000
PAGE_BYTES = 4_000_000
SCHEMAS: list[LineItemSchema] = list(
    {row.schema.resource: row.schema for row in DETAILS.values() if row.schema}.values()
)


KERNEL = ROOT / "kernel"


def compile_program(name: str, build: str, folder: Path, kernel: Path = KERNEL) -> Path:
    """Compile a program of `kernel/tests/` with the kernel."""
    sources = [*kernel.glob("*.c")]
    sources += [kernel / "tests" / f"{each}.c" for each in (name, "heap", "check")]
    program = folder / f"{name}-{build}"
    command = ["cc", "-std=c11", "-g", "-DKERNEL_TIGHT", "-fno-omit-frame-pointer", *WARNINGS]
    command += [*BUILDS[build], *WRAPPED, "-pthread", "-o", str(program), *map(str, sources)]
    subprocess.run(command, check=True)
    return program


def run_tests(folder: Path) -> None:
    """Run the tests in C, in each build."""
    for build in BUILDS:
        subprocess.run([str(compile_program("test_kernel", build, folder))], check=True)


def write_schemas(folder: Path) -> list[Path]:
    """Write each declared schema as the fuzzer reads it."""
    paths = []
    for schema in SCHEMAS:
        path = folder / f"{schema.resource}.schema"
        lines = [f"{KINDS[field.kind]} {field.name}\n" for field in schema.fields]
        path.write_text("".join(lines))
        paths.append(path)
    return paths


def write_corpus(folder: Path) -> list[Path]:
    """Write recorded payloads and drawn pages, as UTF-8 without a mark."""
    texts = [utf8_of(payload.body) for payload in LINE_ITEMS]
    for seed, schema in itertools.product(range(40), SCHEMAS):
        texts.append(page(Random(seed), Random(-seed - 1), schema.fields).encode())
    texts += [text[: SMALL_BYTES // 2] for text in texts if len(text) > SMALL_BYTES]
    return list(_written(folder, "text", texts))


def write_pages(folder: Path) -> list[Path]:
    """Write whole pages: the rows of drawn ones, again and again."""
    texts = []
    for seed, schema in enumerate(SCHEMAS):
        rows = [_row(Random(seed * 100 + each), schema) for each in range(50)]
        rows = [row for row in rows if row]
        repeated = itertools.islice(itertools.cycle(rows), PAGE_ROWS)
        texts.append(b'{"totalCount":2000,"items":[' + b",".join(repeated) + b"]}")
    return list(_written(folder, "page", texts))


def _row(seed: Random, schema: LineItemSchema) -> bytes:
    text = page(seed, Random(seed.random()), schema.fields)
    items = text[text.index("[") + 1 : text.rindex("]")].encode()
    start, end = items.find(b"{"), items.find(b"},{")
    return items[start : end + 1] if end > 0 else b""


def _written(folder: Path, name: str, texts: list[bytes]) -> Iterator[Path]:
    for number, text in enumerate(texts):
        path = folder / f"{name}-{number:04}"
        path.write_bytes(text)
        yield path


def fuzz(arguments: argparse.Namespace, folder: Path) -> None:
    """Mutate the corpus, in as many processes as workers."""
    program = compile_program("fuzz", "plain" if arguments.valgrind else "address", folder)
    runner = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full"]
    start = [*(runner if arguments.valgrind else []), str(program)]
    texts, pages, commands = write_corpus(folder), write_pages(folder), []
    schemas = write_schemas(folder)
    for number, schema in enumerate(schemas * arguments.workers):
        for cases, most, corpus in (
            (arguments.cases, SMALL_BYTES, texts),
            (arguments.pages, PAGE_BYTES, pages),
        ):
            rounds = -(-cases // (len(schemas) * arguments.workers))
            seed = arguments.seed + number
            if rounds:
                words = [str(schema), str(rounds), str(seed), str(most), *map(str, corpus)]
                commands.append([*start, *words])
    with ThreadPoolExecutor(arguments.workers) as pool:
        for command, ended in zip(commands, pool.map(_run, commands), strict=True):
            name = Path(command[len(start)]).stem
            print(f"{name}, seed {command[len(start) + 2]}: {ended.stdout.strip()}", flush=True)
            if ended.returncode:
                print(ended.stderr, file=sys.stderr)
                raise SystemExit(f"found by: {' '.join(command)[:500]} …")


def compare(arguments: argparse.Namespace) -> None:
    """Compare drawn pages with the exact way, in as many processes as workers."""
    each = -(-arguments.drawn // len(SCHEMAS))
    jobs = [(schema, arguments.seed + number * each, each) for number, schema in enumerate(SCHEMAS)]
    with ProcessPoolExecutor(arguments.workers) as pool:
        for schema, reasons in zip(SCHEMAS, pool.map(_compare, jobs), strict=True):
            taken = reasons.pop("", 0)
            print(f"{schema.resource}: {taken:,} drawn pages the same, {reasons.total():,} refused")


def _compare(job: tuple[LineItemSchema, int, int]) -> Counter[str]:
    schema, first, count = job
    kernel, reasons = kernel_of(schema), Counter[str]()
    for seed in range(first, first + count):
        text = page(Random(seed), Random(-seed - 1), schema.fields).encode()
        try:
            reasons[reason_or_same(kernel, text, schema) or ""] += 1
        except AssertionError as error:
            raise AssertionError(f"{schema.resource}, seed {seed}: {text!r}") from error
    return reasons


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # A small quarantine keeps freed blocks in the processor's cache, and still finds most uses.
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=1:malloc_context_size=4"},
    )


def main() -> int:
    """Run the tests in C, then the fuzzer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--pages", type=int, default=0)
    parser.add_argument("--drawn", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--valgrind", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_tests(Path(folder))
        fuzz(arguments, Path(folder))
    compare(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
