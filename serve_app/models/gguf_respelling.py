"""Copies a GGUF file of another converter with its tokens respelled, so that llama.cpp's server streams every token id.

Such a file spells tokens differently from ours (`serve_app.files.gguf_vocabulary`). A copy in the cache has our spelling; all other
keys and the tensors' bytes are unchanged. Knows no engine; knows nothing of the tensors' meaning.
"""

import hashlib
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from serve_app.chat.vocabulary import TokenizerFile, read_tokenizer_file
from serve_app.errors import ModelUnusable
from serve_app.files.cache import Progress, cache_dir, hash_content, ignore_progress, write_cached_folder
from serve_app.files.gguf_header import Header, read_header
from serve_app.files.gguf_vocabulary import (
    TOKENS_KEY,
    TURN_END_KEY,
    TYPES_KEY,
    GgufVocabulary,
    build_gguf_vocabulary,
    has_our_spelling,
    read_token_list,
    require_same_ids,
)
from serve_app.models import manifest

logger = logging.getLogger(__name__)

_FORMAT = "stray bytes in the private use area, eot"
"""Part of the cache key; change it whenever the copy's content changes."""
_COPIED_FILES = ("config.json", "generation_config.json", "tokenizer.json")
"""Files that the engine reads beside the GGUF file."""
_KEYED_FILES = (*_COPIED_FILES, "added_tokens.json", "tokenizer_config.json")
_PIECE_BYTES = 1 << 22
_SMALL_FILES_BYTES = 1 << 26
"""Upper bound of tokenizer and manifest."""
_EMBEDDING = "token_embd.weight"
_SCORES = "tokenizer.ggml.scores"
_UINT32, _INT32, _STRING, _ARRAY = 4, 5, 8, 9


def prepare(file: Path, model_dir: Path, progress: Progress = ignore_progress) -> Path:
    """Return a cached folder with `file`, under its own name and in our spelling, and the model's tokenizer.

    `model_dir` has the model's tokenizer and configuration, and need not have weights. A file in our spelling is linked; another is
    copied once, piece by piece. Raises `ModelUnusable` for a damaged file or one of another model, and when the disk cannot hold
    the copy.
    """
    progress("reading the GGUF file", 0.0)
    header = read_header(file)
    cache = cache_dir() / "gguf"
    copy = cache / f"{_fingerprint(hash_content(file), file.name, model_dir)}-respelled"
    if manifest.is_whole(copy):
        return copy
    tokenizer_file = read_tokenizer_file(model_dir)
    own = _build_vocabulary(header, model_dir, tokenizer_file, file.name)
    require_same_ids(header.keys, own, tokenizer_file, file.name)
    if has_our_spelling(header.keys, own):
        link = cache / f"{_fingerprint(str(file.absolute()), file.name, model_dir)}-linked"
        return write_cached_folder(link, f"linking {file.name}", lambda folder: _write_link(file, model_dir, folder))

    def write(folder: Path) -> None:
        _require_room(file, folder)
        logger.info("copying %s with its tokens respelled, once; later starts use the cache", file.name)
        _copy_beside(model_dir, folder)
        _write_copy(file, header, own, folder / file.name, lambda done: progress(f"copying {file.name}", done))
        manifest.write(folder, {"format": "gguf", "source": file.name})

    return write_cached_folder(
        copy,
        f"copying {file.name}, {_format_gib(file)} GiB, with its tokens respelled",
        write,
        is_whole=manifest.is_whole,
        on_wait=lambda: progress("waiting for another replica's copy", 0.0),
    )


def _write_link(file: Path, model_dir: Path, folder: Path) -> None:
    """Put a link to the file, and the model's tokenizer, into the empty `folder`."""
    _copy_beside(model_dir, folder)
    (folder / file.name).symlink_to(file.absolute())


def _copy_beside(model_dir: Path, folder: Path) -> None:
    for name in _COPIED_FILES:
        if (model_dir / name).exists():
            shutil.copyfile(model_dir / name, folder / name)


