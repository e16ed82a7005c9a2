"""Measure all cases with pyperf, print what came of them, and write it down.

Each side of each case is measured in worker processes of its own. Arguments are pyperf's, `--fast` among
them; `-k WORD` measures only the cases that have the word in their title, and writes nothing down.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyperf

from benchmarks import loopback
from benchmarks.case import Side
from benchmarks.cases import CASES
from benchmarks.once import run_on
from benchmarks.profiles import profiled
from benchmarks.report import Report, shown
from benchmarks.switches import BACKENDS, switches
from benchmarks.table import Measured, shares

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PACKAGES = (
    "anyio",
    "trio",
    "trio-asyncio",
    "langchain-core",
    "langchain-classic",
    "langchain-openai",
    "openai",
)


def measure(loops: int, side: Side, backend: str, returns: str, warm: bool) -> float:
    """Return what a unit of the work takes, times `loops`."""

    async def run() -> float:
        if returns != "units":
            return await side() * loops
        if warm:
            await side()
        taken, units = 0.0, 0.0
        for _ in range(loops):
            gc.collect()
            began = time.process_time()
            units += await side()
            taken += time.process_time() - began
        return taken / units * loops

    # A measure of nothing or less, of memory, is none to pyperf.
    return max(1e-9, run_on(backend, run))


def ways() -> list[str]:
    """Return the tables of the way of a chunk."""
    lines = []
    for backend in ("asyncio", "trio"):
        lines += [
            "",
            f"On {backend}:",
            "",
            "| up to | µs a chunk | of which here | share |",
            "|---|---|---|---|",
        ]
        found = loopback.measured(backend)
        for name, taken, own, share in shares(found[: loopback.WAY]):
            lines.append(f"| {name} | {taken.least * 1e6:.1f} | {own} | {share} |")
        lines += [
            f"| {name} | {taken.least * 1e6:.1f} | | |" for name, taken in found[loopback.WAY :]
        ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-k", default="")
    own, others = parser.parse_known_args()
    cases = [case for case in CASES if own.k in case.title]
    sys.argv[1:] = ["--quiet", *others]
    runner = pyperf.Runner(
        processes=2, values=5, loops=1, warmups=0, program_args=("-m", "benchmarks", "-k", own.k)
    )
    args = runner.parse_args()
    processes, load = args.processes, os.getloadavg()[0]

    def bench(
        title: str, side: Side, backend: str, returns: str, values: int
    ) -> pyperf.Benchmark | None:
        args.values = min(values, 2) if args.fast else values
        args.processes = 1 if values == 1 else processes
        return runner.bench_time_func(
            title,
            partial(measure),
            side,
            backend,
            returns,
            values > 1,
            metadata={"unit": "byte"} if returns == "bytes" else None,
        )

    switch = {
        backend: bench(f"a task switch on {backend}", switches, backend, "units", 5)
        for backend in BACKENDS
    }
    report = Report(
        {backend: Measured.of(found.get_values()) for backend, found in switch.items() if found}
    )
    # Those that take minutes come last.
    for case in sorted(cases, key=lambda case: case.values == 1):
        found = {
            name: bench(f"{case.title}: {name}", side, backend, case.returns, case.values)
            for name, side, backend in case.sides()
        }
        if found["ours"] is not None and not args.worker:
            report.add(
                case,
                {name: Measured.of(side.get_values()) for name, side in found.items() if side},
            )
            print(report.rows[case.title], flush=True)
    if args.worker:
        return 0
    switched = ", ".join(
        f"{shown(found.least, 'units', found)} on {backend}"
        for backend, found in report.switch.items()
    )
    text = f"""\
{platform.python_implementation()} {platform.python_version()} on {platform.system()}, {platform.machine()}, \
{os.cpu_count()} processors, load {load:.1f} before and {os.getloadavg()[0]:.1f} after;
{", ".join(f"{name} {version(name)}" for name in PACKAGES)}.

A task switch takes {switched}.

| what | peer | ours | the peer's | in both | ratio | physical floor | of it | to reach | reached |
|---|---|---|---|---|---|---|---|---|---|
"""
    text += "\n".join(report.rows[case.title] for case in cases)
    if report.undecided:
        titles = "\n".join(f"- {case.title}" for case in report.undecided)
        text += f"\n\n{UNDECIDED}\n\n{titles}"
    if not own.k:
        text += "\n\n## The way of a chunk\n\n" + WAY + "\n".join(ways())
        missed = [profiled(case, 10) for case in report.missed if case.returns == "units"]
        if missed:
            text += "\n\n## Where the time goes\n\n" + PROFILES + "\n\n" + "\n\n".join(missed)
        DOCS.write_text(_with_results(DOCS.read_text(), text))
    print(text)
    return 0


UNDECIDED = """\
Not decided by this run, as the difference is not larger than the noise, or the target within it; measure
these again, with `-k` and more processes:"""

WAY = """\
`ChatOpenAI` reads an answer of 2,000 chunks from a server in another process. Each stage contains those above it; the time is
that of the processor in the reading process, the least of five runs.
"""

PROFILES = """\
Our side of the cases that do not reach their ratio, as `python -m benchmarks.profiles` has it. The profiler makes each call dearer,
so it tells which functions take the time, not how much; functions of C are counted to those that call them."""

BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def _with_results(page: str, results: str) -> str:
    """Return the page with the results in the place of those of the last run."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{after}"


if __name__ == "__main__":
    raise SystemExit(main())
