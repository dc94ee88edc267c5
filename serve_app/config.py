"""Settings of what is served and how requests are routed: the `args:` half of serve_config.yaml.

The other half (`deployments:`, Serve's own options) sets how many replicas run where. Unknown fields are errors, and every value is
checked here, before anything starts. Knows no engine and no Ray.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from serve_app import parameters as ollama
from serve_app.access_config import AccessSettings
from serve_app.browser_config import BrowserSettings, PortSettings
from serve_app.engine_config import ENCODERS, EngineSettings, Settings
from serve_app.model_names import normalize_name
from serve_app.store_config import ResponsesSettings, SqliteSettings, StoreSettings
from serve_app.types import InvalidValue, Task


class ModelSettings(Settings):
    """One served model: its files and its other names."""

    path: str = "embedded"
    """`embedded`, a local folder in Hugging Face layout, or a hub id such as microsoft/Phi-4-mini-instruct."""
    revision: str | None = None
    """Branch, tag or commit when `path` is a hub id."""
    aliases: tuple[str, ...] = ()
    """Other names that clients may use for it."""
    think_tags: tuple[str, str] | None = None
    """The tags around a reasoning model's thoughts before its answer, e.g. ["<think>", "</think>"]; None: it does not think."""
    guided_calls: bool = True
    """Constrain tool calls to the offered tools and their schemas where the model decides whether to call. Calls of tools that a
    client declares `strict` are always constrained to their schemas."""

    chat_format: Literal["phi4", "jinja"] | None = None
    """How conversations become prompts: `phi4` writes Phi-4-mini's form, `jinja` runs the chat template of the model's folder.
    None: phi4 where the tokenizer has its control tokens, else jinja."""
    tool_call_parser: Literal["phi4", "hermes", "llama3", "none"] | None = None
    """How the model writes tool calls: `phi4` as Phi-4-mini does, `hermes` between <tool_call> and </tool_call>, `llama3` as bare
    JSON; `none`: it calls no tools. None: chosen by its template and control tokens."""

    @model_validator(mode="after")
    def _check_think_tags(self) -> "ModelSettings":
        if self.think_tags is not None and not all(self.think_tags):
            raise ValueError("think_tags: neither tag may be empty")
        return self


AUTO = "auto"
"""The name of the model that the task chooses."""
DEFAULT_MODELS = {
    "phi-4-mini-instruct": ModelSettings(aliases=("microsoft/Phi-4-mini-instruct", "phi-4-mini", "phi4-mini")),
}
"""The served models where the configuration names none."""


class VariantMessage(Settings):
    """A turn before every conversation of a variant."""

    role: Literal["system", "user", "assistant"]
    """Role of the turn's author."""
    content: str
    """Text of the turn."""


class VariantSettings(Settings):
    """The served model under another name, with its own system prompt and parameters, as in a Modelfile."""

    model_config = ConfigDict(populate_by_name=True)

    parent: str = Field("", alias="from")
    """The served model or variant it derives from; empty: the served model."""
    system: str = ""
    """System prompt of conversations without one."""
    template: str = ""
    """Prompt template in Ollama's language; empty: the model's own."""
    parameters: dict[str, bool | int | float | str | list[str]] = Field(default_factory=dict)
    """Ollama's parameters (temperature, top_p, num_predict, stop, ...); a request's own parameters win."""
    messages: tuple[VariantMessage, ...] = ()
    """Turns before every conversation."""
    license: tuple[str, ...] = ()
    """License texts, shown by /api/show."""
    task: Task | None = None
    """Task of its requests in routing; None: each request is classified."""

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {name: ollama.check_parameter(name, value) for name, value in given.items()}


class BreakerSettings(Settings):
    """When a circuit breaker blocks a group or a replica, and when it tries again."""

    failures: int = Field(5, ge=1)
    """It opens after this many failures in a row."""
    failure_ratio: float = Field(0.5, gt=0, le=1)
    """It also opens when this share of the requests in the window failed."""
    min_requests: int = Field(5, ge=1)
    """With fewer requests in the window the share does not count."""
    window_s: float = Field(30.0, gt=0)
    """Length in seconds of the window for the share."""
    open_s: float = Field(30.0, gt=0)
    """Seconds it stays open; after that one request at a time probes."""
    successes: int = Field(2, ge=1)
    """Probes in a row that must succeed to close it."""


