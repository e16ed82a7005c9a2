"""The command line `python -m langchain_anyio`: one prompt, and its answer as it comes."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, final

import anyio
from anyio.abc import TaskStatus

from langchain_anyio._driver import open_stream

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_anyio._stream import AsyncChatModelStream
    from langchain_anyio._stream_state import Channel

# As shells count them: 128 and the signal's number, those of SIGINT and SIGPIPE.
_INTERRUPTED: Final = 130
_OUTPUT_CLOSED: Final = 141

_BACKENDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "asyncio": ("asyncio", {}),
    "trio": ("trio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
}

_EPILOG: Final = """\
On a terminal the model's reasoning and tool calls are shown too, if rich is
installed; otherwise standard output is the answer and nothing else.

exit status:
  0    answered
  1    the model failed, or something is missing
  2    bad usage
  130  stopped by Ctrl-C
  141  nobody reads the output any more"""

# Shown as Python writes them, so that an answer can't give the terminal orders.
_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_SECRET_NAME: Final = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_LONGEST_LINE: Final = 1000


class _CommandError(Exception):
    """The command ends, with this line and this status."""

    def __init__(self, line: str, status: int = 1) -> None:
        super().__init__(line)
        self.status = status


class _OutputError(Exception):
    """Standard output failed, and not the model; the cause says how."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: Those of the process by default.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # Without a handler, what packages log as a warning would stand in the answer.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        _run(arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except _OutputError as exc:
        # What is still in the buffer would fail again at exit.
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
    options = _parser().parse_args(arguments)
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
    model = _model(options.model)
    prompt = _prompt(options.prompt)
    backend, backend_options = _BACKENDS[options.backend]
    finished = anyio.run(
        _until_interrupted,
        partial(_answer, model, prompt, _show_events if options.events else _show),
        backend=backend,
        backend_options=backend_options,
    )
    if not finished:
        raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _CommandError(f"{message} (--help shows the usage)", 2)


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m langchain_anyio",
        description="Stream a chat model's answer to a prompt.",
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


# What is asked, and who


def _prompt(words: list[str]) -> str:
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


def _model(name: str | None) -> BaseChatModel:
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
            return _model_of_package(provider, model)
        return init_chat_model(model, model_provider=provider)
    except _CommandError:
        raise
    except ImportError as exc:
        raise _CommandError(f"--model {name}: {exc}") from exc
    except Exception as exc:
        # A provider that is not known; what providers raise themselves is of a class derived from it.
        if type(exc) is ValueError:
            raise _CommandError(f"--model {name}: {exc}", 2) from exc
        raise _CommandError(f"--model {name}: {_describe(exc)}") from exc


def _model_of_package(provider: str, model: str) -> BaseChatModel:
    """Do without langchain for those providers whose package and class are named as they are."""
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


# The answer


async def _until_interrupted(work: Callable[[], Awaitable[None]]) -> bool:
    """Do `work` and return True, or stop it at Ctrl-C and return False.

    The same on every backend and Python; by default an interrupt may be raised in any task, anywhere.
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
            # Whoever ignores interrupts for the processes it starts, as nohup does, means it.
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                await tasks.start(watch, scope)
            try:
                await work()
            except Exception as exc:  # noqa: BLE001  # a task group would wrap it
                failure = exc
        tasks.cancel_scope.cancel()
    if failure is not None and not interrupted:
        raise failure
    return not interrupted


async def _answer(
    model: BaseChatModel, prompt: str, show: Callable[[AsyncChatModelStream], Awaitable[None]]
) -> None:
    try:
        async with open_stream(model, prompt) as stream:
            await show(stream)
            await stream
    except _OutputError:
        raise
    except Exception as exc:
        raise _CommandError(_describe(exc)) from exc


async def _show_events(stream: AsyncChatModelStream) -> None:
    async for event in stream.events:
        with _writing():
            sys.stdout.write(f"{json.dumps(event, default=str)}\n")
            sys.stdout.flush()


async def _show(stream: AsyncChatModelStream) -> None:
    display = _display()
    clean = _printable if sys.stdout.isatty() else str
    calls = set()
    try:
        async for channel, delta in stream.interleave():
            with _writing():
                if isinstance(delta, str):
                    display.write(channel, clean(delta))
                else:
                    calls.add(delta["id"])
                    display.tool_call(
                        (delta["id"], delta.get("index")),
                        clean(delta["name"] or ""),
                        clean(delta["args"] or ""),
                    )
        message = await stream
        for call in message.tool_calls:
            # One without arguments comes without a delta.
            if call["id"] not in calls:
                with _writing():
                    display.tool_call(call["id"], clean(call["name"]), json.dumps(call["args"]))
    finally:
        with _writing():
            display.end()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise _OutputError from exc


class _Display(Protocol):
    def write(self, channel: Channel, text: str) -> None: ...
    def tool_call(self, call: Hashable, name: str, args: str) -> None: ...
    def end(self) -> None: ...


def _display() -> _Display:
    if sys.stdout.isatty():
        try:
            from .terminal import open_terminal
        except ModuleNotFoundError:  # without rich
            pass
        else:
            terminal = open_terminal()
            if terminal is not None:
                return terminal
    return _Plain()


@final
class _Plain:
    """The text, and nothing else."""

    def __init__(self) -> None:
        self._last = "\n"

    def write(self, channel: Channel, text: str) -> None:
        if channel == "text" and text:
            self._last = text[-1]
            sys.stdout.write(text)
            sys.stdout.flush()

    def tool_call(self, call: Hashable, name: str, args: str) -> None:
        pass

    def end(self) -> None:
        if self._last != "\n":
            self.write("text", "\n")


# What goes wrong


def _report(line: str) -> None:
    if sys.stderr is not None:
        line = _printable(" ".join(_without_secrets(line).split()))
        if len(line) > _LONGEST_LINE:
            line = f"{line[:_LONGEST_LINE]} …"
        sys.stderr.write(f"langchain_anyio: {line}\n")


def _describe(error: BaseException) -> str:
    """An error with what it comes from and the address, which the providers' connection errors leave out."""
    line = f"{type(error).__name__}: {error}"
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if str(cause) in line:
        return line
    address = str(getattr(vars(error).get("request"), "url", "")).partition("?")[0]
    return f"{line} ({address}{': ' if address else ''}{type(cause).__name__}: {cause})"


def _printable(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def _without_secrets(text: str) -> str:
    """Blot out what the environment keeps secret: servers and HTTP clients repeat keys in their errors."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            # In parts, as the white space that makes a key invalid is quoted in some way.
            for part in value.split():
                if len(part) >= 8:
                    text = text.replace(part, "***")
    return re.sub(r"://[^/@\s]+@", "://***@", text)
