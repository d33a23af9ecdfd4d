"""A GGUF file as the folder that Hugging Face's libraries read, and that every converter starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...models.checkpoint import Checkpoint


def write_llama(file: Path, checkpoint: Checkpoint, folder: Path) -> None:
    """Write configuration, float32 weights and tokenizer; ``checkpoint`` is what edgewise makes of the same ``file``.

    The weights are those of the file, taken out of their blocks: what edgewise and llama.cpp multiply is equal.
    """
    from safetensors.numpy import save_file

    from ...models.gguf.hugging_face import config_json, tensors
    from ...models.gguf.llama import llama_parameters
    from ...models.gguf.reader import open_gguf
    from ...models.gguf.vocabulary import read_vocabulary

    opened = open_gguf(file)
    parameters, vocabulary = llama_parameters(opened), read_vocabulary(opened)
    config = config_json(opened, parameters, vocabulary) | {"torch_dtype": "float32"}
    end = checkpoint.model.config.end_id
    folder.mkdir()
    save_file(dict(tensors(opened, parameters)), folder / "model.safetensors", metadata={"format": "pt"})
    ids = {name: value for name, value in config.items() if name.endswith("_token_id")}
    files = {
        "config.json": config,
        "generation_config.json": ids | {"eos_token_id": end, "do_sample": False},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": vocabulary.tokens[end if vocabulary.start_id is None else vocabulary.start_id],
            "eos_token": vocabulary.tokens[end],
            "unk_token": vocabulary.tokens[end],  # CTranslate2 wants one; byte-level texts have none
            "model_max_length": checkpoint.max_context,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    checkpoint.write_tokenizer(folder / "tokenizer.json")
