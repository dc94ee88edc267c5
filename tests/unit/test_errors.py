"""Errors survive pickling whole, as they must to cross Ray."""

import pickle

import pytest

from serve_app import errors


def _leaves(cls: type[errors.ServeError]) -> list[type[errors.ServeError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _leaves(sub))]


@pytest.mark.parametrize("cls", _leaves(errors.ServeError))
def test_type_message_and_extras_survive_pickling(cls: type[errors.ServeError]) -> None:
    error = pickle.loads(pickle.dumps(cls("what to do", retry_after_s=2.0, param="n")))
    assert type(error) is cls
    assert (error.message, error.retry_after_s, error.param) == ("what to do", 2.0, "n")


def test_clients_mistakes_are_never_retryable() -> None:
    assert [cls for cls in _leaves(errors.RequestError) if cls.retryable] == [errors.ConstraintLost]  # by another engine, unasked
    assert all(400 <= cls.status < 500 for cls in _leaves(errors.RequestError))


def test_the_unforeseen_is_anonymous() -> None:
    assert errors.internal_error("r-1").message == "Internal error. Quote request r-1 when you report it."


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (errors.ModelUnusable("config.json says no; fetch it again"), "config.json says no; fetch it again"),
        (ValueError("no room in /srv/models/phi/model.onnx for it"), "ValueError: no room in model.onnx for it"),
        (OSError(2, "No such file", "/a/b/c.json"), "FileNotFoundError: [Errno 2] No such file: 'c.json'"),
        (ValueError("in dir:/home/u/x/y and file:///home/u/model/x.bin"), "ValueError: in dir:y and x.bin"),
        (RuntimeError("\n  first\nsecond"), "RuntimeError: first"),
        (RuntimeError("see https://x.org/a/b and a/b"), "RuntimeError: see https://x.org/a/b and a/b"),
        (KeyError(), "KeyError; the replica's log says more"),
        (RuntimeError("x" * 900), "RuntimeError: " + "x" * 286),
    ],
)
def test_a_cause_is_a_sentence_without_folders(error: BaseException, shown: str) -> None:
    assert errors.explain(error) == shown
