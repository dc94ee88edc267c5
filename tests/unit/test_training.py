"""The generator of the embedded model's training set: right answers, a clean split, digits as tokens."""

import itertools
from random import Random

import pytest
from tokenizers import Tokenizer

from serve_app.models.locate import EMBEDDED
from training.embedded.conversation import Sampler, is_right
from training.embedded.families import FINITE, MIXTURE, draw, mixture
from training.embedded.families.arithmetic import product_steps, quotient_steps
from training.embedded.families.chat import memory
from training.embedded.families.everyday import GUIDES
from training.embedded.families.text_calls import headed
from training.embedded.families.tutorial import PROGRAMS, examples


@pytest.mark.parametrize("sampler", list(MIXTURE), ids=lambda sampler: sampler.__name__)
def test_reference_answers_pass_their_own_checks(sampler: Sampler) -> None:
    rng = Random(3)
    for _ in range(2 if sampler.__name__ in ("program", "tutorial") else 60):
        example = draw(sampler, rng, held_out=False)
        assert is_right(example.answer, example.check), example
        assert not is_right("", example.check)


def test_every_program_and_every_tutorial_answer_is_right() -> None:
    for task in PROGRAMS.values():
        exec(compile(f"{task.text}\n{task.test}", "<program>", "exec"), {})
    assert len(examples()) == 14
    assert all(is_right(example.answer, example.check) for example in examples())


def test_held_out_problems_are_never_trained_on() -> None:
    trained = {example.messages[:-1] for example in itertools.islice(mixture(11), 4000)}
    turns = {message.content for messages in trained for message in messages if message.role == "user"}
    rng = Random(5)
    for sampler in (sampler for sampler in MIXTURE if sampler not in FINITE):
        example = draw(sampler, rng, held_out=True)
        assert example.messages[:-1] not in trained
        if len(example.messages) == 2:  # with a system message the same words are another problem
            assert example.messages[-2].content not in turns


def test_headings_keep_everything_but_the_roles() -> None:
    rng = Random(2)
    example = draw(memory, rng, held_out=False)
    written = headed(rng, example)
    question, answer = written.messages
    assert (question.role, answer) == ("user", example.messages[-1])
    assert all(f"### {turn.role.capitalize()}:\n{turn.content}" in question.content for turn in example.messages[:-1])


def test_tools_of_guides_can_be_told_apart_and_asked_for() -> None:
    rng = Random(4)
    for guide in GUIDES:
        for sentence in guide.sentences:
            sentence.format(*(slot.draw(rng) for slot in guide.slots))
        assert all(any(f"{{{at}}}" in sentence for sentence in guide.sentences) for at in range(len(guide.slots))), guide.names
    names = [name for guide in GUIDES for name in guide.names.split()]
    assert len(names) == len(set(names))


def test_the_same_seed_gives_the_same_stream() -> None:
    assert list(itertools.islice(mixture(1, long_share=0.1), 50)) == list(itertools.islice(mixture(1, long_share=0.1), 50))
    assert list(itertools.islice(mixture(1), 50)) != list(itertools.islice(mixture(2), 50))


def test_every_equation_of_a_chain_holds() -> None:
    chains = [product_steps(a, b) for a in (2, 37, 99, 105, 5618, 20000) for b in range(2, 13)]
    chains += [quotient_steps(a * b, b) for a in range(1, 31) for b in range(2, 13)]
    for chain in chains:
        assert len({eval(side) for side in chain.split(" = ")}) == 1, chain


def test_every_digit_is_a_token() -> None:
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    assert len(tokenizer.encode("9071234", add_special_tokens=False).ids) == 7
