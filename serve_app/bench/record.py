"""The raw record of a benchmark, enough to compute every figure again: values, and their file."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from serve_app.bench.plan import BenchError, Load, Plan

VERSION = 1
"""Of the file's form."""


@dataclass(slots=True, kw_only=True)
class Sample:
    """One request as its client saw it. Times are seconds."""

    number: int
    sent_s: float
    """Since the beginning of its run."""
    late_s: float = 0.0
    """How much later than it should have arrived it was sent, because the client was busy; of arrivals at a rate only."""
    chunks_s: list[float] = field(default_factory=list)
    """When each chunk with a choice came, since it was sent."""
    ended_s: float = 0.0
    """When the answer or the failure was complete, since it was sent."""
    failure: str = ""
    """The status and the error's code, or what happened to the connection; empty: it succeeded."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that the engine had from earlier requests."""
    completion_tokens: int = 0
    group: str = ""
    """Of the header x-engine: who answered."""
    attempts: int = 0
    """Of the header x-attempts: replicas tried until the answer's first token."""


@dataclass(slots=True, kw_only=True)
class Run:
    """One group under one load, once."""

    group: str
    load: Load
    round: int
    duration_s: float
    """From the first request to the last answer's end."""
    samples: list[Sample]
    complete: bool = True
    """False: it was interrupted; requests that were under way are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What the application says of a group, and this machine of its processes."""

    model: str
    engine: str
    precision: str
    context_length: int
    replicas: int
    memory_bytes: int | None = None
    """Proportional size of its replicas' processes after the load; None: they run elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where the benchmark ran."""

    url: str
    began: str
    """In UTC, ISO 8601."""
    cpus: float
    """Cores that this machine's processes may use."""
    memory_bytes: int
    """Memory of this machine."""
    processor: str
    versions: dict[str, str]
    """Of phi-serve and the packages of engines that this environment has."""


@dataclass(slots=True, kw_only=True)
class Record:
    """A whole benchmark."""

    version: int = VERSION
    plan: Plan
    surroundings: Surroundings
    groups: dict[str, GroupFacts]
    runs: list[Run]


_FORM = TypeAdapter(Record)


def write_record(record: Record, file: Path) -> None:
    """Write a record as JSON; raises `BenchError`."""
    try:
        file.write_bytes(_FORM.dump_json(record, indent=1) + b"\n")
    except OSError as error:
        raise BenchError(f"{file} cannot be written: {error.strerror}") from error


def read_record(file: Path) -> Record:
    """Read a record; raises `BenchError`."""
    try:
        record = _FORM.validate_json(file.read_bytes())
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BenchError(
            f"{file} is no record of `phi-serve bench --json`: {place + ': ' if place else ''}{first['msg']}"
        ) from error
    if record.version != VERSION:
        raise BenchError(f"{file} has version {record.version} of the form; this phi-serve reads {VERSION}")
    return record
