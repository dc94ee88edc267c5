"""Values between dialects and gateway: prompts, requests, and the events and completions of their answers.

Plain frozen dataclasses. Knows no web framework, dialect, model or engine.
"""

from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TypeAlias

from serve_app.types import Constraint, FinishReason, Sampling, Task, Timings, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLogprob:
    """A token's logprob with its bytes, as the dialects show it."""

    token: str
    raw: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first event of an answer: an engine has answered."""

    prompt_tokens: int
    """Of all prompts of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """New text of one choice; never half a character."""

    text: str
    logprobs: tuple[TextLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtDelta:
    """New text of what the model thinks before one choice's answer; never half a character."""

    text: str
    logprobs: tuple[TextLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of a tool call of one choice: the first piece has id and name, later ones more of the arguments' JSON."""

    index: int
    """Which call of the choice, from 0."""
    id: str = ""
    name: str = ""
    arguments: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceEnd:
    """The last event of one choice."""

    reason: FinishReason
    usage: Usage
    timings: Timings = field(default_factory=Timings)
    stop_sequence: str | None = None
    """The client's stop string that ended it; None where something else did."""
    choice: int = 0
    tokens: tuple[int, ...] = ()
    """Prompt and answer as token ids, where the request asks for them (`with_tokens`)."""
    invalid_calls: tuple[str, ...] = ()
    """Names of the tools that are called with arguments their schema does not allow, one per call."""
    invalid_answer: bool = False
    """Whether the client's JSON schema does not allow the answer."""


AnswerDelta: TypeAlias = TextDelta | ThoughtDelta | ToolCallDelta
"""A piece of one choice."""
AnswerEvent: TypeAlias = Started | AnswerDelta | ChoiceEnd
"""One `Started`, any number of deltas, and one `ChoiceEnd` per choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asked for."""

    name: str
    arguments: str
    """JSON as the model wrote it."""
    id: str = ""

    def extend_by(self, delta: ToolCallDelta) -> "ToolCall":
        """Return the call with the next piece of it."""
        return ToolCall(id=self.id + delta.id, name=self.name + delta.name, arguments=self.arguments + delta.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedChoice:
    """One finished choice: its text, its tokens' logprobs in order, its tool calls, and its end."""

    text: str
    logprobs: tuple[TextLogprob, ...]
    end: ChoiceEnd
    tool_calls: tuple[ToolCall, ...] = ()
    thoughts: str = ""
    """What the model thought before the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer, choices in order."""

    choices: tuple[CompletedChoice, ...]


async def fold(events: AsyncIterable[AnswerEvent]) -> Completion:
    """Collect a stream of events into the completion it adds up to. Raises what the stream raises."""
    deltas: dict[int, list[TextDelta | ThoughtDelta]] = {}
    calls: dict[int, dict[int, ToolCall]] = {}
    ends: dict[int, ChoiceEnd] = {}
    async for event in events:
        if isinstance(event, ChoiceEnd):
            ends[event.choice] = event
        elif isinstance(event, ToolCallDelta):
            known = calls.setdefault(event.choice, {})
            known[event.index] = known.get(event.index, ToolCall(name="", arguments="")).extend_by(event)
        elif not isinstance(event, Started):
            deltas.setdefault(event.choice, []).append(event)
    return Completion(
        choices=tuple(
            CompletedChoice(
                text="".join(delta.text for delta in deltas.get(choice, ()) if isinstance(delta, TextDelta)),
                thoughts="".join(delta.text for delta in deltas.get(choice, ()) if isinstance(delta, ThoughtDelta)),
                logprobs=tuple(entry for delta in deltas.get(choice, ()) for entry in delta.logprobs),
                end=ends[choice],
                tool_calls=tuple(calls.get(choice, {}).values()),
            )
            for choice in sorted(ends)
        )
    )


def total_usage(ends: Iterable[ChoiceEnd], n: int) -> Usage:
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
    """A conversation that the model's chat format renders."""

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
class RoutePreview:
    """Where a request would go."""

    decision: TaskDecision
    candidates: tuple[str, ...]
    """Groups in the order in which they would be tried; empty when none is ready."""
    reason: str
    """Why the first is first; see `Policy.choose`. The error's code where there are no candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExample:
    """A text with its true task."""

    text: str
    task: Task


class ToolChoice(StrEnum):
    """Whether an answer calls tools, where tools are offered."""

    AUTO = "auto"
    """The model decides."""
    REQUIRED = "required"
    """It calls at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """The form that a client wants its answers in. How a model is made to keep to it is the chat format's business."""

    tool_choice: ToolChoice = ToolChoice.AUTO
    callable: tuple[str, ...] = ()
    """Names of the offered tools that may be called; empty: all of them."""
    parallel: bool = True
    """Whether an answer may call several tools."""
    format: Constraint | None = None
    """What an answer that calls no tool must look like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """What a dialect asks of the gateway: one or more prompts, `n` choices of each. Without prompts it asks for a route only.

    Choice numbers run prompt by prompt: choice `p * n + k` is the k-th answer to prompt p.
    """

    request_id: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling = field(default_factory=Sampling)
    form: AnswerForm = field(default_factory=AnswerForm)
    explicit: frozenset[str] = frozenset()
    """Fields of `sampling`, and `stop`, that the client named; a model variant's parameters fill in the others."""
    model: str | None = None
    """The model's name as the client wrote it; None: the default model."""
    stop: tuple[str, ...] = ()
    n: int = 1
    window: int | None = None
    """Most tokens of prompt and answer together, as the client wants it; a conversation's oldest turns are left out to fit. None:
    what the group has, and nothing is left out."""
    one_call: bool = False
    """End an answer where a second tool call begins: the client's protocol has room for one."""
    echo: bool = False
    """Put the prompt's text before the answer."""
    think: bool | None = None
    """Whether the model should think before it answers; None: the model decides."""
    with_tokens: bool = False
    """Return prompt and answer as token ids in `ChoiceEnd.tokens`."""
    task: Task | None = None
    """Given by the client; wins over classification."""
    group: str | None = None
    """Engine group given by the client; wins over every preference."""
    session: str | None = None
    """The client's name of the conversation; its requests go to one replica while that is not overloaded."""
    timeout_s: float | None = None