class RoutingSettings(Settings):
    """Which group answers which task, when another group takes over, and what happens when a group fails."""

    prefer: dict[Task, tuple[str, ...]] = Field(default_factory=dict)
    """Groups per task, best first. Other groups follow in the order of `engines`."""
    auto: dict[Task, str] = Field(default_factory=dict)
    """Task -> the model or variant that answers requests for the model `auto`. A task that is not listed gets the model of
    `general`, and where that is not listed either, the first model. Empty: there is no model `auto`."""
    auto_unnamed: bool = False
    """Whether requests without a model's name are requests for `auto`; otherwise they get the first model."""
    require_model: bool = False
    """Refuse a request without a model's name where its API demands one, as OpenAI's and Anthropic's servers do. Otherwise such
    requests get the first model, or `auto`. `/v1/responses` always demands a name."""
    auto_fallback: tuple[str, ...] = ()
    """Models that may answer requests for `auto`, in this order, while no group of the task's model can. Empty: no other model."""
    auto_switch: float = Field(0.95, ge=0, le=1)
    """Least probability of a later turn's task at which the conversation gets that task's model; below it, the conversation keeps
    the model of the turn before. 0: every turn gets its own task's model."""
    models: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Model name -> the only groups that may answer for it. Other names may go to any group. All names of one model are the same
    here (case, `:latest`, aliases, `library/`); of several listed aliases, the one that the client uses counts."""
    overrule_factor: float = Field(2.0, ge=1)
    """Another group replaces the first one when its estimated time to finish is shorter by this factor."""
    overrule_above_s: float = Field(1.0, ge=0)
    """An estimate below this many seconds is good enough: the preference stands."""
    answer_tokens: int = Field(128, ge=1)
    """Tokens of an answer assumed until answers have been observed."""
    prompt_weight: float = Field(0.25, ge=0)
    """Work of reading a prompt token, relative to generating one."""
    task_threshold: float = Field(0.4, ge=0, le=1)
    """Least probability of an inferred task; a request below it for every task counts as general."""
    max_attempts: int = Field(3, ge=1, le=10)
    """Attempts per answer, including the first and every continuation."""
    retry_ratio: float = Field(0.2, ge=0, le=1)
    """Retries allowed, as a share of recent requests."""
    retry_reserve: int = Field(64, ge=0)
    """Retries allowed at once whatever the traffic, for the streams of a dying replica. Refills in a minute."""
    breaker: BreakerSettings = BreakerSettings()
    """Circuit breaker of every group and every replica."""
    accept_timeout_s: float = Field(10.0, gt=0)
    """Seconds a group may take to hand a request to a replica."""
    sleeping: tuple[str, ...] = ()
    """Groups that may have no replica (`min_replicas: 0` of their deployment). A request that names such a group, or that no other
    group can take, waits while a replica starts."""
    wake_timeout_s: float = Field(300.0, gt=0)
    """`accept_timeout_s` of sleeping groups: the longest time that a request waits for a replica to start."""
    stall_timeout_s: float = Field(60.0, gt=0)
    """A begun stream that sends nothing for this long counts as failed and continues elsewhere. Should exceed the longest pause
    that another request's prompt causes; a replica that hangs as a whole is noticed after `stale_after_s`."""
    stale_after_s: float = Field(6.0, gt=0)
    """A replica that has not reported for this long counts as gone; replicas report once a second."""

    def find_auto_model(self, task: Task) -> str | None:
        """Return the name of the model that answers requests for `auto` of a task; None: the first model."""
        return self.auto.get(task) or self.auto.get(Task.GENERAL)


class LimitSettings(Settings):
    """Limits of one request and of one ingress."""

    max_body_bytes: int = Field(4 << 20, ge=1024)
    """Larger bodies are refused with 413."""
    max_choices: int = Field(4, ge=1, le=16)
    """Bound of `n`."""
    max_prompts: int = Field(16, ge=1)
    """Prompts in one /v1/completions call."""
    max_embedding_inputs: int = Field(2048, ge=1)
    """Inputs in one request for embeddings."""
    max_concurrent_generations: int = Field(256, ge=1)
    """Generations (prompts times `n`) that one ingress replica runs at once; further requests get 503 with Retry-After."""
    request_timeout_s: float = Field(600.0, gt=0)
    """Most seconds that one request may take, waiting included."""


