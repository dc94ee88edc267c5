"""What operators do to the file of keys: what a hostile review found."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.access.check import Access
from serve_app.access.keys import FormerKey, Key, KeyFile, KeyList, KeysUnusable, hash_key, now, parse_keys, read_keys
from serve_app.access_config import AccessSettings
from serve_app.client.keys import keys
from serve_app.errors import Unauthenticated


def _cli(*arguments: str) -> str:
    result = CliRunner().invoke(keys, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.stdout.strip()


def _ask(file: Path, key: str) -> str:
    return Access(AccessSettings(keys_file=str(file))).identify({"x-api-key": key}).name


def test_rotate_does_not_revive_a_revoked_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    leaked = _cli("create", "bob", "--file", str(file))
    _cli("revoke", "bob", "--file", str(file))
    fresh = _cli("rotate", "bob", "--keep", "7d", "--file", str(file))
    assert _ask(file, fresh) == "bob"
    with pytest.raises(Unauthenticated):
        _ask(file, leaked)


def test_rotating_an_expired_key_prints_a_key_that_works_or_says_so(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _cli("create", "bob", "--expires", "2020-01-01", "--file", str(file))
    fresh = _cli("rotate", "bob", "--file", str(file))
    assert not fresh or _ask(file, fresh) == "bob"


def test_rotating_twice_keeps_the_promise_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = _cli("create", "bob", "--file", str(file))
    _cli("rotate", "bob", "--keep", "7d", "--file", str(file))
    refused = _cli("rotate", "bob", "--keep", "7d", "--file", str(file))
    assert not refused or _ask(file, first) == "bob"


@pytest.mark.parametrize("given", ["", ",", " "])
def test_an_empty_list_of_models_is_not_all_models(tmp_path: Path, given: str) -> None:
    """`--models "$MODELS"` where the variable is empty."""
    file = tmp_path / "keys.json"
    _cli("create", "bob", "--models", given, "--file", str(file))
    found = read_keys(file).find("bob")
    assert found is None or found.models


def test_a_change_keeps_the_owner(tmp_path: Path) -> None:
    """`sudo phi-serve keys revoke bob`: the ingress cannot read the new file, and the revoked key stays valid."""
    if os.getuid():
        pytest.skip("only root can give files away")
    file = tmp_path / "keys.json"
    _cli("create", "bob", "--file", str(file))
    os.chown(file, 12345, 12345)
    _cli("revoke", "bob", "--file", str(file))
    assert file.stat().st_uid == 12345


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "shared.json", tmp_path / "keys.json"
    _cli("create", "bob", "--file", str(real))
    link.symlink_to(real)
    _cli("revoke", "bob", "--file", str(link))
    assert read_keys(real).keys[0].revoked is not None


@pytest.mark.parametrize("arguments", [("--file", "."), ("--file", "/"), ("--file", "")])
def test_odd_files_are_no_tracebacks(arguments: tuple[str, ...]) -> None:
    _cli("create", "bob", *arguments)


def test_a_configuration_that_is_no_text_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    _cli("list", "--config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize("name", ["none", "anonymous"])
def test_names_of_nobody_are_not_names_of_keys(tmp_path: Path, name: str) -> None:
    file = tmp_path / "keys.json"
    _cli("create", name, "--file", str(file))
    assert not read_keys(file).keys


def test_a_former_key_is_nobody_elses() -> None:
    raw = KeyList.model_construct(
        version=1,
        keys=(
            Key(name="a", sha256="1" * 64),
            Key(name="b", sha256="2" * 64, former=(FormerKey(sha256="1" * 64, expires=now() + timedelta(days=1)),)),
        ),
    ).model_dump_json()
    with pytest.raises(KeysUnusable, match="same hash"):
        parse_keys(raw.encode())


def test_a_faulty_big_file_is_not_parsed_every_second_on_the_loop(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    entries = tuple(Key(name=f"k{at}", sha256=hash_key(str(at))) for at in range(20_000))
    good = KeyList(keys=entries).model_dump_json()
    file.write_text(good[:-2] + ',{"name":"x"}]}')
    times = [0.0]
    found = KeyFile(file, clock=lambda: times[0])
    spent = []
    for at in range(4):
        times[0] = 2.0 * at
        began = time.perf_counter()
        assert found.refresh()
        spent.append(time.perf_counter() - began)
    assert max(spent[1:]) < spent[0] / 5, spent  # only the first look parses it


def test_the_door_stays_shut_for_a_dangling_link(tmp_path: Path) -> None:
    """A secret that is not mounted yet: other faults of the file shut the door."""
    file = tmp_path / "keys.json"
    file.symlink_to(tmp_path / "missing.json")
    assert KeyFile(file).refresh()
