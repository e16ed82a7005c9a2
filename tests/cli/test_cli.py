"""The command line, run as a user runs it: piped, on a terminal, interrupted, and with everything missing."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import COMMAND, KEY, SECONDS, Pipe, Terminal, environment, run, without
from langchain_anyio._cli.demo import DemoChatModel
from langchain_anyio._cli.show import _Text, escape_controls
from loopback import ProviderServer, Reply, Scenario, Text, Thinking, ToolCall, provider_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from loopback import Endpoint, Exchange

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("interruptible")]

PROMPT = "Write me a song about sparkling water."
OPENAI = ("--model", "openai:gpt-5-mini")
ANTHROPIC = ("--model", "anthropic:claude-sonnet-4-5")
# The frames of the stream up to the first slice of text; before it come the starts of the message and of the block.
TO_FIRST_SLICE = {OPENAI: 2, ANTHROPIC: 4}
CALL = ToolCall("find_rhymes", '{"word":', ' "water"}', call_id="call_1")
ANSWER = Text("Bubbles rise", " and", " disappear.")


@pytest.fixture
def backend(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    name, options = anyio_backend
    return "uvloop" if options.get("use_uvloop") else name


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with provider_server() as running:
        yield running


def keys(endpoint: Endpoint) -> dict[str, str]:
    """Variables by which the provider's packages find the endpoint."""
    return {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": endpoint.openai_url,
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": endpoint.anthropic_url,
    }


def first(endpoint: Endpoint) -> Exchange:
    return endpoint.exchanges[0]


def closed(exchange: Exchange) -> bool:
    return exchange.closed._event.wait(30)


def one_line(errors: str) -> str:
    """What the command says on standard error, which has to be a single line."""
    assert re.fullmatch(r"langchain_anyio: [^\n]+\n", errors), errors
    assert KEY not in errors
    return errors


# The answer


def test_the_demo_answers(backend: str) -> None:
    answer = DemoChatModel().invoke(PROMPT).text
    assert run("--backend", backend, PROMPT) == (0, f"{answer}\n", "")


@pytest.mark.parametrize("model", (OPENAI, ANTHROPIC))
def test_a_provider_answers(server: ProviderServer, backend: str, model: tuple[str, str]) -> None:
    endpoint = server.serve(Scenario(Reply(Thinking("Hm."), ANSWER, CALL)))
    answered = run(*model, "--backend", backend, PROMPT, env=keys(endpoint))
    assert answered == (0, "Bubbles rise and disappear.\n", "")
    assert first(endpoint).body["messages"][-1]["content"] == PROMPT
    assert first(endpoint).body["model"] == model[1].partition(":")[2]
    assert closed(first(endpoint))


@pytest.mark.parametrize("model", (OPENAI, ANTHROPIC))
def test_a_provider_answers_without_langchain(
    server: ProviderServer, tmp_path: Path, model: tuple[str, str]
) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER)))
    variables = keys(endpoint) | without(tmp_path, "langchain")
    assert run(*model, PROMPT, env=variables) == (0, "Bubbles rise and disappear.\n", "")


def test_each_slice_of_the_answer_is_there_at_once(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(Text("Bubbles", " rise", ".\n")), gated=True))
    with Pipe(*ANTHROPIC, PROMPT, env=keys(endpoint)) as command:
        wait_for_request(endpoint)
        first(endpoint).release(TO_FIRST_SLICE[ANTHROPIC])
        for piece in ("Bubbles", "Bubbles rise", "Bubbles rise.\n"):
            command.read_until(piece)
            assert command.output == piece
            first(endpoint).release()
        first(endpoint).release(100)
        assert command.finish() == 0
        # The answer ends its line itself.
        assert command.output == "Bubbles rise.\n"


def wait_for_request(endpoint: Endpoint) -> None:
    with endpoint._arrived:
        assert endpoint._arrived.wait_for(lambda: endpoint.exchanges, SECONDS)


