"""`auto`: which model the task and the conversation choose."""

import pytest

from serve_app.config import RoutingSettings
from serve_app.conversation import Chat, Message, Prompt, RawText, RawTokens, TaskDecision, Tool
from serve_app.routing import auto
from serve_app.routing.auto import choose_model
from serve_app.types import Task

CODE = "Write a Python function that reverses a linked list, with type hints and a docstring."
SUM = "What is 17 * 24 + 3 * 12? Compute the result step by step."
CHAT = "Good morning! Tell me a story about a friendly dragon who loves the sea."
SETTINGS = RoutingSettings(auto={Task.CODING: "coder", Task.MATH: "reasoner", Task.GENERAL: "chat"})


def _conversation(*turns: str, tools: tuple[Tool, ...] = ()) -> Chat:
    messages = [Message(role="user" if at % 2 == 0 else "assistant", content=turn) for at, turn in enumerate(turns)]
    return Chat(messages=tuple(messages), tools=tools)


def _choose(prompt: Prompt | None, task: Task | None = None, **settings: object) -> tuple[str | None, str]:
    choice = choose_model(SETTINGS.model_copy(update=settings), task, prompt)
    return choice.names[0], choice.reason


@pytest.mark.parametrize(("text", "model"), [(CODE, "coder"), (SUM, "reasoner"), (CHAT, "chat")])
def test_the_task_chooses(text: str, model: str) -> None:
    assert _choose(RawText(text=text)) == _choose(_conversation(text)) == (model, "task")


def test_a_task_that_is_not_listed_gets_the_model_of_general_else_the_first() -> None:
    tool = Tool(name="f", function='{"name": "f"}')
    assert _choose(_conversation(CODE, tools=(tool,))) == ("chat", "task")
    assert _choose(RawText(text=CHAT), auto={Task.MATH: "reasoner"}) == (None, "task")


def test_the_clients_task_wins_and_a_prompt_without_text_is_general() -> None:
    assert _choose(_conversation(CHAT, "Once", "Go on."), Task.CODING) == ("coder", "task")
    assert _choose(RawTokens(ids=(1, 2))) == _choose(None) == ("chat", "task")


FOLLOW_UP = "Thank you very much, that was really helpful!"


def test_a_conversation_keeps_its_model_until_a_task_is_clear() -> None:
    assert _choose(_conversation(CODE, "def reverse(): ...", FOLLOW_UP)) == ("coder", "conversation")
    assert _choose(_conversation(SUM, "444", "ok", "Fine.", FOLLOW_UP)) == ("reasoner", "conversation")
    assert _choose(_conversation(CODE, "def reverse(): ...", SUM)) == ("reasoner", "task")
    assert _choose(_conversation(CODE, "def reverse(): ...", SUM, "444", FOLLOW_UP)) == ("reasoner", "conversation")


def test_how_clear_a_task_must_be_is_configured() -> None:
    assert _choose(_conversation(CODE, "def reverse(): ...", SUM), auto_switch=1.0) == ("coder", "conversation")
    assert _choose(_conversation(CODE, "def reverse(): ...", FOLLOW_UP), auto_switch=0.0) == ("chat", "task")


def test_fallbacks_follow_without_the_chosen_one() -> None:
    settings = SETTINGS.model_copy(update={"auto_fallback": ("chat", "coder")})
    assert choose_model(settings, None, RawText(text=CODE)).names == ("coder", "chat")


def test_a_long_conversation_is_classified_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    classified: list[int] = []

    def count(prompt: Prompt, threshold: float) -> TaskDecision:
        assert isinstance(prompt, Chat)
        classified.append(len(prompt.messages))
        return TaskDecision(task=Task.GENERAL, reason="abstained")

    monkeypatch.setattr(auto, "classify", count)
    turns = [CODE, "ok"] + ["ok", "ok"] * 500 + [FOLLOW_UP]
    assert _choose(_conversation(*turns), auto_switch=1.0)[0] == "chat"
    assert classified == list(range(len(turns) - 2, len(turns) - 34, -2))
