"""All checks of the project; `nox` without arguments runs what CI runs.

A Python version that is not installed is skipped, and nox says so. Arguments after `--` go to
pytest.
"""

from __future__ import annotations

import functools
import itertools
import os
from pathlib import Path

import nox
from python_discovery import get_interpreter

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "uv|virtualenv"
# Slow tests wait most of their time, so one session more than there are processors keeps these busy.
nox.options.parallel = (os.cpu_count() or 1) + 1
nox.options.allow_parallel = True
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.error_on_external_run = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
BACKENDS = ["asyncio", "uvloop", "trio"]


@functools.cache
def newest() -> str | None:
    """Return the newest Python that nox finds, by the same look-up as for its sessions.

    A name on PATH is not enough: pyenv's shims are also there for Pythons that do not run.
    """
    return next((python for python in reversed(PYTHONS) if get_interpreter(python)), None)


@nox.session
def lint(session: nox.Session) -> None:
    """Lint with ruff and flake8-async; check format, spelling, workflows, layers of imports."""
    session.install("--group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    for schema, files in (
        ("workflows", "workflows/*.yml"),
        ("issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("issue-config", "ISSUE_TEMPLATE/config.yml"),
    ):
        found = sorted(map(str, Path(".github").glob(files)))
        session.run("check-jsonschema", "--builtin-schema", f"vendor.github-{schema}", *found)
    dependabot = ".github/dependabot.yml"
    session.run("check-jsonschema", "--builtin-schema", "vendor.dependabot", dependabot)
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "src"})


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and pyright, also what users may write; every public name is typed."""
    session.install(".", "--group", "types")
    session.run("mypy")
    for python in (PYTHONS[0], PYTHONS[-1]):
        session.run("mypy", "--python-version", python, "tests/typing")
        session.run("pyright", "--pythonversion", python, "tests/typing")
    session.run("pyright", "--verifytypes", "langchain_anyio", "--ignoreexternal")


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel twice, check what is in them, and install them on two Pythons."""
    session.install("--group", "package")
    found = [get_interpreter(python) for python in (PYTHONS[0], newest() or "") if python]
    pythons = [python.system_executable or python.executable for python in found if python]
    session.run("python", "tests/package/run.py", *pythons, *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Build the documentation strictly; check its links, its spelling and that no name lacks."""
    session.install("--group", "site")
    session.run("python", "tests/site/run.py", str(Path(session.create_tmp()) / "site"))


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples and the demo command of the README as printed, and test the noxfile."""
    session.install(".[cli]", "--group", "test", "--group", "nox")
    session.run(
        "pytest", "tests/docs/test_readme.py", "tests/project/test_noxfile.py", *session.posargs
    )


@nox.session
def upstream(session: nox.Session) -> None:
    """Run langchain-core's own tests of the ported classes on this project's classes."""
    session.install(".", "--group", "upstream")
    session.run("python", "tests/upstream/run.py", session.create_tmp(), *session.posargs)


@nox.session
def covered(session: nox.Session) -> None:
    """Run agents of deepagents and MCP's servers and clients on asyncio and on trio."""
    session.install(".[trio]", "--group", "covered")
    session.run("pytest", "tests/trio_runtime/test_covered_packages.py", *session.posargs)


@nox.session
def persistence(session: nox.Session) -> None:
    """Run LangGraph's conformance tests on checkpointers in threads, with a PostgreSQL of their own."""
    session.install(".[trio]", "--group", "persistence")
    session.run("pytest", "tests/persistence/test_postgres.py", *session.posargs)


@nox.session(default=False)
@nox.parametrize("release", ["newest", "lowest"])
def upstream_core(session: nox.Session, release: str) -> None:
    """Run langchain-core's whole test suite on asyncio and on trio: newest and lowest release."""
    session.install(".[trio]", "--group", "upstream-core")
    if release == "lowest":
        lowest = next(d for d in PYPROJECT["project"]["dependencies"] if "langchain-core" in d)
        session.install(lowest.replace(">=", "=="))
    session.run("python", "tests/upstream_core/run.py", session.create_tmp(), *session.posargs)


@nox.session(default=False)
def upstream_langgraph(session: nox.Session) -> None:
    """Run langgraph's and langchain's asynchronous tests on both backends; takes ten minutes."""
    session.install(".[trio]", "--group", "upstream-langgraph")
    session.run("python", "tests/upstream_langgraph/run.py", session.create_tmp(), *session.posargs)


@nox.session(default=False)
def upstream_persistence(session: nox.Session) -> None:
    """Run the tests of LangGraph's asynchronous checkpointers and stores on those in threads."""
    session.install(".[trio]", "--group", "upstream-persistence")
    script = "tests/upstream_persistence/run.py"
    session.run("python", script, session.create_tmp(), *session.posargs)


@nox.session(python=PYTHONS)
def upstream_cpython(session: nox.Session) -> None:
    """The interpreter's own tests of asyncio, on asyncio and on trio, where it comes with them."""
    session.install(".[trio]", "--group", "upstream-cpython")
    session.run("python", "tests/upstream_cpython/run.py", session.create_tmp(), *session.posargs)


@nox.session(python=PYTHONS[0])
@nox.parametrize("backend", ["asyncio", "trio"])
def lowest(session: nox.Session, backend: str) -> None:
    """Run the tests with the lowest declared versions, on the lowest Python."""
    if session.venv_backend != "uv":
        session.skip("only uv resolves to the lowest versions")
    session.install("--resolution", "lowest-direct", ".[trio,cli]", "--group", "test")
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    for bound in [*PYPROJECT["project"]["dependencies"], *itertools.chain(*extras)]:
        name, _, lowest = bound.partition(">=")
        check = f"from importlib.metadata import version; assert version({name!r}) == {lowest!r}"
        session.run("python", "-c", check, silent=True)
    env = {"HYPOTHESIS_PROFILE": "brief"}
    for chosen in (["-m", "not slow"], ["-m", "slow", "tests/providers"]):
        session.run("pytest", "--backend", backend, *chosen, *session.posargs, env=env)


@nox.session
def without_trio(session: nox.Session) -> None:
    """Run the tests on asyncio without trio installed."""
    session.install(".", "--group", "test-without-trio")
    session.run("python", "-c", "import importlib.util as u; assert u.find_spec('trio') is None")
    env = {"HYPOTHESIS_PROFILE": "brief"}
    session.run("pytest", "--backend", "asyncio", "-m", "not slow", *session.posargs, env=env)


@nox.session(python=PYTHONS[::-1])  # the longest first
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Run the tests on each Python and backend; the slow ones on the newest, not on uvloop."""
    if backend == "uvloop" and session.python not in (PYTHONS[0], newest()):
        session.skip("uvloop is tried on the lowest Python and on the newest one found")
    session.install(".[cli]", "--group", "test", "--group", "long")
    # What slow tests show hardly depends on the version of Python, nor on asyncio's loop. They wait
    # most of their time, so two processes take half as long.
    everything = session.python == newest() and backend != "uvloop"
    chosen = ["--numprocesses=2"] if everything else ["-m", "not slow"]
    env = {} if everything else {"HYPOTHESIS_PROFILE": "brief"}
    session.run("pytest", "--backend", backend, *chosen, *session.posargs, env=env)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Measure line and branch coverage on all backends together; takes a quarter of an hour."""
    session.install(".[cli]", "--group", "test")
    # The tracer slows down only this project, so a comparison of times would be meaningless.
    compared = "tests/protocol/test_chunks.py::test_plain_chunks_take_a_short_path"
    session.run("coverage", "erase")
    session.run(
        *("coverage", "run", "-m", "pytest", "--deselect", compared, *session.posargs),
        env={"HYPOTHESIS_PROFILE": "brief"},
    )
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session(default=False)
def long(session: nox.Session) -> None:
    """Run what takes too long for CI; writes the tables of docs/reliability.md."""
    session.install(".[cli]", "--group", "test", "--group", "long")
    session.run(
        *("pytest", "--numprocesses=2", "--long", "--table=docs/reliability.md"),
        *session.posargs,
        env={"HYPOTHESIS_PROFILE": "long"},
    )


# The tests need none of these plugins, which langchain-tests brings along; the first warns if it isn't configured.
WITHOUT_PLUGINS = [f"-pno:{name}" for name in ("asyncio", "codspeed", "socket", "syrupy")]


@nox.session(default=False)
@nox.parametrize("kind", ["providers", "tools"])
def providers(session: nox.Session, kind: str) -> None:
    """Try every provider's package, and tools, on loopback; writes the tables of docs/models.md."""
    session.install(".[cli]", "--group", kind)
    tests = {
        "providers": ["test_every_provider.py", "test_every_standard_test_trio.py"],
        "tools": ["test_every_tool.py"],
    }
    session.run(
        *("pytest", "--providers", "--backend=asyncio,trio", *WITHOUT_PLUGINS),
        "--models-page=docs/models.md",
        *(f"tests/providers/{name}" for name in tests[kind]),
        *session.posargs,
    )
    if kind == "providers":
        clients = "tests/providers/test_every_client.py"
        session.run("pytest", "--backend=asyncio,trio", *WITHOUT_PLUGINS, clients, *session.posargs)


@nox.session(default=False)
@nox.parametrize("part", ["core", "providers"])
def canary(session: nox.Session, part: str) -> None:
    """Try the newest releases, or others: `-- [--pre] [--survey] [langchain-core==1.8.0 ...]`."""
    releases = [argument for argument in session.posargs if not argument.startswith("-")]
    options = [argument for argument in session.posargs if argument in ("--survey", "--record")]
    uv = session.venv_backend == "uv"
    pre = (["--prerelease=allow"] if uv else ["--pre"]) if "--pre" in session.posargs else []
    groups = {"core": ["test", "upstream", "upstream-langgraph"], "providers": ["providers"]}
    session.install(
        "--upgrade",
        *pre,
        ".[trio,cli]",
        *releases,
        *(argument for group in groups[part] for argument in ("--group", group)),
    )
    session.run("python", "tests/canary/run.py", part, session.create_tmp(), *options)


if Path("benchmarks").is_dir():

    @nox.session(default=False)
    def benchmarks(session: nox.Session) -> None:
        """Measure each claim about speed beside its peer; writes docs/benchmarks.md."""
        session.install(".", "--group", "benchmarks")
        session.run("python", "-m", "benchmarks", *session.posargs)
