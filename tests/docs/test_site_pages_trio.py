"""The programs of the tutorial and of the how-to guides, run as they stand there.

A program prints what the block below it says. Tests are given to pytest, endpoints to a client.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import pytest

import langchain_anyio
from loopback import Reply, Scenario, Text, Thinking, ToolCall, provider_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("index.md", "tutorial.md", *sorted(f"how-to/{p.name}" for p in DOCS.glob("how-to/*.md")))
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORDS = ("Bubbles ", "rise ", "and ", "disappear.")
ANSWER = "".join(WORDS)
# The SDK does not close the generators that it nests; on trio each one says so when it is collected.
SDK_GENERATORS = pytest.mark.filterwarnings(
    "ignore:Async generator '(openai|httpx|httpcore|langchain_openai)\\.:ResourceWarning"
)
CALL = ToolCall("look_up", '{"topic": "water"}', call_id="call_1")


class Example(NamedTuple):
    """A block of Python, and what the next block says that it prints."""

    page: str
    number: int
    title: str
    code: str
    printed: str | None

    @property
    def is_test(self) -> bool:
        return self.title.startswith("test_")

    @property
    def is_endpoint(self) -> bool:
        return "FastAPI(" in self.code

    @property
    def is_program(self) -> bool:
        return not (
            self.is_test
            or self.is_endpoint
            or self.needs_a_process
            or "import stackscope" in self.code
        )

    @property
    def needs_a_process(self) -> bool:
        """Without `open_stream`, a provider's package keeps one client for the whole process."""
        return "agenerate(" in self.code


def examples_of(page: str) -> Iterator[Example]:
    blocks = list(BLOCK.finditer((DOCS / page).read_text(encoding="utf-8")))
    for number, block in enumerate(blocks):
        language, options, code = block.groups()
        if language == "python":
            after = blocks[number + 1] if number + 1 < len(blocks) else None
            is_output = after is not None and after[1] == "text"
            title = re.search(r'title="(.*?)"', options)
            printed = after[3] if after is not None and is_output else None
            yield Example(page, number, title[1] if title else "", code, printed)


EXAMPLES = [example for page in PAGES for example in examples_of(page)]
PROGRAMS = [example for example in EXAMPLES if example.is_program]
PROCESSES = [example for example in EXAMPLES if example.needs_a_process]
TESTS = [example for example in EXAMPLES if example.is_test]
ENDPOINTS = [example for example in EXAMPLES if example.is_endpoint]


def named(examples: list[Example]) -> Any:
    return pytest.mark.parametrize(
        "example", examples, ids=[f"{example.page}-{example.number}" for example in examples]
    )


def scenario_of(code: str) -> Scenario:
    answer = Scenario(Reply(Text(*WORDS)))
    if "create_agent" in code:
        return Scenario(Reply(CALL), then=answer)
    if "use_responses_api" in code:
        return Scenario(Reply(Thinking("Water is wet."), Text(*WORDS)))
    if (
        "[stopped]" in code or "out of time" in code
    ):  # the server is silent after the first word, until the client leaves
        return Scenario(Reply(Text(*WORDS)), fault="stall", after=2)
    return answer


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with provider_server() as server:

        def serve(scenario: Scenario) -> Any:
            endpoint = server.serve(scenario)
            monkeypatch.setenv("OPENAI_API_KEY", "unused")
            monkeypatch.setenv("OPENAI_BASE_URL", endpoint.openai_url)
            return endpoint

        yield serve
    langchain_anyio.disable_trio()


@SDK_GENERATORS
@named(PROGRAMS)
def test_a_program_prints_what_the_page_says(
    example: Example, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if "except*" in example.code and sys.version_info < (3, 11):
        pytest.skip("except* is newer")
    serve(scenario_of(example.code))
    names: dict[str, Any] = {"__name__": "__main__"}
    name = f"{example.page}: {example.title or example.number}"
    code = compile(example.code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:

        async def cell() -> None:
            await eval(code, names)

        asyncio.run(cell())
    else:
        exec(code, names)
    printed = capsys.readouterr().out
    if example.printed is not None:
        assert printed.splitlines() == example.printed.splitlines()
    elif "[stopped]" in example.code:
        assert printed.startswith("Bubbles  [stopped]\n")
    else:
        assert printed.strip() == ANSWER


@named(PROCESSES)
def test_a_program_with_a_client_of_the_process(example: Example, serve: Any) -> None:
    serve(scenario_of(example.code))
    done = subprocess.run(
        [sys.executable, "-c", example.code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")


@pytest.mark.parametrize("page", sorted({example.page for example in TESTS}))
def test_tests_of_a_page_pass(page: str, tmp_path: Path) -> None:
    names = []
    for example in TESTS:
        if example.page == page:
            (tmp_path / example.title).write_text(example.code, encoding="utf-8")
            names.append(example.title)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"),
            *("-c", os.devnull, f"--rootdir={tmp_path}", "-p", "no:langsmith_plugin", *names),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(example.code.count("async def test_") for example in TESTS if example.page == page)
    assert count
    assert int(re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)[0]) >= count


class Answer(NamedTuple):
    """What an application sends, and the error that it leaves to the server."""

    status: int
    kind: str
    body: str
    error: Exception | None


def answer_of(example: Example, backend: str) -> Answer:
    """Ask an application as a server does, and go on until it has ended."""
    # FastAPI looks the annotations of an endpoint up in its module.
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(example.code, "app.py", "exec"), names)
    sent: list[dict[str, Any]] = []
    errors: list[Exception] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/chat",
        "query_string": b"question=Sing.",
        "headers": [],
        "asgi": {"version": "3.0", "spec_version": "2.1"},
    }

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def main() -> None:
        try:
            with anyio.fail_after(30):
                await names["app"](scope, receive, send)
        except Exception as error:
            errors.append(error)

    anyio.run(main, backend=backend)
    start, *bodies = sent
    kind = dict(start["headers"])[b"content-type"].decode().split(";")[0]
    body = b"".join(message.get("body", b"") for message in bodies).decode()
    return Answer(start["status"], kind, body, errors[0] if errors else None)


on_both = pytest.mark.parametrize("backend", ("asyncio", "trio"))


@SDK_GENERATORS
@on_both
def test_the_endpoint_says_when_the_answer_is_whole(backend: str, serve: Any) -> None:
    serve(Scenario(Reply(Text(*WORDS))))
    answer = answer_of(ENDPOINTS[0], backend)
    assert answer[:2] == (200, "text/event-stream")
    assert answer.error is None
    said = "".join(f"data: {json.dumps(word)}\n\n" for word in WORDS)
    assert answer.body == f"{said}event: end\ndata: {{}}\n\n"


@SDK_GENERATORS
@on_both
def test_the_endpoint_says_when_the_model_fails(backend: str, serve: Any) -> None:
    serve(Scenario(Reply(Text(*WORDS)), fault="reset", after=2))
    answer = answer_of(ENDPOINTS[0], backend)
    assert answer.status == 200
    assert answer.error is not None
    assert answer.body == 'data: "Bubbles "\n\nevent: error\ndata: {}\n\n'


@on_both
def test_the_endpoint_answers_with_a_status(backend: str) -> None:
    answer = answer_of(ENDPOINTS[1], backend)
    assert (answer.status, json.loads(answer.body)) == (
        502,
        {"detail": "the model does not answer"},
    )


def test_every_page_has_examples_that_run() -> None:
    assert {example.page for example in EXAMPLES} == set(PAGES)
    assert len(ENDPOINTS) == 2
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert text.count("```python") == sum(example.page == page for example in EXAMPLES)
