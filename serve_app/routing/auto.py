"""Chooses the model of a request for `auto` by the request's task. Pure; knows models by name only.

A conversation keeps its model until a turn's task changes clearly. The turns themselves show which model answered before, so
ingresses keep no state: every replica, also after a restart, chooses the same model for the same conversation.
"""

from dataclasses import dataclass, replace

from serve_app.config import RoutingSettings
from serve_app.conversation import Chat, Prompt, TaskDecision
from serve_app.errors import CapacityError, DeadlineExceeded, EngineError, ModelUnusable, ServeError
from serve_app.routing.tasks import classify, decide
from serve_app.types import Task

_MAX_TURNS = 16
"""Earlier turns of the user that are classified at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The models to try for one request."""

    names: tuple[str | None, ...]
    """Best first; None: the first configured model."""
    reason: str
    """Why the first is first: `named` (by the client), `default` (the client named none), `group` (the client named a group of
    it), `task` (it is the task's model), or `conversation` (an earlier turn's task chose it)."""


def choose_model(settings: RoutingSettings, given: Task | None, prompt: Prompt | None) -> ModelChoice:
    """Return the models for a request for `auto`; `given` is the client's own choice of a task, None without one."""
    decision = _GENERAL if prompt is None else decide(given, prompt, settings.task_threshold)
    name = settings.find_auto_model(decision.task)
    chosen = name if prompt is None else _find_conversation_model(settings, decision, prompt)
    fallbacks = tuple(model for model in settings.auto_fallback if model != chosen)
    return ModelChoice(names=(chosen, *fallbacks), reason="task" if chosen == name else "conversation")


_GENERAL = TaskDecision(task=Task.GENERAL, reason="no-text")


def _find_conversation_model(settings: RoutingSettings, decision: TaskDecision, prompt: Prompt) -> str | None:
    """Return the model of the latest turn with a clear task, else the first turn's."""
    name = settings.find_auto_model(decision.task)
    if not isinstance(prompt, Chat) or prompt.tools or _is_clear(decision, settings.auto_switch):
        return name
    turns = [at for at, message in enumerate(prompt.messages) if message.role == "user"]
    for at in reversed(turns[-1 - _MAX_TURNS : -1]):
        earlier = classify(replace(prompt, messages=prompt.messages[: at + 1]), settings.task_threshold)
        name = settings.find_auto_model(earlier.task)
        if _is_clear(earlier, settings.auto_switch):
            break
    return name


def _is_clear(decision: TaskDecision, least: float) -> bool:
    """Return whether a turn's task is sure enough to change the conversation's model."""
    if least == 0 or decision.reason in ("requested", "tools"):
        return True
    return decision.reason == "classified" and decision.probabilities[decision.task] >= least


def choose_failure(first: ServeError | None, error: ServeError) -> ServeError:
    """Return the failure of a request that one more model has not answered; raises `error` where no other model may be tried.

    That a model which only stands in refuses the request says nothing about the request: the first model would take it later.
    """
    if isinstance(error, DeadlineExceeded):
        raise error
    if isinstance(error, CapacityError | EngineError | ModelUnusable):
        return error
    if first is None:
        raise error
    return first
