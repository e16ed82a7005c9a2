"""The command line `python -m langchain_anyio`: stream the answer to one prompt."""

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
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast, final

import anyio
from anyio.abc import TaskStatus

from langchain_anyio._open_stream import open_stream

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_anyio._protocol.accumulator import Delta
    from langchain_anyio._stream import AsyncChatModelStream
    from langchain_anyio._stream_state import Channel

# Exit statuses as in shells: 128 plus the number of SIGINT or SIGPIPE.
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

# Control characters are escaped as in Python, so that an answer cannot control the terminal.
_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_HALF: Final = re.compile(r"[\r\ud800-\udbff]\Z")
_PAIR: Final = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")
_SECRET_NAME: Final = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_MAX_ERROR_LENGTH: Final = 1000
_FRAME: Final = 1 / 25  # the shortest time in seconds between two changes of a terminal


class _CommandError(Exception):
    """Ends the command with an error line and an exit status."""

    def __init__(self, line: str, status: int = 1) -> None:
        super().__init__(line)
        self.status = status


class _OutputError(Exception):
    """Writing to standard output failed; `__cause__` is the `OSError`."""


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
    except _OutputError as exc:
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
    model = _make_model(options.model)
    prompt = _get_prompt(options.prompt)
    backend, backend_options = _BACKENDS[options.backend]
    finished = anyio.run(
        _run_until_interrupted,
        partial(_answer, model, prompt, _show_events if options.events else _show),
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
    try:
        async with open_stream(model, prompt) as stream:
            await show(stream)
            await stream
    except _OutputError:
        raise
    except Exception as exc:
        raise _CommandError(_describe(exc)) from exc


async def _show_events(stream: AsyncChatModelStream) -> None:
    async for events in stream.events.batches():
        with _output_errors():
            sys.stdout.write("".join(f"{json.dumps(event, default=str)}\n" for event in events))
            sys.stdout.flush()


async def _show(stream: AsyncChatModelStream) -> None:
    display = _open_display()
    clean = _escape_controls if sys.stdout.isatty() else str
    show: Callable[[str], None] = partial(display.write, "text")
    shown: Hashable = None
    text = _Text(clean)
    calls = set()

    def begin(key: Hashable, how: Callable[[str], None]) -> None:
        nonlocal shown, show
        if key != shown:
            end()
            shown, show = key, how

    def end() -> None:
        if rest := text.rest():
            show(rest)

    try:
        try:
            # Whatever reads a pipe gets everything at once, a person what the eye can follow.
            interval = _FRAME if sys.stdout.isatty() else 0
            async for batch in stream.interleave().batches(interval):
                with _output_errors():
                    for delta in _join_text(batch):
                        if delta[0] != "tool_calls":
                            begin(delta[0], partial(display.write, delta[0]))
                            show(text.feed(delta[1]))
                            continue
                        chunk = delta[1]
                        calls.add(chunk["id"])
                        key = (chunk["id"], chunk.get("index"))
                        begin(key, partial(display.tool_call, key, ""))
                        display.tool_call(
                            key, clean(chunk["name"] or ""), text.feed(chunk["args"] or "")
                        )
        finally:
            with _output_errors():
                end()
        message = await stream
        for call in message.tool_calls:
            # A call without arguments has no deltas.
            if call["id"] not in calls:
                with _output_errors():
                    display.tool_call(call["id"], clean(call["name"]), json.dumps(call["args"]))
    finally:
        with _output_errors():
            display.end()


def _join_text(deltas: list[Delta]) -> Iterator[Delta]:
    """Yield the deltas in order, successive ones of the same text as one."""
    for channel, same in groupby(deltas, key=itemgetter(0)):
        if channel == "tool_calls":
            yield from same
        else:
            yield channel, "".join(cast("str", text) for _, text in same)


@final
class _Text:
    """Text in pieces, whose last character may wait for the next one to say what it is.

    Args:
        clean: What is done to it all.
    """

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece; return what is to be shown."""
        text = self._held + piece
        # It may be half of the end of a line, or of a character.
        self._held = text[-1] if _HALF.search(text) else ""
        return self._shown(text[: len(text) - len(self._held)])

    def rest(self) -> str:
        """Return what is to be shown when nothing more comes."""
        held, self._held = self._held, ""
        return self._shown(held)

    def _shown(self, text: str) -> str:
        return self._clean(_PAIR.sub(_join_pair, text))


def _join_pair(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise _OutputError from exc


class _Display(Protocol):
    def write(self, channel: Channel, text: str) -> None: ...
    def tool_call(self, call: Hashable, name: str, args: str) -> None: ...
    def end(self) -> None: ...


def _open_display() -> _Display:
    if sys.stdout.isatty():
        try:
            from .terminal import open_terminal
        except ModuleNotFoundError:  # without rich
            pass
        else:
            terminal = open_terminal()
            if terminal is not None:
                return terminal
    return _PlainDisplay()


@final
class _PlainDisplay:
    """Writes the answer's text only."""

    def __init__(self) -> None:
        self._last_character = "\n"

    def write(self, channel: Channel, text: str) -> None:
        if channel == "text" and text:
            self._last_character = text[-1]
            sys.stdout.write(text)
            sys.stdout.flush()

    def tool_call(self, call: Hashable, name: str, args: str) -> None:
        pass

    def end(self) -> None:
        if self._last_character != "\n":
            self.write("text", "\n")


def _report(line: str) -> None:
    if sys.stderr is not None:
        line = _escape_controls(" ".join(_redact_secrets(line).split()))
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


def _escape_controls(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def _redact_secrets(text: str) -> str:
    """Replace secrets of the environment and of URLs, which errors of servers and clients quote."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            # In parts, since the whitespace that makes a key invalid may be quoted differently.
            for part in value.split():
                if len(part) >= 8:
                    text = text.replace(part, "***")
    return re.sub(r"://[^/@\s]+@", "://***@", text)
