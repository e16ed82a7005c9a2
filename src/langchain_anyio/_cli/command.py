"""The command line `python -m langchain_anyio`: stream the answer to one prompt.

`show` shows it, `agent` finds the agent that is to answer.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import uuid4

import anyio
from anyio.abc import TaskStatus

from langchain_anyio._open_stream import open_stream

from .agent import BadPathError, check_input, find_agent, make_graph, value_of_interrupt
from .show import OutputError, escape_controls, show, show_events, show_events_of_run, show_run

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableConfig

    from langchain_anyio._stream import AsyncChatModelStream

# Exit statuses as in shells: 128 plus the number of SIGINT or SIGPIPE.
_INTERRUPTED: Final = 130
_OUTPUT_CLOSED: Final = 141

_BACKENDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "asyncio": ("asyncio", {}),
    "trio": ("trio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
}

_EPILOG: Final = """\
On a terminal reasoning, tool calls and what the tools return are shown too, if
rich is installed; otherwise standard output is the answer and nothing else, of
an agent the text of its messages.

exit status:
  0    answered
  1    the model or the agent failed, or something is missing
  2    bad usage
  3    the agent waits to be resumed
  130  stopped by Ctrl-C
  141  nobody reads the output any more"""

_SECRET_NAME: Final = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_MAX_ERROR_LENGTH: Final = 1000


class _CommandError(Exception):
    """Ends the command with an error line and an exit status."""

    def __init__(self, line: str, status: int = 1) -> None:
        super().__init__(line)
        self.status = status


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: The arguments; by default those of the process.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # Without any handler, Python would write the warnings that packages log to the terminal.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        _run(arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OutputError as exc:
        # Flushing the rest of the buffer would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(exc.__cause__, BrokenPipeError):
            return _OUTPUT_CLOSED
        _report(f"standard output: {exc.__cause__}")
        return 1
    except _CommandError as exc:
        _report(str(exc))
        return exc.status
    return 0


def _run(arguments: list[str] | None) -> None:
    options = _make_parser().parse_args(arguments)
    if sys.stdout is None:
        raise _CommandError("standard output is closed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An answer may hold characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="replace")
    if options.backend != "asyncio":
        try:
            importlib.import_module(options.backend)
        except ImportError:
            raise _CommandError(
                f"--backend {options.backend}: {options.backend} is not installed; "
                f"pip install {options.backend}"
            ) from None
    if options.agent is not None and options.model is not None:
        raise _CommandError("--agent has models of its own and takes no --model", 2)
    answer: Callable[[], Awaitable[None]]
    if options.agent is None:
        model = _make_model(options.model)
        prompt = _get_prompt(options.prompt)
        answer = partial(_answer, model, prompt, show_events if options.events else show)
    else:
        agent = _find_agent(options.agent, options.backend)
        prompt = _get_prompt(options.prompt)
        answer = partial(_run_agent, options.agent, agent, prompt, events=options.events)
    backend, backend_options = _BACKENDS[options.backend]
    finished = anyio.run(
        _run_until_interrupted,
        answer,
        backend=backend,
        backend_options=backend_options,
    )
    if not finished:
        raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _CommandError(f"{message} (--help shows the usage)", 2)


def _make_parser() -> _Parser:
    parser = _Parser(
        prog="python -m langchain_anyio",
        description="Stream the answer of a chat model or an agent to a prompt.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("prompt", nargs="*", help="what to ask (default: read from standard input)")
    parser.add_argument(
        "--model",
        metavar="PROVIDER:MODEL",
        help="the model to ask, such as openai:gpt-5-mini, with its key from the environment "
        "(default: a built-in demo model)",
    )
    parser.add_argument(
        "--agent",
        metavar="MODULE:NAME",
        help="ask an agent or another graph of langgraph instead, or what a function without "
        "arguments returns; its state must have messages",
    )
    parser.add_argument(
        "--backend",
        choices=list(_BACKENDS),
        default="asyncio",
        help="the event loop to run on (default: %(default)s)",
    )
    parser.add_argument(
        "--events", action="store_true", help="write the protocol events instead, as JSON lines"
    )
    parser.add_argument("--version", action="version", version=f"langchain-anyio {_version()}")
    return parser


def _version() -> str:
    try:
        return version("langchain-anyio")
    except PackageNotFoundError:
        return "(not installed)"


def _get_prompt(words: list[str]) -> str:
    try:
        prompt = " ".join(words) if words else _read_prompt()
        prompt.encode()
    except UnicodeError:
        raise _CommandError("the prompt is not valid UTF-8", 2) from None
    except OSError as exc:
        raise _CommandError(f"standard input: {exc}") from exc
    if not prompt.strip():
        raise _CommandError("the prompt is empty (--help shows the usage)", 2)
    return prompt.strip()


def _read_prompt() -> str:
    if sys.stdin is None:
        return ""
    if not sys.stdin.isatty() or sys.stderr is None:
        return sys.stdin.read()
    sys.stderr.write("Type your prompt; Enter and Ctrl-D send it.\n")
    prompt = sys.stdin.read()
    sys.stderr.write("\n")
    return prompt


def _make_model(name: str | None) -> BaseChatModel:
    if name is None:
        from .demo import DemoChatModel

        return DemoChatModel()
    provider, _, model = name.partition(":")
    if not (provider and model):
        raise _CommandError(
            f"--model takes PROVIDER:MODEL, such as openai:gpt-5-mini, not {name!r}", 2
        )
    try:
        try:
            from langchain.chat_models import init_chat_model
        except ModuleNotFoundError:
            return _make_model_of_package(provider, model)
        return init_chat_model(model, model_provider=provider)
    except _CommandError:
        raise
    except ImportError as exc:
        raise _CommandError(f"--model {name}: {exc}") from exc
    except Exception as exc:
        # `init_chat_model` raises a plain ValueError for an unknown provider; those of the
        # providers are of subclasses.
        if type(exc) is ValueError:
            raise _CommandError(f"--model {name}: {exc}", 2) from exc
        raise _CommandError(f"--model {name}: {_describe(exc)}") from exc


def _make_model_of_package(provider: str, model: str) -> BaseChatModel:
    """Make a model without langchain, if package and class are named after the provider."""
    provider = provider.replace("-", "_").lower()
    package = f"langchain_{provider}"
    to_install = f"langchain {package.replace('_', '-')}"
    try:
        module = importlib.import_module(package)
    except ImportError:
        pass
    else:
        to_install = "langchain"
        for name in dir(module):
            if name.lower() == f"chat{provider}":
                found: BaseChatModel = getattr(module, name)(model=model)
                return found
    raise _CommandError(
        f"--model {provider}:{model}: a package is not installed; pip install {to_install}"
    )


def _find_agent(path: str, backend: str) -> object:
    try:
        agent = find_agent(path)
    except BadPathError as exc:
        raise _CommandError(f"--agent {path}: {exc}", 2) from exc
    except Exception as exc:
        raise _CommandError(f"--agent {path}: {_describe(exc)}") from exc
    if backend == "trio":
        from langchain_anyio._trio_runtime.enabling import enable_trio

        enable_trio()
    return agent


async def _run_until_interrupted(work: Callable[[], Awaitable[None]]) -> bool:
    """Run `work`, cancel it at Ctrl-C, and return whether it was not interrupted.

    This behaves the same on every backend and version of Python. By default, `KeyboardInterrupt`
    may be raised at any point of any task.
    """
    failure: Exception | None = None
    interrupted = False

    async def watch(
        scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        nonlocal interrupted
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                interrupted = True
                scope.cancel()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            # Respect a parent process that makes its children ignore interrupts.
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                await tasks.start(watch, scope)
            try:
                await work()
            except Exception as exc:  # noqa: BLE001  # a task group would wrap it in a group
                failure = exc
        tasks.cancel_scope.cancel()
    if failure is not None and not interrupted:
        raise failure
    return not interrupted


async def _answer(
    model: BaseChatModel, prompt: str, show: Callable[[AsyncChatModelStream], Awaitable[None]]
) -> None:
    with _errors_reported():
        async with open_stream(model, prompt) as stream:
            await show(stream)
            await stream


async def _run_agent(path: str, agent: object, prompt: str, *, events: bool) -> None:
    with _errors_reported():
        try:
            graph = await make_graph(agent)
            check_input(graph)
        except BadPathError as exc:
            raise _CommandError(f"--agent {path}: {exc}", 2) from exc
        input = {"messages": [{"role": "user", "content": prompt}]}
        # A graph with a checkpointer needs one.
        thread: RunnableConfig = {"configurable": {"thread_id": str(uuid4())}}
        async with open_stream(graph, input, thread) as run:
            await (show_events_of_run(run) if events else show_run(run))
            await run.output
            interrupts = await run.interrupts()
    if interrupts:
        waits_for = "; ".join(repr(value_of_interrupt(interrupt)) for interrupt in interrupts)
        raise _CommandError(f"the agent waits to be resumed: {waits_for}", 3)


@contextmanager
def _errors_reported() -> Iterator[None]:
    try:
        yield
    except (_CommandError, OutputError):
        raise
    except Exception as exc:
        raise _CommandError(_describe(exc)) from exc


def _report(line: str) -> None:
    if sys.stderr is not None:
        line = escape_controls(" ".join(_redact_secrets(line).split()))
        if len(line) > _MAX_ERROR_LENGTH:
            line = f"{line[:_MAX_ERROR_LENGTH]} …"
        sys.stderr.write(f"langchain_anyio: {line}\n")


def _describe(error: BaseException) -> str:
    """Return an error with its root cause and URL, which providers' connection errors omit."""
    line = f"{type(error).__name__}: {error}"
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if str(cause) in line:
        return line
    address = str(getattr(vars(error).get("request"), "url", "")).partition("?")[0]
    return f"{line} ({address}{': ' if address else ''}{type(cause).__name__}: {cause})"


def _redact_secrets(text: str) -> str:
    """Replace secrets of the environment and of URLs, which errors of servers and clients quote."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            # In parts, since the whitespace that makes a key invalid may be quoted differently.
            for part in value.split():
                if len(part) >= 8:
                    text = text.replace(part, "***")
    return re.sub(r"://[^/@\s]+@", "://***@", text)
