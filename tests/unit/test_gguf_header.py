"""GGUF headers that lie: refused by name, in bounded time and memory, before llama.cpp sees the file."""

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.errors import ModelUnusable
from serve_app.files.gguf_header import read_header

U32, STRING, ARRAY = 4, 8, 9
HUGE = 2**63


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: bytes = b"a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: tuple[bytes, ...] = (tensor(),),
    keys: tuple[bytes, ...] = (key(b"k", U32, struct.pack("<I", 7)),),
    tensor_count: int | None = None,
    key_count: int | None = None,
    data: int = 128,
) -> bytes:
    counts = (len(tensors) if tensor_count is None else tensor_count, len(keys) if key_count is None else key_count)
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data)


def test_an_honest_header_is_read(tmp_path: Path) -> None:
    words = array(STRING, 2, text(b"one") + text("zwölf".encode()))
    path = tmp_path / "a.gguf"
    path.write_bytes(
        file(
            keys=(key(b"n", U32, struct.pack("<I", 7)), key(b"w", ARRAY, words), key(b"s", STRING, text(b"x"))),
            tensors=(tensor(), tensor(b"b", (32, 2), kind=8, offset=128)),
            data=128 + 68,
        )
    )
    header = read_header(path)
    assert header.keys == {"n": 7, "w": ["one", "zwölf"], "s": "x"}
    assert {name: (entry.shape, entry.type, entry.bytes) for name, entry in header.tensors.items()} == {
        "a": ((32,), "F32", 128),
        "b": ((32, 2), "Q8_0", 68),
    }


LIES: dict[str, tuple[bytes, str]] = {
    "another format": (file(magic=b"GGML"), "does not begin with GGUF"),
    "an unknown version": (file(version=9), "its version is 9"),
    "the other byte order": (file(version=3 << 24), "its version is"),
    "no tensors": (file(tensors=()), "claims 0 tensors"),
    "huge tensor count": (file(tensor_count=HUGE), "claims 9223372036854775808 tensors"),
    "huge key count": (file(key_count=HUGE), "and 9223372036854775808 keys"),
    "more tensors than there are": (file(tensor_count=50), "dimensions|beyond the file|limit"),
    "more keys than there are": (file(key_count=50), "beyond the file|unknown type|limit|twice"),
    "huge key name": (file(keys=(text(b"k", HUGE),)), "over the limit"),
    "huge string": (file(keys=(key(b"k", STRING, text(b"", HUGE)),)), "beyond the file"),
    "huge list of strings": (file(keys=(key(b"k", ARRAY, array(STRING, HUGE)),)), "over the limit"),
    "huge list of numbers": (file(keys=(key(b"k", ARRAY, array(0, HUGE)),)), "over the limit"),
    "list longer than the file": (file(keys=(key(b"k", ARRAY, array(STRING, 1 << 20)),)), "beyond the file"),
    "list of lists": (file(keys=(key(b"k", ARRAY, array(ARRAY, 1)),)), "unknown type 9"),
    "unknown value type": (file(keys=(key(b"k", 99, b""),)), "unknown type 99"),
    "a key twice": (file(keys=(key(b"k", U32, bytes(4)),) * 2), "is there twice"),
    "a tensor twice": (file(tensors=(tensor(),) * 2), "is there twice"),
    "no dimensions": (file(tensors=(tensor(shape=()),)), "has 0 dimensions"),
    "five dimensions": (file(tensors=(tensor(shape=(32,) * 5),)), "has 5 dimensions"),
    "an empty dimension": (file(tensors=(tensor(shape=(32, 0)),)), "shape"),
    "half a block": (file(tensors=(tensor(shape=(33,), kind=8),)), "shape"),
    "huge dimensions": (file(tensors=(tensor(shape=(HUGE, HUGE, HUGE, HUGE)),)), "cut short"),
    "unknown tensor type": (file(tensors=(tensor(kind=999),)), "unknown type 999"),
    "removed tensor type": (file(tensors=(tensor(kind=4),)), "unknown type 4"),
    "long tensor name": (file(tensors=(tensor(b"n" * 64),)), "over the limit"),
    "offset beyond the file": (file(tensors=(tensor(offset=1 << 40),)), "cut short"),
    "offset not aligned": (file(tensors=(tensor(offset=4),)), "not aligned"),
    "offset that wraps": (file(tensors=(tensor(offset=2**64 - 32),)), "cut short"),
    "tensors that overlap": (file(tensors=(tensor(), tensor(b"b", offset=96))), "inside another"),
    "absurd alignment": (file(keys=(key(b"general.alignment", U32, bytes(4)),)), "alignment"),
    "alignment of another type": (file(keys=(key(b"general.alignment", STRING, text(b"32")),)), "alignment"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_by_name_cheaply(name: str, tmp_path: Path) -> None:
    content, message = LIES[name]
    path = tmp_path / "lie.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ModelUnusable, match=rf"^lie\.gguf is not a valid GGUF file: .*({message}).*; export or fetch it again$"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.timeout(60)
def test_a_large_file_of_nothing_is_refused_cheaply(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as stream:
        stream.write(file(keys=(key(b"k", ARRAY, array(STRING, 1 << 22)),), data=0))
        stream.truncate(64 << 30)
    tracemalloc.start()
    with pytest.raises(ModelUnusable, match="not a valid GGUF file"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 256 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_bytes(b""), Path.mkdir])
def test_what_is_no_file_is_told(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    make(path)
    with pytest.raises(ModelUnusable, match=r"no\.gguf cannot be read as a GGUF file"):
        read_header(path)


HONEST = file(keys=(key(b"w", ARRAY, array(STRING, 2, text(b"one") + text(b"two"))), key(b"n", U32, bytes(4))))


@pytest.mark.parametrize("length", range(len(HONEST)))
def test_every_truncation_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(HONEST[:length])
    with pytest.raises(ModelUnusable):
        read_header(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_read_but_never_worse(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(HONEST)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with suppress(ModelUnusable):
        assert read_header(path).tensors