def test_events_are_json_lines(server: ProviderServer, backend: str) -> None:
    endpoint = server.serve(Scenario(Reply(Thinking("Hm."), Text("Grüße", " \x9b"))))
    status, output, errors = run(
        *ANTHROPIC, "--backend", backend, "--events", PROMPT, env=keys(endpoint)
    )
    assert (status, errors) == (0, "")
    assert output.isascii()
    events = [json.loads(line) for line in output.splitlines()]
    assert events[0]["event"] == "message-start"
    assert events[-1]["event"] == "message-finish"
    text = [event["delta"] for event in events if event["event"] == "content-block-delta"]
    assert [delta["text"] for delta in text if delta["type"] == "text-delta"] == ["Grüße", " \x9b"]


def test_the_prompt_comes_from_standard_input(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER)))
    prompt = "Grüße,\nund ein Lied!"
    assert run(*OPENAI, env=keys(endpoint), stdin=f"{prompt}\n")[0] == 0
    assert first(endpoint).body["messages"][-1]["content"] == prompt


def test_the_prompt_needs_no_quotes() -> None:
    _, output, _ = run("Write", "me", "a", "song")
    assert '"Write me a song"' in output


def test_an_answer_with_no_text_is_no_output(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(CALL)))
    assert run(*OPENAI, PROMPT, env=keys(endpoint)) == (0, "", "")


def test_a_pipe_gets_the_answer_as_the_model_gave_it(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(Text("\x1b[31mred\x1b[0m\t[b]\r\n"))))
    assert run(*ANTHROPIC, PROMPT, env=keys(endpoint) | {"FORCE_COLOR": "1"}) == (
        0,
        "\x1b[31mred\x1b[0m\t[b]\r\n",
        "",
    )


@pytest.mark.parametrize("encoding", ("ascii", "utf-8"))
def test_what_the_output_cannot_encode_is_replaced(server: ProviderServer, encoding: str) -> None:
    endpoint = server.serve(Scenario(Reply(Text("ü", "\ud83d", "."))))
    variables = keys(endpoint) | {"PYTHONIOENCODING": encoding}
    status, output, errors = run(*ANTHROPIC, PROMPT, env=variables)
    assert (status, errors) == (0, "")
    assert output == {"ascii": "??.\n", "utf-8": "ü?.\n"}[encoding]


def test_nothing_is_imported_before_it_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], PROMPT],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "langchain_anyio._cli.demo" in imported
    assert not imported & {"rich", "trio", "uvloop", "langchain", "langchain_openai"}


# On a terminal


def test_a_terminal_shows_all_that_comes(server: ProviderServer, backend: str) -> None:
    reply = Reply(Thinking("The user", " wants a song."), ANSWER, CALL)
    endpoint = server.serve(Scenario(reply))
    arguments = (*ANTHROPIC, "--backend", backend, PROMPT)
    with Terminal(*arguments, columns=20, env=keys(endpoint)) as terminal:
        assert terminal.finish() == 0
        assert terminal.screen == [
            *("The user wants a", "song.", ""),
            *("Bubbles rise and", "disappear.", ""),
            *("→ find_rhymes", '{"word": "water"}', ""),
        ]
        # However many pieces came at once, all the reasoning has its style, and the text has none.
        assert terminal.output.startswith("\x1b[2;3mThe user")
        assert re.search(r"\x1b\[2;3m[^\x1b]*song\.\x1b\[0m\r\n\r\nBubbles", terminal.output)
        assert "\x1b[1;36m→ find_rhymes \x1b[0m" in terminal.output
        assert "\r\nBubbles rise" in terminal.output


def test_a_terminal_shows_each_slice_at_once(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(Text("Bub", "bles", " rise")), gated=True))
    with Terminal(*ANTHROPIC, PROMPT, env=keys(endpoint)) as terminal:
        wait_for_request(endpoint)
        first(endpoint).release(TO_FIRST_SLICE[ANTHROPIC])
        for piece in ("Bub", "Bubbles", "Bubbles rise"):
            terminal.read_until(piece)
            assert terminal.output == piece
            first(endpoint).release()
        first(endpoint).release(100)
        assert terminal.finish() == 0


