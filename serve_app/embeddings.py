"""Serves requests for embeddings on the gateway's path: resolve, admit, tokenize, choose a group, reserve, attempt, account.

Embeddings have no tasks, chat formats, streams or choice among models. Knows groups only as encoders. No web framework, no Ray.
"""

import asyncio
import time

import numpy as np

from serve_app import tracing
from serve_app.accounting import account
from serve_app.attempts import Encoding
from serve_app.conversation import ChoiceEnd
from serve_app.encoding import Embedding, EmbedRequest, EncodeRequest, Ids
from serve_app.errors import InvalidRequest
from serve_app.faults import client_faults
from serve_app.gateway import Gateway
from serve_app.models.encoder import EncoderModel
from serve_app.models.resolved import Resolved
from serve_app.record import RequestRecord
from serve_app.routing.policy import Demand
from serve_app.types import FinishReason, Task, Usage

_TASK = Task.GENERAL
"""Groups are preferred for embeddings as for this task; the record has none."""


async def embed(gateway: Gateway, request: EmbedRequest, record: RequestRecord) -> Embedding:
    """Return one vector per input; cancelling it aborts everything. Raises `ServeError` only.

    Without inputs nothing is computed or counted, and it raises the error that a request with inputs would meet.
    """
    if not request.inputs:
        resolved = _resolve(gateway, request, record)
        _choose(gateway, request, (), resolved, record)
        return Embedding(vectors=np.empty((0, resolved.model.about.dimensions), np.float32), prompt_tokens=0)
    longest_s = gateway.settings.limits.request_timeout_s
    deadline = time.monotonic() + min(request.timeout_s or longest_s, longest_s)
    span = tracing.begin_embedding(request, record.model)
    with account(span, record, gateway.metrics, gateway.accounts.usage, gateway.book):
        resolved = _resolve(gateway, request, record)
        model = resolved.model.name
        with gateway.showing_allowances(model, record):
            gateway.accounts.limiter.require_room(record.caller, model)
        with gateway.admit(1, model, record.caller.priority):
            return await _embed(gateway, request, resolved, deadline, record)


def _resolve(gateway: Gateway, request: EmbedRequest, record: RequestRecord) -> Resolved[EncoderModel]:
    """Return the model of a request: the client's, or that of the group that it names, or the first embedding model."""
    name, settings = request.model, gateway.settings
    if name is None and request.group in settings.engines:
        name = settings.model_of(request.group)
    if name is None and request.demands_model and settings.routing.require_model and settings.embedding_models:
        known = ", ".join(each for each in settings.embedding_models if gateway.catalog.allows(each, record.caller))
        raise InvalidRequest(f"model: name the embedding model; served here: {known}", param="model")
    resolved = gateway.catalog.resolve_encoder(name, record.caller)
    gateway.note_resolved(resolved, request.group, record, is_named=request.model is not None)
    return resolved


async def _embed(
    gateway: Gateway, request: EmbedRequest, resolved: Resolved[EncoderModel], deadline: float, record: RequestRecord
) -> Embedding:
    """Tokenize, choose a group, reserve and attempt."""
    model = resolved.model
    _require_within_limits(gateway, request, model)
    limits = gateway.attempts.survey(model.name, resolved.held_by).limits(request.group)
    longest = limits.window or limits.longest or min(gateway.measure_context(model.name), model.about.max_tokens)
    inputs = await model.tokenize(request.inputs, longest, truncate=request.truncate)
    with client_faults():
        encode_request = EncodeRequest(
            request_id=request.request_id,
            inputs=inputs,
            dimensions=request.dimensions,
            normalized=request.normalized,
            timeout_s=request.timeout_s,
        )
    tokens = encode_request.tokens
    candidates = _choose(gateway, request, inputs, resolved, record)
    encoding = Encoding(
        request=encode_request,
        candidates=candidates,
        record=record,
        deadline=deadline,
        work=float(tokens),
        width=request.dimensions or model.about.dimensions,
    )
    record.prompt_tokens = tokens
    async with gateway.reserve(tokens, 0, model.name, record):
        used = Usage(prompt_tokens=tokens, completion_tokens=0)
        try:
            encoded = await gateway.attempts.encode(encoding)
        except asyncio.CancelledError:  # the client left: an encoder may have computed all of it
            record.broken[0] = used
            raise
        record.add_end(ChoiceEnd(reason=FinishReason.STOP, usage=used, timings=encoded.timings))
        record.outcome, record.has_begun = "ok", True
    gateway.attempts.workload.record_answer(_TASK, tokens // len(inputs), model.name)
    return Embedding(vectors=encoded.vectors, prompt_tokens=tokens)


def _require_within_limits(gateway: Gateway, request: EmbedRequest, model: EncoderModel) -> None:
    most, width = gateway.settings.limits.max_embedding_inputs, model.about.dimensions
    if len(request.inputs) > most:
        raise InvalidRequest(f"at most {most} inputs at once, got {len(request.inputs)}", param="input")
    if request.dimensions is not None and not 0 < request.dimensions <= width:
        raise InvalidRequest(f"dimensions must be between 1 and {width}, the length of this model's vectors", param="dimensions")


def _choose(
    gateway: Gateway, request: EmbedRequest, inputs: tuple[Ids, ...], resolved: Resolved[EncoderModel], record: RequestRecord
) -> tuple[str, ...]:
    """Return the groups that may encode `inputs`, best first, and note the route in the record; raises as `choose_for` does."""
    lengths = tuple(map(len, inputs))
    demand = Demand(
        group=request.group,
        timeout_s=request.timeout_s,
        prompt_tokens=max(0, max(lengths, default=0) - 1),  # an input may fill the context; a prompt needs room for one token
        work=float(sum(lengths)),
    )
    fleet = gateway.attempts.survey(resolved.model.name, resolved.held_by)
    route = gateway.policy.choose_for(demand, _TASK, fleet, allowed=resolved.groups)
    record.reason, record.candidates = route.reason, route.considered
    return route.candidates
