"""The task classifier: accuracy on the project's own prompts, its explanations, and the dry run that shows them.

The goals stand in `training.classifier.evaluate`.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from serve_app.cli import app as cli
from serve_app.conversation import Chat, Message, RawText, TaskExample
from serve_app.routing.features import extract
from serve_app.routing.tasks import TaskClassifier, classifier, classify, confusion
from serve_app.types import Task
from tests.unit.app import running
from training.classifier.evaluate import ACCURACY, BLIND, FLIPS, VALIDATION, read_prompts
from training.classifier.generate import generated_rows, lines
from training.classifier.train import read_rows

ROUTE = "/v1/route"


def _task(text: str) -> Task:
    return classify(RawText(text=text)).task


def _accuracy(rows: list[TaskExample]) -> float:
    counts = confusion(rows)
    return sum(row[task] for task, row in counts.items()) / len(rows)


def test_accuracy_and_flips_on_the_projects_own_prompts() -> None:
    prompts = read_prompts()
    assert len(prompts) >= 400
    assert sum(each.lang != "en" for each in prompts) >= len(prompts) / 4
    assert _accuracy([TaskExample(text=each.text, task=each.task) for each in prompts]) >= ACCURACY
    flips = [
        classify(RawText(text=each.text)).task is not classify(RawText(text=twin)).task
        for each in prompts
        for twin in each.twins.values()
    ]
    assert sum(flips) / len(flips) <= FLIPS


def test_training_contains_no_prompt_of_the_evaluation() -> None:
    judged = {text.casefold() for each in read_prompts() for text in (each.text, each.twins["paraphrase"])}
    judged |= {row["text"].casefold() for row in read_rows([BLIND])}
    written = {text.split(" | ")[0].casefold() for kind in ("chats", "choices") for _, _, text in lines(kind)}
    generated = {row["text"].casefold() for row in generated_rows()}
    assert not judged & (written | generated)


def test_accuracy_on_rows_of_others() -> None:
    folder = os.environ.get("ROUTING_DATA")
    if not folder:
        pytest.skip("ROUTING_DATA is not set to the folder of the shared rows")
    rows = [TaskExample(text=row["text"], task=Task(row["task"])) for row in read_rows([Path(folder) / "validation.jsonl"])]
    assert _accuracy(rows) >= VALIDATION


def test_a_follow_up_is_judged_with_what_was_asked_before() -> None:
    asked = Message(role="user", content="Write a function that reverses a linked list in C++.")
    chat = Chat(messages=(asked, Message(role="assistant", content="..."), Message(role="user", content="And in Rust?")))
    assert classify(chat).task is Task.CODING


def test_a_long_text_costs_no_more_than_its_beginning() -> None:
    text = "How many apples are left? " * 200
    assert classify(RawText(text=text)).probabilities == classify(RawText(text=text * 50)).probabilities


@pytest.mark.parametrize("text", ["\u2487", "\ufdfa", "e\u0301", "\U0001f600", "\ud800", "\u3371 ", "\n", "7", ""])
def test_any_characters_have_a_task_however_much_folding_lengthens_them(text: str) -> None:
    for times in (1, 1200, 5000):
        assert _task(text * times) in Task


def test_weights_of_another_layout_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "tasks.npz", format=99, table=np.zeros((3, 4), np.int8))
    with pytest.raises(ValueError, match="train it anew"):
        TaskClassifier.load(tmp_path / "tasks.npz")


def test_the_command_tells_task_and_probabilities_without_a_server() -> None:
    told = CliRunner().invoke(cli, ["route", "What is 15% of 240?"]).output
    assert told.splitlines()[0] == "math (classified)"
    assert all(task in told for task in ("math", "coding", "reasoning", "general"))


async def test_a_dry_run_tells_the_way_and_asks_no_engine() -> None:
    async with running(routing={"prefer": {"coding": ["b", "a"]}}, a={}, b={}) as app:
        text = (await app.client.post(ROUTE, json={"text": "Write a Python function that sorts a list"})).json()
        chat = {"messages": [{"role": "user", "content": "What is 17 * 23?"}]}
        asked = (await app.client.post(ROUTE, json=chat)).json()
        forced = (await app.client.post(ROUTE, json=chat, headers={"x-task": "coding", "x-engine": "a"})).json()
        assert not app.engines["a"].requests
        assert not app.engines["b"].requests
    assert (text["task"], text["candidates"], text["reason"]) == ("coding", ["b", "a"], "preferred")
    assert sum(text["probabilities"].values()) == pytest.approx(1, abs=0.01)
    assert (asked["task"], asked["task_reason"]) == ("math", "classified")
    assert (forced["task"], forced["task_reason"], forced["candidates"]) == ("coding", "requested", ["a"])


async def test_labelled_texts_return_the_confusion_matrix() -> None:
    texts = [{"text": "What is 2 + 3?", "task": "math"}, {"text": "What is 3 + 4?", "task": "general"}]
    async with running(a={}) as app:
        told = (await app.client.post(ROUTE, json={"texts": texts})).json()
        wrong = [
            await app.client.post(ROUTE, content=body) for body in (b"{}", b'{"text":"a","prompt":"b"}', b'{"texts":[]}', b"x")
        ]
    assert (told["texts"], told["accuracy"]) == (2, 0.5)
    assert told["confusion"]["general"]["math"] == 1
    assert [response.status_code for response in wrong] == [400] * 4
    assert all(set(json.loads(response.content)["error"]) == {"message", "type", "param", "code"} for response in wrong)


def test_features_are_those_that_the_weights_were_trained_on() -> None:
    """A change of the features needs new weights, a new `FORMAT` and the new digest here."""
    scripts = [
        "Write f(x) = 7 x 8!",
        "Колко е 17% от 240?",
        "计算 3 + 4 的值。",
        "次の方程式を解いて",
        "गणना करें 5",
        "احسب ٣",
        "คำนวณ",
    ]
    texts = ["", "\n", *scripts, "e\u0301 😀 \ud800", " | ".join(scripts) * 40, "a" * 5000]
    digest = hashlib.sha256()
    for text in texts:
        for rows in extract(text, classifier().lexicon):
            digest.update(np.sort(rows).astype("<i8").tobytes() + b"|")
    assert digest.hexdigest()[:16] == "ec0eea46d35d6e14"