def test_a_model_cannot_give_the_terminal_orders(server: ProviderServer) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\x08\x00\r[bold]markup[/bold]\r\n:smile:"
    reply = Reply(
        Thinking(evil), Text(evil), ToolCall("f\x1b[1m", json.dumps({"a": "\x9b"}), call_id="1")
    )
    endpoint = server.serve(Scenario(reply))
    with Terminal(*ANTHROPIC, PROMPT, env=keys(endpoint)) as terminal:
        assert terminal.finish() == 0
        shown = r"\x1b]0;title\x07\x1b[2J\x9b31m\x08\x00\x0d[bold]markup[/bold]"
        assert terminal.screen[:5] == [shown, ":smile:", "", shown, ":smile:"]
        assert r"→ f\x1b[1m" in terminal.screen[6]
        assert set(re.findall(r"\x1b.{2}", terminal.output)) <= {
            "\x1b[2",
            "\x1b[0",
            "\x1b[1",
            "\x1b[3",
        }
        assert not set(terminal.output) & set("\x00\x07\x08\x9b")


@given(st.text(st.sampled_from("ab\r\n\x1b[\ud83d\ude00\U0001f600")), st.data())
def test_a_text_is_shown_alike_however_it_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    whole, cut = _Text(escape_controls), _Text(escape_controls)
    expected = whole.feed(text) + whole.rest()
    assert "".join([*map(cut.feed, pieces), cut.rest()]) == expected
    assert "\r" not in expected
    assert "\ud83d\ude00" not in expected
    assert whole.rest() == ""


def test_a_piece_waits_only_for_what_may_belong_to_it() -> None:
    text = _Text(escape_controls)
    assert [text.feed(piece) for piece in ("a\r", "\n", "b\r", "c", "\r", "\r", "\n")] == [
        "a",
        "\n",
        "b",
        "\\x0dc",
        "",
        "\\x0d",
        "\n",
    ]
    assert [text.feed(piece) for piece in ("d\ud83d", "\ude00", "\x1b", "[2J")] == [
        "d",
        "\U0001f600",
        "\\x1b",
        "[2J",
    ]
    assert text.rest() == ""
    assert text.feed("\r") == ""
    assert text.rest() == "\\x0d"
    assert text.rest() == ""


def test_ends_of_lines_that_come_in_two_pieces(server: ProviderServer) -> None:
    reply = Reply(Thinking("Hm\r", "\n", "!\r"), Text("one\r", "\ntwo\r", "\n", "three\r"))
    endpoint = server.serve(Scenario(reply))
    with Terminal(*ANTHROPIC, PROMPT, env=keys(endpoint)) as terminal:
        assert terminal.finish() == 0
        assert terminal.screen[:6] == ["Hm", r"!\x0d", "", "one", "two", r"three\x0d"]


def test_a_tool_call_without_arguments_is_shown(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER, ToolCall("stop_singing", "", call_id="1"))))
    with Terminal(*OPENAI, PROMPT, env=keys(endpoint)) as terminal:
        assert terminal.finish() == 0
        assert terminal.screen == ["Bubbles rise and disappear.", "", "→ stop_singing {}", ""]


def test_colours_are_left_out_where_they_are_not_wanted(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(Thinking("Hm."), ANSWER, CALL)))
    with Terminal(*ANTHROPIC, PROMPT, env=keys(endpoint) | {"NO_COLOR": "1"}) as terminal:
        assert terminal.finish() == 0
        assert terminal.screen[0] == "Hm."
        styles = re.findall(r"\x1b\[([\d;]*)m", terminal.output)
        # Dim, italic and bold aren't colours.
        assert {number for style in styles for number in style.split(";")} == {"0", "1", "2", "3"}


