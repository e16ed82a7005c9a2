"""Where the time goes: `python -m benchmarks.profiles WORD` profiles our side of the cases with that word in their title.

The profiler makes each call dearer, so it tells which functions take the time, not how much. Functions of C are
counted to those that call them.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from pathlib import PurePath
from typing import Any

from benchmarks.case import Case
from benchmarks.cases import CASES
from benchmarks.once import run_on


def profiled(case: Case, lines: int) -> str:
    """Return a table of the functions that took most of the time themselves."""
    profile = cProfile.Profile(builtins=False)
    units = 0.0

    async def run() -> None:
        nonlocal units
        await case.ours()
        profile.enable()
        units = await case.ours()
        profile.disable()

    run_on(case.backend, run)
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    rows = [f"{case.title}:", "", "| function | calls a unit | of the time |", "|---|---|---|"]
    ranked = sorted(stats.items(), key=lambda item: -item[1][2])
    for (file, _, name), (_, calls, own, _, _) in ranked[:lines]:
        if own < total / 100:
            break
        path = PurePath(file)
        rows.append(
            f"| `{path.parent.name}/{path.name}` `{name}` | {calls / units:.2f} | {own / total:.0%} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("word")
    parser.add_argument("--lines", type=int, default=12)
    args = parser.parse_args()
    for case in CASES:
        if args.word in case.title and case.returns == "units":
            print(profiled(case, args.lines), end="\n\n")


if __name__ == "__main__":
    main()
