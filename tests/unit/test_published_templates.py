"""Chat templates as their models' authors published them (`make tools` fetches them): ids as in `transformers`, and no injection.

The tokenizers are stand-ins that carry the control tokens which a template names.
"""

import re
from pathlib import Path

import pytest

from serve_app.errors import ModelUnusable
from serve_app.types import InvalidValue
from tests.cluster.fetch_tools import CHAT_TEMPLATES
from tests.unit.templated_models import Family, Model, load_model, write_model
from tests.unit.test_jinja_format import CHATS, check_equal
from tests.unit.test_jinja_safety import hostile_chats

FAMILIES = (
    "Qwen-Qwen2.5-7B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "google-gemma-2-2b-it",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "microsoft-Phi-3.5-mini-instruct",
)
"""One of each family runs with every change; the others are slow. Phi-4-mini's own is that of the embedded model."""
REFUSED = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "NoneType",  # templates for conversations with tools alone
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "NoneType",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "NoneType",
    "fireworks-ai-llama-3-firefunction-v2": "functions",  # its own clients pass other variables
}
"""Templates that cannot be served as a model's only one, and a word of the reason."""
OTHERWISE = {
    "meetkai-functionary-medium-v3.1",  # joins with `safe`, so that transformers writes quotes as &#34;
    "meetkai-functionary-medium-v3.2",  # takes arguments as text only, which transformers' documented form is not
}
"""Templates whose prompts with tools differ from transformers' on purpose."""
_CONTROL = re.compile(r"<[|\uff5c][^|\uff5c<>\s{}']{1,40}[|\uff5c]>|\[/?[A-Z_]{3,}\]|<(?:start|end)_of_turn>|<\|[a-z_:/]+\|?>")
_TAG = re.compile(r"</?[a-z_]{1,24}>")
_FILES = sorted(CHAT_TEMPLATES.glob("*.jinja"))

pytestmark = pytest.mark.skipif(not _FILES, reason="published chat templates are not here; run `make tools`")
_SERVED = [file for file in _FILES if file.stem not in REFUSED]
served = pytest.mark.parametrize(
    "file",
    [pytest.param(file, id=file.stem, marks=() if file.stem in FAMILIES else pytest.mark.slow) for file in _SERVED]
    or [pytest.param(CHAT_TEMPLATES, id="none")],
)


def _load(file: Path, folder: Path) -> Model:
    text = file.read_text()
    special = tuple(dict.fromkeys((*sorted(set(_CONTROL.findall(text))), "<bos>", "<eos>")))
    plain = tuple(tag for tag in sorted(set(_TAG.findall(text))) if tag not in special)
    family = Family(file.stem, special, plain, bos="<bos>", eos="<eos>")
    return load_model(family, write_model(family, folder, text))


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_needs_other_variables_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=REFUSED[name]):
        _load(CHAT_TEMPLATES / f"{name}.jinja", tmp_path)


@served
async def test_ids_are_those_of_transformers(file: Path, tmp_path: Path) -> None:
    model = _load(file, tmp_path)
    for chat in CHATS.values():
        if not (file.stem in OTHERWISE and chat.tools):
            await check_equal(model, chat)


@served
async def test_no_spelling_of_a_control_token_becomes_one(file: Path, tmp_path: Path) -> None:
    model = _load(file, tmp_path)
    answered = 0
    for token in model.control:
        middle = len(token) // 2
        for text in (token, token[:middle] + token + token[middle:]):
            for chat, harmless in zip(hostile_chats(text), hostile_chats("x" * len(text)), strict=True):
                try:
                    expected, ids = await model.format.render(harmless), await model.format.render(chat)
                except InvalidValue:  # the template takes no such turns, or leaves out texts that it takes for thoughts
                    continue
                assert model.control_ids(ids) == model.control_ids(expected)
                answered += 1
    assert answered >= 2 * len(model.control)