@pytest.mark.parametrize("why", ("rich is not installed", "the terminal is dumb"))
def test_a_terminal_that_can_do_no_more_shows_the_text(
    server: ProviderServer, tmp_path: Path, why: str
) -> None:
    endpoint = server.serve(Scenario(Reply(Thinking("Hm."), Text("Bubbles\x1b[1m"), CALL)))
    variables = keys(endpoint)
    variables |= without(tmp_path, "rich") if "rich" in why else {"TERM": "dumb"}
    with Terminal(*ANTHROPIC, PROMPT, env=variables) as terminal:
        assert terminal.finish() == 0
        assert terminal.output == "Bubbles\\x1b[1m\r\n"


def test_a_terminal_is_told_how_to_give_the_prompt() -> None:
    with Terminal() as terminal:
        terminal.read_until("Ctrl-D send it.\r\n")
        terminal.type("a song\n\x04")
        assert terminal.finish() == 0
        assert '"a song"' in terminal.output


# Ctrl-C


def test_ctrl_c_stops_the_demo(backend: str) -> None:
    with Terminal("--backend", backend, PROMPT) as terminal:
        terminal.read_until(" demo")
        terminal.type("\x03")
        assert terminal.finish() == 130
        # Some more words may have come meanwhile, but nothing comes after them.
        assert re.fullmatch(r"A demo.*\^C[^→]*\n", "\n".join(terminal.screen), re.DOTALL)
        assert "Traceback" not in terminal.output


@pytest.mark.parametrize("model", (OPENAI, ANTHROPIC))
def test_ctrl_c_closes_the_connection(
    server: ProviderServer, backend: str, model: tuple[str, str]
) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER), gated=True))
    arguments = (*model, "--backend", backend, PROMPT)
    with Terminal(*arguments, env=keys(endpoint)) as terminal:
        wait_for_request(endpoint)
        first(endpoint).release(TO_FIRST_SLICE[model])
        terminal.read_until("Bubbles rise")
        terminal.type("\x03")
        assert terminal.finish() == 130
        assert terminal.screen == ["Bubbles rise^C", ""]
    assert closed(first(endpoint))


def test_an_interrupt_ends_the_piped_answer_cleanly(server: ProviderServer, backend: str) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER), gated=True))
    with Pipe(*ANTHROPIC, "--backend", backend, PROMPT, env=keys(endpoint)) as command:
        wait_for_request(endpoint)
        first(endpoint).release(TO_FIRST_SLICE[ANTHROPIC])
        command.read_until("Bubbles rise")
        command.interrupt()
        assert command.finish() == 130
        assert (command.output, command.errors) == ("Bubbles rise\n", "")
    assert closed(first(endpoint))


def test_an_interrupt_before_the_answer_begins(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER), gated=True))
    with Pipe(*OPENAI, PROMPT, env=keys(endpoint)) as command:
        wait_for_request(endpoint)
        command.interrupt()
        assert command.finish() == 130
        assert (command.output, command.errors) == ("", "")
    assert closed(first(endpoint))


def test_ctrl_c_while_the_prompt_is_typed() -> None:
    with Terminal() as terminal:
        terminal.read_until("Ctrl-D send it.\r\n")
        terminal.type("a so\x03")
        assert terminal.finish() == 130
        assert "Traceback" not in terminal.output