def _build_vocabulary(header: Header, model_dir: Path, tokenizer_file: TokenizerFile, name: str) -> GgufVocabulary:
    """Return the model's vocabulary in our spelling, with one entry for each row of the embedding, as llama.cpp requires."""
    embedding = header.tensors.get(_EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise ModelUnusable(f"{name} has no matrix {_EMBEDDING}; it is not a whole language model")
    if header.keys.get("split.count", 1) not in (0, 1):
        raise ModelUnusable(f"{name} is one part of several; join them with `llama-gguf-split --merge` and name the result")
    if header.keys.get("tokenizer.ggml.model") != "gpt2":
        raise ModelUnusable(f"{name} has no byte-level BPE tokenizer; the file belongs to another model")
    tokens, rows = len(read_token_list(header.keys)[0]), embedding.shape[1]
    try:
        return build_gguf_vocabulary(model_dir, rows, tokenizer_file)
    except ModelUnusable as error:
        raise ModelUnusable(f"{name} has {rows} rows in {_EMBEDDING} and {tokens} tokens; {error.message}") from error


def _fingerprint(source: str, name: str, model_dir: Path) -> str:
    """Return a hash of everything that the folder depends on."""
    digest = hashlib.blake2b(f"{_FORMAT};{source};{name};".encode(), digest_size=8)
    for beside in _KEYED_FILES:
        path = model_dir / beside
        digest.update(f"{beside}:{hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ''};".encode())
    return digest.hexdigest()


def _require_room(file: Path, folder: Path) -> None:
    """Raise `ModelUnusable` when the disk of `folder` cannot hold a copy of the file."""
    free = shutil.disk_usage(folder).free
    if file.stat().st_size + _SMALL_FILES_BYTES > free:
        raise ModelUnusable(
            f"{file.name} needs a copy of {_format_gib(file)} GiB in the cache, with its tokens respelled, and "
            f"{free / 2**30:.1f} GiB are free; make room, or set PHI_SERVE_CACHE to a folder on another disk"
        )


def _format_gib(file: Path) -> str:
    return f"{file.stat().st_size / 2**30:.1f}"


def _write_copy(file: Path, header: Header, own: GgufVocabulary, target: Path, report: Callable[[float], None]) -> None:
    """Copy `file` with the vocabulary replaced; the tensors' offsets count from the beginning of the data and stay valid."""
    replaced = {
        TOKENS_KEY: _encode_strings(own.tokens),
        TYPES_KEY: _encode_int32s(own.types),
        TURN_END_KEY: struct.pack("<II", _UINT32, own.turn_end),
    }
    keys = [*header.spans, *(key for key in replaced if key not in header.spans)]
    if _SCORES in keys and len(header.keys[_SCORES]) != len(own.tokens):  # byte-level BPE does not use scores
        keys.remove(_SCORES)
    size = file.stat().st_size
    with file.open("rb") as source, target.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", header.version, len(header.tensors), len(keys)))
        for key in keys:
            if key in replaced:
                out.write(_encode_string(key) + replaced[key])
            else:
                _copy_bytes(source, out, *header.spans[key])
        _copy_bytes(source, out, *header.entries)
        out.write(bytes(-out.tell() % header.alignment))
        _copy_bytes(source, out, header.data_begin, size, report)


def _copy_bytes(source: BinaryIO, out: BinaryIO, begin: int, end: int, report: Callable[[float], None] = lambda _: None) -> None:
    """Copy the bytes from `begin` up to `end`; raises `ModelUnusable` when the file ends earlier."""
    source.seek(begin)
    at = begin
    while at < end:
        piece = source.read(min(_PIECE_BYTES, end - at))
        if not piece:
            raise ModelUnusable("the GGUF file became shorter while it was read; start again when it is complete")
        out.write(piece)
        at += len(piece)
        report((at - begin) / (end - begin))


def _encode_string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _encode_strings(texts: tuple[str, ...]) -> bytes:
    return struct.pack("<IIQ", _ARRAY, _STRING, len(texts)) + b"".join(map(_encode_string, texts))


def _encode_int32s(values: tuple[int, ...]) -> bytes:
    return struct.pack(f"<IIQ{len(values)}i", _ARRAY, _INT32, len(values), *values)