class AppSettings(Settings):
    """Everything under `args:`."""

    models: dict[str, ModelSettings] = Field(default_factory=lambda: dict(DEFAULT_MODELS), min_length=1)
    """The served models by the name that clients use and answers carry. The first one that generates is the default. Each needs a
    group; a model whose groups are of `kind: onnx_encoder` makes embeddings."""
    engines: dict[str, EngineSettings] = Field(min_length=1)
    """Engine groups by name; the name is also the Serve deployment's."""
    variants: dict[str, VariantSettings] = Field(default_factory=dict)
    """More names of a model, with prompts and parameters of their own; Ollama's API adds others."""
    models_dir: str | None = "~/.local/share/phi-serve/models"
    """Folder of the variants made through Ollama's API; ingress replicas on several nodes must share it. None: none can be made."""
    access: AccessSettings = AccessSettings()
    """Who may use the application, and how much; `open`: everybody."""
    store: StoreSettings = SqliteSettings()
    """Where usage, quotas and stored responses are kept."""
    responses: ResponsesSettings = ResponsesSettings()
    """Which answers are kept."""
    routing: RoutingSettings = RoutingSettings()
    """Choice of groups."""
    limits: LimitSettings = LimitSettings()
    """Bounds per request and per ingress."""
    browsers: BrowserSettings = BrowserSettings()
    """Allowed web pages and host names."""
    ollama_port: PortSettings | None = None
    """The port that Ollama's clients use by default; serves every endpoint. None: only Serve's own port is open."""
    public_url: str = "http://localhost:8000"
    """URL at which clients reach the ingress; shown when the application is ready."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_model(cls, given: Any) -> Any:
        """Refuse `args.model` of earlier versions, and show how it is written now."""
        if isinstance(given, dict) and "model" in given:
            raise ValueError(f"args.model is now args.models, by name. Write:\n{_show_as_models(given['model'])}")
        return given

    @model_validator(mode="after")
    def _check_group_names(self) -> "AppSettings":
        if "ingress" in self.engines:
            raise ValueError("engines: 'ingress' is the name of the ingress deployment; call the group something else")
        for name, group in self.engines.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):  # it stands in headers
                raise ValueError(f"engines: {name[:100]!r} is no name of a group; use up to 100 letters, digits, '_', '.' and '-'")
            if group.model is not None and group.model not in self.models:
                raise ValueError(f"engines.{name}.model: no model '{group.model}'; configured are: {', '.join(self.models)}")
        served = {self.model_of(group) for group in self.engines}
        for model in self.models:
            if model not in served:
                raise ValueError(f"models.{model}: no engine group serves it; give a group `model: {model}`, or remove the model")
            encoders = [self.engines[group].kind in ENCODERS for group in self.engines if self.model_of(group) == model]
            if any(encoders) and not all(encoders):
                raise ValueError(
                    f"models.{model}: some of its groups make embeddings and others generate; give those of the kind "
                    f"{', '.join(sorted(ENCODERS))} a model of their own"
                )
        for model in self.access.models:
            if model not in self.models:
                raise ValueError(f"access.models: no model '{model}'; configured are: {', '.join(self.models)}")
        return self

    @model_validator(mode="after")
    def _check_model_names(self) -> "AppSettings":
        owners: dict[str, str] = {}
        for model, settings in self.models.items():
            for name in (model, *settings.aliases):
                if not normalize_name(name) or not name.isprintable() or " " in name:
                    raise ValueError(f"models.{model}: {name!r} is no name; write one or more characters without blanks")
                owner = owners.setdefault(normalize_name(name), model)
                if owner != model:
                    raise ValueError(f"models.{model}: '{name}' is also a name of the model {owner}; names must differ")
        require_names(self.routing, self)
        return self

    @model_validator(mode="after")
    def _check_variants(self) -> "AppSettings":
        """Check variants here, not in `VariantSettings`: files of stored variants must stay readable, to be shown and deleted."""
        taken = {normalize_name(name): name for model, each in self.models.items() for name in (model, *each.aliases)}
        for name in self.variants:
            if normalize_name(name) in taken:
                raise ValueError(f"variants.{name}: '{taken[normalize_name(name)]}' is the same name; names must differ")
            taken[normalize_name(name)] = name
        self._check_parents(taken)
        for name, variant in self.variants.items():
            try:
                ollama.require_usable(variant.parameters)
            except InvalidValue as error:
                raise ValueError(f"variants.{name}.parameters: {error}") from error
        return self

    def _check_parents(self, names: Mapping[str, str]) -> None:
        """Raise `ValueError` for a variant whose parents lead to no model; `names` are all configured names by their keys."""
        parents = {normalize_name(name): normalize_name(variant.parent) for name, variant in self.variants.items()}
        for name, variant in self.variants.items():
            key, seen = normalize_name(name), set[str]()
            while key in parents and key not in seen:
                seen.add(key)
                key = parents[key] or normalize_name(self.default_model)
            if key in seen:
                raise ValueError(f"variants.{name}.from: derives from itself: {' <- '.join(names[each] for each in seen)}")
            if key not in names:
                known = ", ".join(names.values())
                raise ValueError(f"variants.{name}.from: no model or variant '{variant.parent}'; configured are: {known}")
            if key in self.list_encoder_names():
                raise ValueError(f"variants.{name}.from: '{names[key]}' is an embedding model, which has no prompts and parameters")

    @property
    def embedding_models(self) -> tuple[str, ...]:
        """The names of the models that make embeddings, in their order; all others generate."""
        encoders = {self.model_of(name) for name, group in self.engines.items() if group.kind in ENCODERS}
        return tuple(model for model in self.models if model in encoders)

    def list_encoder_names(self) -> frozenset[str]:
        """Return the keys of all names of the embedding models."""
        return frozenset(normalize_name(name) for model in self.embedding_models for name in (model, *self.models[model].aliases))

    @property
    def default_model(self) -> str:
        """The name of the model for requests without a model name: the first one that generates, if any does."""
        encoders = self.embedding_models
        return next((model for model in self.models if model not in encoders), next(iter(self.models)))

    def model_of(self, group: str) -> str:
        """Return the name of the model that an engine group serves."""
        return self.engines[group].model or next(iter(self.models))


def _show_as_models(model: Any) -> str:
    """Return the YAML lines of `args.models` with the meaning of `args.model`."""
    settings = dict(model) if isinstance(model, dict) else {}
    name, default = settings.pop("name", None), next(iter(DEFAULT_MODELS))
    if "aliases" not in settings and name in (None, default):
        settings["aliases"] = list(DEFAULT_MODELS[default].aliases)
    lines = (f"    {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())
    return "\n".join(("models:", f"  {name or default}:", *lines))


def require_names(routing: RoutingSettings, settings: AppSettings) -> None:
    """Raise `ValueError` when `routing` names a group or a model that is not among `settings`."""
    named = [(f"prefer.{task}", groups) for task, groups in routing.prefer.items()]
    named += [(f"models.{model}", groups) for model, groups in routing.models.items()]
    named.append(("sleeping", routing.sleeping))
    for field, groups in named:
        for group in groups:
            if group not in settings.engines:
                raise ValueError(f"routing.{field}: no engine group '{group}'; configured are: {', '.join(settings.engines)}")
    _require_own_groups(routing, settings)
    _require_auto_names(routing, settings)


def _require_own_groups(routing: RoutingSettings, settings: AppSettings) -> None:
    owners = {normalize_name(name): model for model, each in settings.models.items() for name in (model, *each.aliases)}
    for name, groups in routing.models.items():
        owner = owners.get(normalize_name(name))
        for group in groups:
            if owner is not None and settings.model_of(group) != owner:
                raise ValueError(
                    f"routing.models.{name}: the group '{group}' serves the model '{settings.model_of(group)}', not this"
                )


def _require_auto_names(routing: RoutingSettings, settings: AppSettings) -> None:
    if not routing.auto:
        if routing.auto_fallback or routing.auto_unnamed:
            raise ValueError("routing.auto: is empty, but auto_fallback or auto_unnamed is set; list the models of the tasks")
        return
    names = [*settings.variants, *settings.models, *(alias for model in settings.models.values() for alias in model.aliases)]
    if AUTO in map(normalize_name, names):
        raise ValueError("routing.auto: a model, an alias or a variant is called 'auto' too; rename it")
    known, encoders = set(map(normalize_name, names)), settings.list_encoder_names()
    wanted = [(f"auto.{task}", model) for task, model in routing.auto.items()]
    for field, model in [*wanted, *(("auto_fallback", model) for model in routing.auto_fallback)]:
        if normalize_name(model) not in known:
            raise ValueError(
                f"routing.{field}: no model '{model}'; configured are: {', '.join([*settings.models, *settings.variants])}"
            )
        if normalize_name(model) in encoders:
            raise ValueError(f"routing.{field}: '{model}' is an embedding model and cannot answer; name one that generates")
