from __future__ import annotations

import os
import sys
import time

import pytest
from measuring import Table, run_measured


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_the_cpu_time_of_children_counts_and_so_does_their_memory() -> None:
    child = "x = b'x' * 300_000_000; sum(range(10**7))"
    run = run_measured(
        program(
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
        )
    )
    alone = run_measured(program("pass"))
    assert run.exit_code == alone.exit_code == 0
    assert run.peak_mb > 250
    assert run.cpu_s > alone.cpu_s + 0.1


def test_output_errors_and_the_exit_code_are_told() -> None:
    run = run_measured(
        program("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    )
    assert (run.output, run.errors, run.exit_code) == (b"out\n", b"err\n", 3)


def test_a_command_is_ended_with_its_children_when_it_is_told() -> None:
    text = (
        "import subprocess, sys; c = subprocess.Popen(['sleep', '60']); "
        "print(c.pid, flush=True); c.wait()"
    )
    run = run_measured(program(text), until=lambda passed_s: passed_s > 1)
    assert run.exit_code == -9
    assert run.wall_s < 30
    child = int(run.output)
    for _ in range(100):  # whoever inherits it may take a moment to bury it
        if not alive(child):
            return
        time.sleep(0.05)
    pytest.fail("the child goes on")


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_runs_where_and_with_what_it_is_told(tmp_path: object) -> None:
    code = "import os; print(os.getcwd(), os.environ.get('GIVEN'))"
    run = run_measured(
        program(code), folder=str(tmp_path), environment={**os.environ, "GIVEN": "yes"}
    )
    assert run.output.decode().split() == [os.path.realpath(str(tmp_path)), "yes"]


def test_the_columns_of_a_table_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table({"name": "<6", "rows/s": ">9,.0f", "more than its values": ">", "words": "<"})
    table.print_headings()
    table.print_row("a", 12345.6, 7, "one two")
    table.print_row("longer", 1.0, "2.5x", "")

    assert capsys.readouterr().out.splitlines() == [
        "name       rows/s  more than its values  words",
        "a          12,346                     7  one two",
        "longer          1                  2.5x",
    ]
    with pytest.raises(ValueError, match="is longer than"):
        table.print_row("a")
