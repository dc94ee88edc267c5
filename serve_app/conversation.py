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
    """The first event of an answer: an engine has produced output."""

    prompt_tokens: int
    """Tokens of all prompts of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """New text of one choice; never half a character."""

    text: str
    logprobs: tuple[TextLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtDelta:
    """New text of the model's thoughts before one choice's answer; never half a character."""

    text: str
    logprobs: tuple[TextLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of a tool call of one choice: the first piece has id and name, later pieces have more of the arguments' JSON."""

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
    """The client's stop string that ended the choice; None where something else ended it."""
    choice: int = 0
    tokens: tuple[int, ...] = ()
    """Prompt and answer as token ids, where the request has `with_tokens`."""
    invalid_calls: tuple[str, ...] = ()
    """Names of the tools that are called with arguments that violate their schema, one per call."""
    invalid_answer: bool = False
    """Whether the answer violates the client's JSON schema."""


AnswerDelta: TypeAlias = TextDelta | ThoughtDelta | ToolCallDelta
"""A piece of one choice."""
AnswerEvent: TypeAlias = Started | AnswerDelta | ChoiceEnd
"""One `Started`, any number of deltas, and one `ChoiceEnd` per choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call of the model."""

    name: str
    arguments: str
    """JSON as the model wrote it."""
    id: str = ""

    def extend_by(self, delta: ToolCallDelta) -> "ToolCall":
        """Return the call extended by its next piece."""
        return ToolCall(id=self.id + delta.id, name=self.name + delta.name, arguments=self.arguments + delta.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedChoice:
    """One finished choice: its text, its tokens' logprobs in order, its tool calls, and its end."""

    text: str
    logprobs: tuple[TextLogprob, ...]
    end: ChoiceEnd
    tool_calls: tuple[ToolCall, ...] = ()
    thoughts: str = ""
    """The model's thoughts before the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer, choices in order."""

    choices: tuple[CompletedChoice, ...]


async def fold(events: AsyncIterable[AnswerEvent]) -> Completion:
    """Collect a stream of events into a completion; raises what the stream raises."""
    deltas: dict[int, list[TextDelta | ThoughtDelta]] = {}
    calls: dict[int, dict[int, ToolCall]] = {}
    ends: dict[int, ChoiceEnd] = {}
    async for event in events:
        if isinstance(event, ChoiceEnd):
            ends[event.choice] = event
        elif isinstance(event, ToolCallDelta):
            calls_of_choice = calls.setdefault(event.choice, {})
            calls_of_choice[event.index] = calls_of_choice.get(event.index, ToolCall(name="", arguments="")).extend_by(event)
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
    """The assistant's tool calls in this turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call."""

    name: str
    function: str
    """The function object as JSON: name, description, parameters, as the client wrote them."""
    parameters: str = "{}"
    """The JSON schema of its arguments, as JSON."""
    strict: bool = False
    """Whether the client is promised that arguments keep to the schema."""


class Ending(Enum):
    """How the prompt of a conversation ends."""

    OPENED = "opened"
    """With the mark that begins the assistant's turn."""
    CONTINUED = "continued"
    """With the last message's text, its turn still open: the answer continues it."""
    CLOSED = "closed"
    """With the end of the last message; no turn is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation that the model's chat format renders."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    template: str = ""
    """A template in Ollama's language to use in place of the model's own."""
    context: tuple[int, ...] = ()
    """Token ids of the conversation so far; `messages` continue it."""
    ending: Ending = Ending.OPENED
    opening: str = ""
    """Text that the prompt puts before the answer; it is no part of the answer, and control tokens in it count as such."""
    think: bool | None = None
    """Whether the prompt asks the model to think first, for formats that have a switch for it; None: the format's default."""

    @property
    def prefill(self) -> str:
        """The beginning of the answer as the client wrote it; empty where it wrote none."""
        return self.messages[-1].content if self.ending is Ending.CONTINUED else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawText:
    """Text given to the model unchanged; control tokens spelled in it count as such."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTokens:
    """Token ids given to the model unchanged."""

    ids: tuple[int, ...]


Prompt: TypeAlias = Chat | RawText | RawTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A prompt in the form that engines get."""

    ids: tuple[int, ...]
    text: str
    """The text of the ids, control tokens included."""
    context_length: int
    """Most tokens of prompt and answer together that a group takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDecision:
    """The task of a request, and why."""

    task: Task
    reason: str
    """A slug; see `serve_app.routing.tasks`."""
    probabilities: Mapping[Task, float] = field(default_factory=dict)
    """Probability of each considered task; empty when none was considered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePreview:
    """The route that a request would take."""

    decision: TaskDecision
    model: str
    """The own name of the model that would answer."""
    model_reason: str
    """Why: `named` (by the client), `default` (the client named none), `group` (the client named its group), `task`,
    `conversation` (an earlier turn's task), or `auto-fallback` (the task's model cannot answer now)."""
    candidates: tuple[str, ...]
    """Groups in the order in which they would be tried; empty when none is ready."""
    reason: str
    """Why the first is first; see `Policy.choose`. The error's code where there are no candidates."""
    prompt_tokens: int
    """Tokens of all prompts."""
    answer_tokens: int
    """Tokens that all answers may have together, as quotas count them in advance."""


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
    """The form of answers that a client wants. The chat format turns it into a constraint."""

    tool_choice: ToolChoice = ToolChoice.AUTO
    callable: tuple[str, ...] = ()
    """Names of the offered tools that may be called; empty: all of them."""
    parallel: bool = True
    """Whether an answer may call several tools."""
    format: Constraint | None = None
    """Constraint of an answer that calls no tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A dialect's request to the gateway: one or more prompts, `n` choices of each. Without prompts it only checks the route.

    Choice numbers run prompt by prompt: choice `p * n + k` is the k-th answer to prompt p.
    """

    request_id: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling = field(default_factory=Sampling)
    form: AnswerForm = field(default_factory=AnswerForm)
    explicit: frozenset[str] = frozenset()
    """Fields of `sampling`, and `stop`, that the client set; a model variant's parameters fill in the other fields."""
    model: str | None = None
    """The model's name as the client wrote it; None: the default model."""
    demands_model: bool = False
    """Whether the client's API demands a model's name."""
    stop: tuple[str, ...] = ()
    n: int = 1
    window: int | None = None
    """Most tokens of prompt and answer together that the client wants; a conversation's oldest turns are dropped to fit. None: the
    group's context, and no turn is dropped."""
    one_call: bool = False
    """End an answer where a second tool call begins: the client's protocol allows one call."""
    echo: bool = False
    """Put the prompt's text before the answer."""
    think: bool | None = None
    """Whether the model should think before it answers; None: the model decides."""
    with_tokens: bool = False
    """Return prompt and answer as token ids in `ChoiceEnd.tokens`."""
    task: Task | None = None
    """The client's choice, which wins over classification."""
    group: str | None = None
    """The client's choice of an engine group, which wins over every preference."""
    session: str | None = None
    """The client's name of the conversation; its requests go to one replica while this is not overloaded."""
    timeout_s: float | None = None
