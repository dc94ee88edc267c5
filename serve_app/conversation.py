"""Values between dialects and gateway: conversations and other prompts, what is asked, the text that comes back.

Plain frozen dataclasses. Knows no web framework, dialect or engine.
"""

from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from serve_app.types import Constraint, Finished, Sampling, Task, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLogprob:
    """A token's logprob with its bytes, as the dialects show it."""

    token: str
    raw: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """New text of one choice; never half a character."""

    text: str
    logprobs: tuple[TextLogprob, ...] = ()
    choice: int = 0
    thought: bool = False
    """Whether the model thinks this before its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of a tool call of one choice: the first has id and name, those after it more of the arguments' JSON."""

    index: int
    """Which call of the choice, from 0."""
    id: str = ""
    name: str = ""
    arguments: str = ""
    choice: int = 0


TextEvent: TypeAlias = TextDelta | ToolCallDelta | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asked for."""

    name: str
    arguments: str
    """JSON as the model wrote it."""
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedChoice:
    """One finished choice: its text, its tokens' logprobs in order, its tool calls, and its end."""

    text: str
    logprobs: tuple[TextLogprob, ...]
    finished: Finished
    tool_calls: tuple[ToolCall, ...] = ()
    thoughts: str = ""
    """What the model thought before the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer, choices in order."""

    choices: tuple[CompletedChoice, ...]


async def fold(events: AsyncIterable[TextEvent]) -> Completion:
    """Collect a stream of text events into the answer it adds up to. Raises what the stream raises."""
    texts: dict[int, list[TextDelta]] = {}
    calls: dict[int, dict[int, ToolCall]] = {}
    ends: dict[int, Finished] = {}
    async for event in events:
        if isinstance(event, Finished):
            ends[event.choice] = event
        elif isinstance(event, ToolCallDelta):
            known = calls.setdefault(event.choice, {})
            before = known.get(event.index, ToolCall(name="", arguments=""))
            known[event.index] = ToolCall(
                id=before.id + event.id, name=before.name + event.name, arguments=before.arguments + event.arguments
            )
        else:
            texts.setdefault(event.choice, []).append(event)
    return Completion(
        choices=tuple(
            CompletedChoice(
                text="".join(delta.text for delta in texts.get(choice, ()) if not delta.thought),
                thoughts="".join(delta.text for delta in texts.get(choice, ()) if delta.thought),
                logprobs=tuple(entry for delta in texts.get(choice, ()) for entry in delta.logprobs),
                finished=ends[choice],
                tool_calls=tuple(calls.get(choice, {}).values()),
            )
            for choice in sorted(ends)
        )
    )


def total_usage(ends: Iterable[Finished], n: int) -> Usage:
    """Add up the choices of a request with `n` choices per prompt; each prompt counts once."""
    ends = list(ends)
    firsts = [end for end in ends if end.choice % n == 0]
    return Usage(
        prompt_tokens=sum(end.usage.prompt_tokens for end in firsts),
        completion_tokens=sum(end.usage.completion_tokens for end in ends),
        cached_tokens=sum(end.usage.cached_tokens for end in firsts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: str
    """system, developer, user, assistant or tool."""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """What an assistant asked for in this turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may ask for."""

    name: str
    function: str
    """The function object as JSON: name, description, parameters, as the client wrote them."""
    parameters: str = "{}"
    """The JSON schema of its arguments, as JSON."""
    strict: bool = False
    """Whether the client was promised that arguments keep to the schema."""


class Ending(Enum):
    """How the prompt of a conversation ends."""

    OPENED = "opened"
    """With the mark that begins the assistant's turn."""
    CONTINUED = "continued"
    """With the last message's text, its turn still open: the answer continues it."""
    CLOSED = "closed"
    """With the end of the last message, and no turn begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation that the gateway renders with the model's chat template."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    template: str = ""
    """A template in Ollama's language to use in place of the model's own."""
    context: tuple[int, ...] = ()
    """Token ids of the conversation so far; `messages` go on from there."""
    ending: Ending = Ending.OPENED
    opening: str = ""
    """What the prompt puts at the beginning of the answer, of which it is no part; control tokens in it count."""

    @property
    def prefill(self) -> str:
        """The beginning of the answer, which the client has written itself; empty where it has not."""
        return self.messages[-1].content if self.ending is Ending.CONTINUED else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawText:
    """Text given to the model as it is; control tokens written in it count as control tokens."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTokens:
    """Token ids given to the model as they are."""

    ids: tuple[int, ...]


Prompt: TypeAlias = Chat | RawText | RawTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDecision:
    """Which task a request is, and why."""

    task: Task
    reason: str
    """A slug; see `serve_app.routing.tasks`."""
    probabilities: Mapping[Task, float] = field(default_factory=dict)
    """Of every task that was weighed; empty when none was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTrial:
    """Where a request would go."""

    decision: TaskDecision
    candidates: tuple[str, ...]
    """Groups in the order they would be tried; empty when none is ready."""
    reason: str
    """Why the first is first; see `Policy.choose`. The error's code where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text and the task it is."""

    text: str
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """What a dialect asks of the gateway: one or more prompts, `n` choices of each. Without a prompt, only whether it could serve.

    Choice numbers run prompt by prompt: choice `p * n + k` is the k-th answer to prompt p.
    """

    request_id: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling = field(default_factory=Sampling)
    constraint: Constraint | None = None
    """What every answer must look like."""
    explicit: frozenset[str] = frozenset()
    """Fields of `sampling`, and `stop`, that the client named; a model variant's parameters fill in the others."""
    model: str | None = None
    names: tuple[str, ...] = ()
    """Keys of the model's names (`serve_app.models.names`), the client's first; the gateway fills it in."""
    stop: tuple[str, ...] = ()
    n: int = 1
    window: int | None = None
    """Most tokens of prompt and answer together, as the client wants it; a conversation's oldest turns are left out to fit. None:
    what the group has, and nothing is left out."""
    one_call: bool = False
    """An answer ends where a second tool call begins: the client has room for one."""
    echo: bool = False
    """Put the prompt's text before the answer."""
    think: bool | None = None
    """Whether the model shall think before it answers; None: as it does by itself, and can."""
    with_tokens: bool = False
    """Tell prompt and answer as token ids in `Finished.tokens`."""
    task: Task | None = None
    """Given by the client; wins over classification."""
    group: str | None = None
    """Engine group given by the client; wins over every preference."""
    session: str | None = None
    """The client's name of the conversation; its requests go to one replica while that is not overloaded."""
    timeout_s: float | None = None