def test_interrupts_that_are_ignored_stay_ignored(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER), gated=True))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        command = Pipe(*OPENAI, PROMPT, env=keys(endpoint))
    finally:
        signal.signal(signal.SIGINT, before)
    with command:
        wait_for_request(endpoint)
        first(endpoint).release(TO_FIRST_SLICE[OPENAI])
        command.read_until("Bubbles rise")
        command.interrupt()
        first(endpoint).release(100)
        assert command.finish() == 0
        assert command.output == "Bubbles rise and disappear.\n"


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (("--backend", "curio", "x"), "invalid choice: 'curio'"),
        (("--mode", "x"), "unrecognized arguments: --mode"),
        (("--model",), "expected one argument"),
        (("--model", "gpt-5-mini", "x"), "PROVIDER:MODEL, such as openai:gpt-5-mini"),
        (("--model", ":gpt-5-mini", "x"), "PROVIDER:MODEL, such as openai:gpt-5-mini"),
        (("--model", "openai:", "x"), "PROVIDER:MODEL, such as openai:gpt-5-mini"),
        (("--model", "acme:one", "x"), "Unsupported provider='acme'"),
        (("",), "the prompt is empty"),
        ((" ", "\n"), "the prompt is empty"),
        ((), "the prompt is empty"),
        ((b"caf\xe9",), "the prompt is not valid UTF-8"),
        ((f"--{'x' * 5000}",), "xxx …\n"),
        (("--\x1b[2J",), r"unrecognized arguments: --\x1b[2J"),
    ),
)
def test_bad_usage(arguments: tuple[str | bytes, ...], message: str) -> None:
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert message in one_line(errors)


def test_a_prompt_on_standard_input_that_is_not_text() -> None:
    status, output, errors = run(stdin=b"caf\xe9")
    assert (status, output) == (2, "")
    assert "the prompt is not valid UTF-8" in one_line(errors)


@pytest.mark.parametrize(
    ("package", "arguments", "message"),
    (
        ("trio", ("--backend", "trio"), "pip install trio"),
        ("uvloop", ("--backend", "uvloop"), "pip install uvloop"),
        ("langchain_openai", OPENAI, "pip install langchain-openai"),
    ),
)
def test_a_missing_package_is_named(
    tmp_path: Path, package: str, arguments: tuple[str, ...], message: str
) -> None:
    status, output, errors = run(*arguments, "x", env=without(tmp_path, package))
    assert (status, output) == (1, "")
    assert message in one_line(errors)


@pytest.mark.parametrize(
    ("model", "message"),
    (
        ("openai:gpt-5-mini", "pip install langchain langchain-openai"),
        ("google-genai:gemini", "pip install langchain langchain-google-genai"),
        # Its package is there, but its class has another name, which only langchain knows.
        ("text_splitters:one", "pip install langchain\n"),
    ),
)
def test_missing_packages_are_named_without_langchain(
    tmp_path: Path, model: str, message: str
) -> None:
    variables = without(tmp_path, "langchain", "langchain_openai")
    (tmp_path / "langchain_text_splitters.py").touch()
    status, output, errors = run("--model", model, "x", env=variables)
    assert (status, output) == (1, "")
    assert message in one_line(errors)


def test_a_missing_key_is_named() -> None:
    status, output, errors = run(*OPENAI, "x")
    assert (status, output) == (1, "")
    assert "OPENAI_API_KEY" in one_line(errors)


def test_a_host_that_is_not_reached(backend: str) -> None:
    url = "http://127.0.0.1:1/v1"
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url.replace("//", "//me:secret@")}
    status, output, errors = run(*OPENAI, "--backend", backend, "x", env=variables)
    assert (status, output) == (1, "")
    assert "Connection" in one_line(errors)
    assert "127.0.0.1:1/v1" in errors
    assert "secret" not in errors


@pytest.mark.parametrize("status", (401, 500))
def test_an_error_of_the_provider(server: ProviderServer, backend: str, status: int) -> None:
    endpoint = server.serve(Scenario(status=status))
    arguments = (*ANTHROPIC, "--backend", backend, PROMPT)
    exit_status, output, errors = run(*arguments, env=keys(endpoint))
    assert (exit_status, output) == (1, "")
    assert f"answered with {status}" in one_line(errors)


