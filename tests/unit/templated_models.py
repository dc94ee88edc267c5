"""Folders of models with a chat template: small byte-level BPE tokenizers with each family's control tokens and flags."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from serve_app.chat.formats.jinja.format import JinjaFormat
from serve_app.chat.formats.jinja.source import TemplateSource
from serve_app.chat.formats.registry import build_format
from serve_app.chat.tokenizer import Tokenizer

TEMPLATES = Path(__file__).parent / "chat_templates"
_LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = (
    "The weather in Paris is warm today. system user assistant tool function name description parameters type object properties",
    "What is the answer? It is forty-two. \n\n arguments content id call You answer questions. Äpfel, 世界, and 🦙 too.",
)


@dataclass(frozen=True)
class Family:
    """One family: its tokenizer's particulars and the names of its special tokens."""

    name: str
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()
    """Added tokens that its file does not flag as special."""
    bos: str | None = None
    eos: str = ""
    split: str | None = None
    """The pattern of its pre-tokenizer; None: GPT-2's."""
    normalizer: Any = None
    prefix: bool = False
    """Whether its post-processor puts the bos token before texts."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    prefix_space: bool = False


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "chatml",
            ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
            ("<tool_call>", "</tool_call>"),
            eos="<|im_end|>",
            split=_LLAMA_SPLIT.replace("{1,3}", ""),
            normalizer=normalizers.NFC(),
        ),
        Family(
            "llama3",
            ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
            bos="<|begin_of_text|>",
            eos="<|eot_id|>",
            split=_LLAMA_SPLIT,
            prefix=True,
        ),
        Family("gemma", ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), ("\n\n", "<b>"), bos="<bos>", eos="<eos>"),
        Family(
            "mistral",
            (
                *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
                *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"),
            ),
            bos="<s>",
            eos="</s>",
            split=_LLAMA_SPLIT.replace("{1,3}", ""),
            prefix=True,
        ),
        Family(
            "phi4mini",
            ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>"),
            ("<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>"),
            bos="<|endoftext|>",
            eos="<|endoftext|>",
            split=_LLAMA_SPLIT,
            flags={"rstrip": True},
        ),
        Family(
            "qwen3",
            ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
            ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
            eos="<|im_end|>",
            normalizer=normalizers.NFC(),
        ),
        Family("spaced", ("<|im_start|>", "<|im_end|>"), eos="<|im_end|>", prefix_space=True, flags={"lstrip": True}),
    )
}


def build_tokenizer(family: Family) -> RustTokenizer:
    """Return a tokenizer of some hundred tokens."""
    tokenizer = RustTokenizer(BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=family.prefix_space, use_regex=family.split is None)
    steps = [pre_tokenizers.Split(Regex(family.split), "isolated")] if family.split else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    tokenizer.decoder = ByteLevelDecoder()
    if family.normalizer is not None:
        tokenizer.normalizer = family.normalizer
    tokenizer.train_from_iterator(_CORPUS, BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False, **family.flags) for text in family.special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False, **family.flags) for text in family.plain])
    if family.prefix:
        bos = (family.bos, tokenizer.token_to_id(str(family.bos)))
        template = processors.TemplateProcessing(single=f"{family.bos} $A", pair=f"{family.bos} $A $B", special_tokens=[bos])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def write_model(family: Family, folder: Path, template: str | None = None) -> Path:
    """Write the files of a model; `template` stands in for the family's own, and an empty one leaves it out."""
    tokenizer = build_tokenizer(family)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {"eos_token_id": tokenizer.token_to_id(family.eos)}
    (folder / "config.json").write_text(json.dumps({"vocab_size": tokenizer.get_vocab_size() + 8, **ids}))
    settings = {"bos_token": family.bos, "eos_token": {"content": family.eos, "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in settings.items() if value}))
    text = read_template(family.name) if template is None else template
    if text:
        (folder / "chat_template.jinja").write_text(text)
    return folder


@cache
def read_template(name: str) -> str:
    """Return a family's template."""
    return (TEMPLATES / f"{name}.jinja").read_text().removesuffix("\n")


@dataclass(frozen=True)
class Model:
    """A model in a folder: the format under test, and `transformers`' tokenizer."""

    family: Family
    tokenizer: Tokenizer
    format: JinjaFormat
    reference: PreTrainedTokenizerFast

    @property
    def control(self) -> tuple[str, ...]:
        """Names of its control tokens."""
        return tuple(self.tokenizer.raw(token).decode() for token in sorted(self.tokenizer.vocabulary.control_ids))

    def control_ids(self, ids: tuple[int, ...]) -> list[int]:
        """Return the control tokens among `ids`."""
        return [token for token in ids if token in self.tokenizer.vocabulary.control_ids]


def load_model(family: Family, folder: Path) -> Model:
    """Return the model in a folder that `write_model` wrote."""
    tokenizer = Tokenizer.load(folder)
    made = build_format(tokenizer, folder, chat_format="jinja", call_parser="none")
    assert isinstance(made, JinjaFormat)
    tokens = {name: text for name, text in (("bos_token", family.bos), ("eos_token", family.eos)) if text}
    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), chat_template=made.go_template, clean_up_tokenization_spaces=False, **tokens
    )
    return Model(family, tokenizer, made, reference)


@cache
def _tokenizer_of(name: str) -> Tokenizer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.load(write_model(FAMILIES[name], Path(folder), ""))


def build_with(template: str, name: str = "chatml") -> JinjaFormat:
    """Return the format of a family's tokenizer with another template."""
    return JinjaFormat(
        _tokenizer_of(name), TemplateSource("chat_template.jinja", template, template), {"eos_token": FAMILIES[name].eos}
    )
