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
    assert not any(cls.retryable for cls in _leaves(errors.RequestError))
    assert all(400 <= cls.status < 500 for cls in _leaves(errors.RequestError))


def test_the_unforeseen_is_anonymous() -> None:
    assert errors.internal_error("r-1").message == "Internal error. Quote request r-1 when you report it."