@pytest.mark.parametrize("fault", ("reset", "error"))
def test_an_error_after_some_of_the_answer(
    server: ProviderServer, backend: str, fault: Any
) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER), fault=fault, after=5))
    arguments = (*ANTHROPIC, "--backend", backend, PROMPT)
    status, output, errors = run(*arguments, env=keys(endpoint))
    assert status == 1
    # A reset may overtake what was sent before it.
    assert re.fullmatch("(Bubbles rise( and)?\n)?", output)
    one_line(errors)


def test_a_stall_is_told_once(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER), fault="stall", after=2))
    # The provider's package also logs it.
    variables = keys(endpoint) | {"LANGCHAIN_OPENAI_STREAM_CHUNK_TIMEOUT_S": "0.5"}
    status, output, errors = run(*OPENAI, PROMPT, env=variables)
    assert (status, output) == (1, "Bubbles rise\n")
    assert "StreamChunkTimeoutError" in one_line(errors)
    assert closed(first(endpoint))


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of a server that answers with an error that repeats the request's headers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            error = {"error": {"type": "authentication_error", "message": str(self.headers)}}
            body = json.dumps(error).encode()
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("model", "key"),
    ((OPENAI, KEY), (ANTHROPIC, KEY), (OPENAI, f"{KEY}\n"), (ANTHROPIC, f'"{KEY}\n{KEY}"')),
)
def test_no_error_tells_the_key(echo: str, model: tuple[str, str], key: str) -> None:
    # The HTTP client refuses a key with a line's end in it, and says which.
    variables: Mapping[str, str] = {
        "OPENAI_API_KEY": key,
        "OPENAI_BASE_URL": echo,
        "ANTHROPIC_API_KEY": key,
        "ANTHROPIC_BASE_URL": echo,
    }
    status, output, errors = run(*model, PROMPT, env=variables)
    assert (status, output) == (1, "")
    assert "***" in one_line(errors)


# Where the output goes


def test_a_closed_pipe_ends_the_run(server: ProviderServer, backend: str) -> None:
    endpoint = server.serve(Scenario(Reply(ANSWER), gated=True))
    with Pipe(*OPENAI, "--backend", backend, PROMPT, env=keys(endpoint)) as command:
        wait_for_request(endpoint)
        first(endpoint).release(TO_FIRST_SLICE[OPENAI])
        command.read_until("Bubbles rise")
        command.close()
        first(endpoint).release()
        assert command.process.wait(SECONDS) == 141
        assert command.errors == ""
    assert closed(first(endpoint))


def test_head_takes_the_first_event() -> None:
    script = '"$@" | head -n 1; echo "${PIPESTATUS[@]}"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *COMMAND, "--events", PROMPT],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    event, statuses = done.stdout.splitlines()
    assert json.loads(event)["event"] == "message-start"
    assert (statuses, done.stderr) == ("141 0", "")


@pytest.mark.parametrize(
    ("redirection", "message"),
    ((">/dev/full", "No space left on device"), (">&-", "standard output is closed")),
)
def test_an_output_that_cannot_be_written(redirection: str, message: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *COMMAND, PROMPT],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert message in one_line(done.stderr)


def test_an_input_that_cannot_be_read() -> None:
    for redirection, status, message in (
        ("<&-", 2, "the prompt is empty"),
        ("0>/dev/null", 1, "standard input: "),
    ):
        done = subprocess.run(
            ["bash", "-c", f'"$@" {redirection}', "bash", *COMMAND],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (done.returncode, done.stdout) == (status, "")
        assert message in one_line(done.stderr)


# About itself


def test_help_tells_what_there_is() -> None:
    status, output, errors = run("--help")
    assert (status, errors) == (0, "")
    for name in ("--model", "--backend", "--events", "--version", "standard input", "exit status"):
        assert name in output


def test_version_is_that_of_the_distribution(tmp_path: Path) -> None:
    distribution = tmp_path / "langchain_anyio-98.7.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Name: langchain-anyio\nVersion: 98.7\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert run("--version", env={"PYTHONPATH": path}) == (0, "langchain-anyio 98.7\n", "")
