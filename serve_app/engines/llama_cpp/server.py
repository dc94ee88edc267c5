"""The embedded server: its parameters, memory, socket, health probe and shutdown. Knows no requests."""

import asyncio
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import aiohttp
import xllamacpp

from serve_app.engine_config import LlamaCppSettings
from serve_app.errors import EngineDead, ModelUnusable
from serve_app.files.gguf_header import Header
from serve_app.memory import read_available_bytes

_HTTP_THREADS_SPARE = 4
"""In addition to one for each slot: for probes and for closing connections."""


class _Connector(aiohttp.UnixConnector):
    """Can abort its connections: closing a connector leaves its readers waiting."""

    def __init__(self, socket: Path) -> None:
        # The server closes a connection after its answer, so none is kept.
        super().__init__(path=str(socket), limit=0, force_close=True)
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        connection = await super().connect(*arguments, **options)
        self._connections.add(connection)
        return connection

    def abort(self) -> None:
        """Abort every connection; its reader gets a `ClientError`."""
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abort()


class LlamaServer:
    """A model in llama.cpp's server, reached over a unix socket that only this user may open."""

    def __init__(self, settings: LlamaCppSettings) -> None:
        """Keep the settings; `start` loads."""
        self._settings = settings
        self._server: Any = None
        self._folder: Path | None = None
        self._connector: _Connector | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self, file: Path, header: Header) -> None:
        """Load `file`, whose header is `header`; raises `ModelUnusable` when it does not fit or llama.cpp refuses it."""
        require_gpu(self._settings)
        require_memory(header, self._settings)
        self._folder = Path(tempfile.mkdtemp(prefix="phi-llama-"))  # mode 700: no other user may connect
        socket = self._folder / "s.sock"
        try:
            self._server = await asyncio.to_thread(xllamacpp.Server, _build_params(self._settings, header, file, socket))
        except RuntimeError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise ModelUnusable(f"llama.cpp cannot load {file.name}; is it of an architecture that it knows?") from error
        self.connect(socket)

    def connect(self, socket: Path) -> None:
        """Send requests to the server at `socket` from now on."""
        self._connector = _Connector(socket)
        self._session = aiohttp.ClientSession(connector=self._connector, timeout=aiohttp.ClientTimeout(total=None))

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session for requests; raises `EngineDead` unless the server runs."""
        if self._session is None or self._session.closed:
            raise EngineDead("llama.cpp is not running")
        return self._session

    async def probe(self) -> None:
        """Raise `EngineDead` unless the server's loop answers in time; waits for a step in progress."""
        session, timeout_s = self.session, self._settings.health_timeout_s
        try:
            async with asyncio.timeout(timeout_s), session.get("http://llama/slots") as response:
                await response.read()
        except TimeoutError as error:
            raise EngineDead(f"llama.cpp's loop has not answered for {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise EngineDead(f"llama.cpp's server is dead ({type(error).__name__})") from error
        if response.status != 200:
            raise EngineDead(f"llama.cpp's server answers its probe with status {response.status}")

    async def close(self) -> None:
        """Abort every connection, then end the server, which would wait for open connections."""
        session, self._session = self._session, None
        if session is not None and self._connector is not None:
            self._connector.abort()
            await asyncio.sleep(0)  # lets readers see the abort before the session closes
            await session.close()
        servers, self._server = [self._server], None
        # The server's destructor waits for the step in progress, which may hang; wait no longer than a probe would.
        thread = threading.Thread(target=servers.clear, name="llama-close", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, self._settings.health_timeout_s)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _build_params(settings: LlamaCppSettings, header: Header, file: Path, socket: Path) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.max_model_len
    params.kv_unified = False  # else a long answer would take room from other slots and change their results
    params.ctx_shift = False
    params.fit_params = False
    params.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts outside the slots
    params.n_batch = params.n_ubatch = settings.prefill_chunk
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads or 1
    params.n_threads_http = settings.slots + _HTTP_THREADS_SPARE
    params.n_gpu_layers = settings.gpu_layers
    kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{choose_kv_type(settings, header).upper()}")
    params.cache_type_k = params.cache_type_v = kind
    modes = xllamacpp.llama_flash_attn_type
    on, off = modes.LLAMA_FLASH_ATTN_TYPE_ENABLED, modes.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.flash_attn_type = on if settings.flash_attention else off
    params.warmup = False  # the replica makes its first token itself
    params.enable_chat_template = False  # prompts come rendered
    params.ui = False
    params.verbosity = -1  # it would log prompts
    params.hostnames = [str(socket)]  # no TCP port
    return params


def require_gpu(settings: LlamaCppSettings) -> None:
    """Raise `ModelUnusable` when layers should be on a GPU and there is none: llama.cpp would silently use the CPU."""
    kinds = xllamacpp.ggml_backend_dev_type
    none = (kinds.GGML_BACKEND_DEVICE_TYPE_CPU, kinds.GGML_BACKEND_DEVICE_TYPE_ACCEL)
    if settings.gpu_layers and all(device["type"] in none for device in xllamacpp.get_device_info()):
        raise ModelUnusable(
            f"gpu_layers: {settings.gpu_layers} is set, but the installed xllamacpp sees no GPU; "
            "set gpu_layers: 0, or install its build for that GPU"
        )


def choose_kv_type(settings: LlamaCppSettings, header: Header) -> str:
    """Return the number format of the KV cache: the configured one, else one as exact as the weights."""
    return settings.kv_cache_type or ("f32" if find_majority_type(header) == "f32" else "f16")


def find_majority_type(header: Header) -> str:
    """Return the number format of most of the weights' bytes."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors.values():
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.bytes
    return max(sizes, key=lambda name: sizes[name]).lower()


_KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}


def measure_cache(header: Header, settings: LlamaCppSettings) -> int:
    """Return the bytes of the KV cache; raises `ModelUnusable` when the header lacks the sizes that it follows from."""
    prefix = header.keys.get("general.architecture")
    names = ("block_count", "attention.head_count", "attention.head_count_kv", "embedding_length")
    sizes = [header.keys.get(f"{prefix}.{name}") for name in names]
    layers, heads, kv_heads, width = (size if type(size) is int and 0 < size < 1 << 20 else 0 for size in sizes)
    if not all((layers, heads, kv_heads, width)):
        raise ModelUnusable(
            f"the GGUF file's keys describe no model of architecture {str(prefix)[:40]!r}; export or fetch it again"
        )
    head = header.keys.get(f"{prefix}.attention.key_length")
    head_width = head if type(head) is int and 0 < head < 1 << 20 else width / heads
    per_token = 2 * layers * kv_heads * head_width * _KV_BYTES[choose_kv_type(settings, header)]
    return round(settings.slots * settings.max_model_len * per_token)


def require_memory(header: Header, settings: LlamaCppSettings) -> None:
    """Raise `ModelUnusable` when the memory cannot hold cache and weights, or the header lacks the sizes of the cache."""
    cache = measure_cache(header, settings)
    weights = sum(tensor.bytes for tensor in header.tensors.values())
    free = read_available_bytes()
    if cache + weights > free and not settings.gpu_layers:
        raise ModelUnusable(
            f"{settings.slots} slots of {settings.max_model_len} tokens take {cache / 2**30:.1f} GiB of KV cache beside "
            f"{weights / 2**30:.1f} GiB of weights, and {free / 2**30:.1f} GiB are free; set fewer slots or a smaller max_model_len"
        )
