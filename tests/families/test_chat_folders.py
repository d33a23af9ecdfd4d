"""Chat templates of folders and GGUF files, in bundles; answers are those of the original library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

import edgewise
from edgewise.cli import main
from edgewise.errors import CheckpointError, InputError
from edgewise.models.chat import ChatSource
from edgewise.models.families.chat import read_chat
from edgewise.models.open import open_checkpoint

from ..bundles import export_few
from ..models.gguf.written import write_llama
from .folders import change_json, library_llama, llama_folder, write_json

TEMPLATE = (
    "{% for message in messages %}{{ bos_token + message['role'] + '\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ bos_token + 'assistant\n' }}{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Two dogs."},
    {"role": "user", "content": "The man rides?"},
    {"role": "assistant", "content": "3+4=7"},
    {"role": "user", "content": "schön 👧"},
]
STEPS = 16


def chat_folder(folder: Path, template: Any = TEMPLATE) -> Path:
    """A folder whose texts end at token 5, and turns, as the template says, at ``<|end|>``."""
    llama_folder(folder, eos_token_id=5, std=0.3)
    tokens = {"bos_token": "<|start|>", "eos_token": {"content": "<|end|>", "lstrip": False}}
    write_json(folder / "tokenizer_config.json", {**tokens, "chat_template": template})
    return folder


@torch.no_grad()
def library_answer(folder: Path) -> tuple[list[int], list[int]]:
    """The prompt and the answer, as ``transformers`` makes them."""
    codec = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|start|>", eos_token="<|end|>"
    )
    prompt = codec.apply_chat_template(CHAT, chat_template=TEMPLATE, add_generation_prompt=True, return_dict=False)
    ids = torch.tensor([prompt])
    told = {"attention_mask": torch.ones_like(ids), "max_new_tokens": STEPS, "do_sample": False}
    found = library_llama(folder).generate(ids, eos_token_id=[0, 5], **told)
    return prompt, found[0, len(prompt) :].tolist()


@pytest.mark.slow
def test_an_answer_is_that_of_the_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = chat_folder(tmp_path / "folder"), tmp_path / "bundle"
    export_few(folder, out, ("cpu",), ("fp32",))
    assert (out / "chat_template.txt").read_text() == TEMPLATE
    prompt, answer = library_answer(folder)
    with edgewise.load(out, "cpu", "fp32", 1) as session:
        assert session.manifest.chat is not None
        assert session.manifest.chat.end_ids == (0,)
        found = session.chat(CHAT, max_new_tokens=STEPS)
        assert (list(found.source_tokens), list(found.tokens)) == (prompt, answer)
        assert "".join(session.chat_stream(CHAT, max_new_tokens=STEPS)) == found.text
        assert session.verify().ok
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    assert "  chat template: chat_template.txt, an answer ends at token 0 too\n" in capsys.readouterr().out


@torch.no_grad()
def ordinary_end(folder: Path) -> Path:
    """A folder whose turns end with an added token that is not special, which comes in the answer to ``CHAT``."""
    chat_folder(folder, TEMPLATE.replace("eos_token", "'<turn_end>'"))
    codec = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    codec.add_tokens([tokenizers.AddedToken("<turn_end>", normalized=False)])
    codec.save(str(folder / "tokenizer.json"))
    model, end = library_llama(folder), codec.token_to_id("<turn_end>")
    ids = torch.tensor([read_by_library(folder)])
    free = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, do_sample=False)
    other = int(free[0, ids.shape[1] + 4])
    model.lm_head.weight[[end, other], :] = model.lm_head.weight[[other, end], :]
    model.save_pretrained(folder)
    return folder


def read_by_library(folder: Path) -> list[int]:
    codec = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|start|>"
    )
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    ids: list[int] = codec.apply_chat_template(
        CHAT, chat_template=template, add_generation_prompt=True, return_dict=False
    )
    return ids


@pytest.mark.slow
def test_a_turn_may_end_with_a_token_that_is_not_special(tmp_path: Path) -> None:
    folder, out = ordinary_end(tmp_path / "folder"), tmp_path / "bundle"
    export_few(folder, out, ("cpu",), ("fp32",))
    prompt = torch.tensor([read_by_library(folder)])
    with edgewise.load(out, "cpu", "fp32", 1) as session:
        assert session.manifest.chat is not None
        (end,) = session.manifest.chat.end_ids
        told = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": STEPS, "do_sample": False}
        theirs = library_llama(folder).generate(prompt, eos_token_id=[5, end], **told)[0, prompt.shape[1] :].tolist()
        found = session.chat(CHAT, max_new_tokens=STEPS)
        assert list(found.source_tokens) == prompt[0].tolist()
        assert list(found.tokens) == theirs
        assert theirs[-1] == end
        assert session.tokenizer.decode([end]) == "<turn_end>"
        assert "<turn_end>" not in found.text
        assert "".join(session.chat_stream(CHAT, max_new_tokens=STEPS)) == found.text
        assert session.verify().ok


@pytest.mark.slow
def test_a_template_that_does_not_run_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = chat_folder(tmp_path / "folder", "{% include 'secrets' %}"), tmp_path / "bundle"
    export_few(folder, out, ("cpu",), ("fp32",))
    assert not (out / "chat_template.txt").exists()
    with edgewise.load(out, "cpu", "fp32", 1) as session:
        with pytest.raises(InputError, match=r"no chat template \(left out: the chat template fails .*no loader"):
            session.chat(CHAT)
        assert session.generate("The man", max_new_tokens=2).tokens
    assert main(["inspect", str(out)]) == 0
    assert "chat_template: left out: the chat template fails" in capsys.readouterr().out


TOKENS = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
NAMED = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": "this"}]
GIVEN: dict[str, tuple[Any, str | None]] = {
    "text": ("this", "this"),
    "names": (NAMED, "this"),
    "no default": (NAMED[:1], None),
    "none": (None, None),
    "empty": ("", None),
}


@pytest.mark.parametrize(("given", "expected"), GIVEN.values(), ids=GIVEN.keys())
def test_where_a_template_stands(given: Any, expected: str | None, tmp_path: Path) -> None:
    found = read_chat(tmp_path, {**TOKENS, "chat_template": given}, {})
    assert found == (None if expected is None else ChatSource(template=expected, variables=TOKENS))
    (tmp_path / "chat_template.jinja").write_text("a file")
    found = read_chat(
        tmp_path, {"bos_token": {"content": "<|start|>"}, "chat_template": given}, {"eos_token": "<|end|>"}
    )
    assert found == ChatSource(template="a file", variables=TOKENS)


@pytest.mark.parametrize("given", [7, {}, [], [7], [{"name": "default"}], [{"name": 1, "template": "x"}]])
def test_templates_that_are_none(given: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"chat_template is .*, expected a text, or a list of texts with names"):
        read_chat(tmp_path, {"chat_template": given}, {})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: expected a text in UTF-8, got .*: copy it again"):
        read_chat(tmp_path, {}, {})


def test_a_folder_and_a_file(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "folder")
    assert open_checkpoint(folder).chat == ChatSource(template=TEMPLATE, variables=TOKENS)
    change_json(folder / "tokenizer_config.json", chat_template=None)
    assert open_checkpoint(folder).chat is None
    file = write_llama(tmp_path / "file.gguf", tokenizer__chat_template=TEMPLATE)
    spellings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert open_checkpoint(file).chat == ChatSource(template=TEMPLATE, variables=spellings)
    assert json.dumps(open_checkpoint(write_llama(tmp_path / "bare.gguf")).chat) == "null"
