"""Measure all cases with pyperf, print what came of them, and write it down.

Each side of each case is measured in worker processes of its own. Arguments are pyperf's, `--fast` among
them; `-k WORD` measures only the cases that have the word in their title.
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
import pyperf

from benchmarks.cases import CASES, Case, Side

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def measure(loops: int, side: Side, backend: str) -> float:
    """Return the seconds that a unit of the work takes, times `loops`, after one run to warm up."""

    async def run() -> float:
        await side()
        taken, units = 0.0, 0
        for _ in range(loops):
            gc.collect()
            began = time.perf_counter()
            units += await side()
            taken += time.perf_counter() - began
        return taken / units * loops

    return anyio.run(run, backend=backend)


def row(
    case: Case, floor: pyperf.Benchmark | None, ours: pyperf.Benchmark, peer: pyperf.Benchmark
) -> str:
    """Return the table's line of a case. The shortest time is what the machine's other work disturbed least."""
    least = min(floor.get_values()) if floor else 0.0
    ratio = (min(ours.get_values()) - least) / (min(peer.get_values()) - least)
    times = [f"{min(b.get_values()) * 1e6:.2f} ± {b.stdev() * 1e6:.2f}" for b in (ours, peer)]
    base = f"{least * 1e6:.2f}" if floor else ""
    return f"| {case.title} | {case.peer_name} | {times[0]} | {times[1]} | {base} | {ratio:.2f} | {case.target:g} |"


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-k", default="")
    own, others = parser.parse_known_args()
    sys.argv[1:] = ["--quiet", *others]
    runner = pyperf.Runner(
        processes=3,
        values=3,
        loops=1,
        warmups=0,
        program_args=("-m", "benchmarks", "-k", own.k),
    )
    rows = []
    for case in CASES:
        if own.k not in case.title:
            continue
        sides = (
            ("floor", case.floor, case.backend),
            ("ours", case.ours, case.backend),
            ("peer", case.peer, case.peer_backend),
        )
        results = {
            name: runner.bench_time_func(f"{case.title}: {name}", partial(measure), side, backend)
            for name, side, backend in sides
            if side is not None
        }
        if "ours" in results and results["ours"] is not None and not runner.args.worker:
            rows.append(row(case, results.get("floor"), results["ours"], results["peer"]))
    if runner.args.worker:
        return 0
    packages = ", ".join(f"{name} {version(name)}" for name in ("anyio", "trio", "langchain-core"))
    report = "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `python -m benchmarks`. Times are µs a unit: the shortest, and the standard deviation. Where there "
            "is a floor, the ratio is of what is left when it is subtracted from both.",
            "",
            f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {packages}.",
            "",
            "| what | peer | ours | the peer's | floor | ratio | to reach |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(report)
    if not own.k:
        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
