"""The file of keys as the application reads it, while it changes, is faulty or is away."""

import os
from pathlib import Path

import pytest

from serve_app.access.check import Access
from serve_app.access.keys import Key, changing_keys, now
from serve_app.access_config import AccessSettings
from serve_app.caller import ANONYMOUS
from serve_app.errors import Forbidden, Unauthenticated
from tests.unit.test_access import SECRETS, list_keys


def _identify(access: Access, key: str) -> str:
    return access.identify({"authorization": f"Bearer {SECRETS[key]}"}).name


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_change_of_the_file_counts_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, clock = tmp_path / "keys.json", _Clock()
    access = Access(AccessSettings(keys_file=str(file)))
    monkeypatch.setattr(access._keys, "_clock", clock)
    assert access.identify({}) is ANONYMOUS
    file.write_text(list_keys().model_dump_json())
    clock.now += 1.1
    with pytest.raises(Unauthenticated, match="asks for an API key"):
        access.identify({})
    assert _identify(access, "user") == "user"
    with changing_keys(file) as keys:
        at = next(at for at, key in enumerate(keys) if key.name == "user")
        keys[at] = keys[at].model_copy(update={"revoked": now()})
    clock.now += 1.1
    with pytest.raises(Unauthenticated, match="revoked"):
        _identify(access, "user")
    assert _identify(access, "phi") == "phi"


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2, "keys": []}', b'{"keys": [{"name": "a"}]}', b"\xff\xfe"])
def test_a_faulty_file_opens_no_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    file, clock = tmp_path / "keys.json", _Clock()
    file.write_bytes(content)
    access = Access(AccessSettings(keys_file=str(file)))
    with pytest.raises(Unauthenticated):
        access.identify({})
    file.write_text(list_keys().model_dump_json())
    monkeypatch.setattr(access._keys, "_clock", clock)
    clock.now = 1e9
    assert _identify(access, "user") == "user"
    file.write_bytes(content)
    clock.now += 2
    assert _identify(access, "user") == "user"  # the last good keys
    file.unlink()
    clock.now += 2
    with pytest.raises(Unauthenticated, match="Incorrect"):
        _identify(access, "user")


def test_without_keys_only_loopback_is_served(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    exposed = Access(AccessSettings(keys_file=str(file)), exposed=["0.0.0.0:8000"])
    with pytest.raises(Forbidden, match="phi-serve keys create") as refused:
        exposed.identify({})
    assert "access: open" in refused.value.message
    assert Access(AccessSettings(keys_file=str(file), open=True), exposed=["0.0.0.0:8000"]).identify({}) is ANONYMOUS
    file.write_text(list_keys().model_dump_json())
    assert _identify(Access(AccessSettings(keys_file=str(file)), exposed=["0.0.0.0:8000"]), "user") == "user"


def test_the_file_is_private_and_changed_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "keys.json"
    with changing_keys(file) as keys:
        keys.append(Key(name="a", sha256="0" * 64))
    assert file.stat().st_mode & 0o777 == 0o600
    os.chmod(file, 0o444)
    before = file.read_bytes()
    with pytest.raises(AttributeError), changing_keys(file) as keys:
        keys.clear().nothing  # type: ignore[attr-defined]  # noqa: B018
    assert file.read_bytes() == before
    with changing_keys(file) as keys:
        keys.append(Key(name="b", sha256="1" * 64))
    assert file.stat().st_mode & 0o777 == 0o444
    assert sorted(path.name for path in file.parent.iterdir()) == ["keys.json", "keys.json.lock"]
