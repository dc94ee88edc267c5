"""A conversation at the terminal: reads lines, keeps the history, streams the answers. Input and output are functions."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from serve_app import parameters as ollama
from serve_app.client.server import ClientError, JsonObject, Server
from serve_app.types import InvalidValue

Read = Callable[[str], str]
"""Shows a prompt, returns a line; raises `EOFError` at the end and `KeyboardInterrupt` for Ctrl-C."""
Write = Callable[[str], None]

_PROMPT, _MORE = ">>> ", "... "
_QUOTES = '"""'
_NS = 1e9
_SHOWN = ("info", "modelfile", "parameters", "system", "template", "license")
HELP = f"""\
/set parameter NAME VALUE   set a parameter of the answers, such as temperature 0.2
/set system TEXT            set the system prompt
/set format json            keep answers within JSON; /set noformat ends that
/set verbose | quiet        show times after each answer, or do not
/set history | nohistory    send the conversation so far, or only what is asked
/show {" | ".join(_SHOWN)}
/clear                      forget the conversation
/bye                        leave; so does Ctrl-D
{_QUOTES} begins and ends a text of several lines; Ctrl-C ends an answer.
"""


@dataclass(slots=True, kw_only=True)
class Session:
    """State of one conversation."""

    server: Server
    model: str
    format: str = ""
    system: str | None = None
    """None: the model's own."""
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[JsonObject] = field(default_factory=list)
    verbose: bool = False
    with_history: bool = True


def converse(session: Session, read: Read, write: Write) -> None:
    """Read questions and commands until `/bye` or the end of the input."""
    write(f"{session.model}: ask, or /? for help\n")
    while True:
        try:
            line = _read_input(read)
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n/bye or Ctrl-D leaves\n")
            continue
        if line.strip() == "/bye":
            return
        try:
            if line.startswith("/"):
                write(run_command(session, line))
            elif line.strip():
                stream_answer(session, line, write)
        except ClientError as error:
            write(f"error: {error}\n")


def run_command(session: Session, line: str) -> str:
    """Run a command; return the text to show. Raises `ClientError` from the server."""
    verb, _, rest = line.partition(" ")
    rest = rest.strip()
    match verb:
        case "/set":
            return _set(session, rest)
        case "/show":
            return _show(session, rest or "info")
        case "/clear":
            session.messages.clear()
            return "the conversation begins anew\n"
        case "/?" | "/help":
            return HELP
        case _:
            return f"no command {verb}; /? lists them\n"


def stream_answer(session: Session, question: str, write: Write) -> None:
    """Send the question and write the answer as it streams; both join the conversation. Raises `ClientError`."""
    message = {"role": "user", "content": question}
    system = [] if session.system is None else [{"role": "system", "content": session.system}]
    history = session.messages if session.with_history else []
    body: JsonObject = {"model": session.model, "messages": [*system, *history, message], "options": session.options}
    if session.format:
        body["format"] = session.format
    parts, last = [], None
    try:
        with closing(session.server.stream("/api/chat", body)) as lines:
            for last in lines:
                text = last.get("message", {}).get("content", "")
                parts.append(text)
                write(text)
    except KeyboardInterrupt:
        last = None  # the timings of an interrupted answer are missing
    write("\n")
    if session.with_history:
        session.messages += [message, {"role": "assistant", "content": "".join(parts)}]
    if session.verbose and last is not None and last.get("done"):
        write("\n" + format_timings(last))


def format_timings(last: JsonObject) -> str:
    """Return the times and counts of an answer, a line each."""

    def rate(name: str) -> str:
        count, seconds = last.get(f"{name}_count", 0), last.get(f"{name}_duration", 0) / _NS
        speed = f", {count / seconds:.1f} tokens/s" if seconds > 0 else ""
        return f"{count} tokens in {seconds:.3f} s{speed}"

    return (
        f"total    {last.get('total_duration', 0) / _NS:.3f} s\n"
        f"loading  {last.get('load_duration', 0) / _NS:.3f} s\n"
        f"prompt   {rate('prompt_eval')}\n"
        f"answer   {rate('eval')}\n"
    )


def _read_input(read: Read) -> str:
    """Return one input: a line, or several lines between triple quotes."""
    line = read(_PROMPT)
    before, quotes, rest = line.partition(_QUOTES)
    if not quotes or (before.strip() and not before.startswith("/set system")):
        return line
    parts = [rest]
    while _QUOTES not in parts[-1]:
        parts.append(read(_MORE))
    parts[-1] = parts[-1].partition(_QUOTES)[0]
    return before + "\n".join(parts)


def _set(session: Session, rest: str) -> str:
    what, _, value = rest.partition(" ")
    value = value.strip()
    match what:
        case "parameter":
            return _set_parameter(session, value)
        case "system" if value:
            session.system = value
            return "the system prompt is set\n"
        case "format" if value == "json":
            session.format = value
            return "answers are JSON\n"
        case "noformat":
            session.format = ""
            return "answers are free\n"
        case "verbose" | "quiet":
            session.verbose = what == "verbose"
            return f"times are {'shown' if session.verbose else 'not shown'}\n"
        case "history" | "nohistory":
            session.with_history = what == "history"
            return f"the conversation is {'' if session.with_history else 'not '}sent\n"
        case _:
            return "usage: /set parameter NAME VALUE, system TEXT, format json, noformat, verbose, quiet, history, nohistory\n"


def _set_parameter(session: Session, rest: str) -> str:
    name, _, value = rest.partition(" ")
    if not value:
        return "usage: /set parameter NAME VALUE\n"
    try:
        given = ollama.check_parameter("stop", value.split()) if name == "stop" else ollama.parse_parameter(name, value.strip())
        ollama.require_usable({name: given})
    except InvalidValue as error:
        return f"{error}\n"
    session.options[name] = given
    return f"{name} is {given}\n"


def _show(session: Session, what: str) -> str:
    if what not in _SHOWN:
        return f"usage: /show {' | '.join(_SHOWN)}\n"
    answer = session.server.request("/api/show", {"model": session.model})
    if what == "system" and session.system is not None:
        return f"{session.system}\n"
    if what == "parameters":
        own = "".join(f"{name:<30} {value}  (set here)\n" for name, value in session.options.items())
        return f"{answer.get('parameters', '')}\n{own}".lstrip("\n") or "no parameters are set\n"
    if what != "info":
        return f"{answer.get(what, '')}\n"
    details = answer.get("details", {})
    return "".join(f"{name:<20} {value}\n" for name, value in details.items() if value and name != "families")
