"""Tiny Whispers as the original library writes them: random weights, and a tokenizer with every control token."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ..bundles import export_few
from .folders import change_json, randomize

LANGUAGES = ("en", "de", "yue")
CONTROLS = ("<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES))
CONTROLS += ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
FRAMES, BANDS, TIMES = 60, 8, 31
CASES: dict[str, dict[str, Any]] = {
    "several languages": {},
    "one language, other switches": {
        "activation_function": "relu",
        "tie_word_embeddings": False,
        "scale_embedding": True,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 8,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 24,
        "num_mel_bins": 12,
        "max_target_positions": 40,
    },
}


@functools.cache
def whisper_tokenizer() -> Tokenizer:
    """Byte-level BPE; of the control tokens the times are not special, as in published files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["and so my fellow americans ask not what your country can do for you"], trainer)
    tokenizer.add_special_tokens(list(CONTROLS))
    tokenizer.add_tokens([f"<|{0.02 * i:.2f}|>" for i in range(TIMES)])
    return tokenizer


def whisper_folder(folder: Path, case: str, **changes: Any) -> Path:
    """The model of a case with its generation configuration and its tokenizer."""
    ids = {token: whisper_tokenizer().token_to_id(token) for token in CONTROLS}
    several, end = case == "several languages", ids["<|endoftext|>"]
    config = transformers.WhisperConfig(
        **{
            "vocab_size": whisper_tokenizer().get_vocab_size(),
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": BANDS,
            "max_source_positions": FRAMES // 2,
            "max_target_positions": 64,
            "decoder_start_token_id": ids["<|startoftranscript|>"],
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end),
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
            **CASES[case],
            **changes,
        }
    )
    model = transformers.WhisperForConditionalGeneration(config)
    randomize(model, len(case))
    generation: dict[str, Any] = {
        "is_multilingual": several,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "suppress_tokens": [1, 2, 7],
        "begin_suppress_tokens": [220, end],
        "max_initial_timestamp_index": 4,
        "return_timestamps": False,
    }
    if several:
        generation["lang_to_id"] = {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES}
        generation["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    model.save_pretrained(folder)  # type: ignore[no-untyped-call]
    change_json(folder / "generation_config.json", **generation)  # the model's own class of it has no such fields
    (folder / "tokenizer.json").write_text(whisper_tokenizer().to_str())
    return folder


@functools.cache
def whisper_bundle(case: str) -> Path:
    """The bundle of a case, for both targets, exported once a process; of one language in float32 alone."""
    folder = Path(tempfile.mkdtemp(prefix="edgewise-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    precisions = ("fp32", "int8") if case == "several languages" else ("fp32",)
    export_few(whisper_folder(folder / "tiny-whisper", case), folder / "bundle", precisions=precisions)
    return folder / "bundle"


def library_whisper(folder: Path) -> Any:
    """The original library's model, in evaluation mode; of its generation configuration what its class passes over."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    for name, value in json.loads((folder / "generation_config.json").read_text()).items():
        if not hasattr(model.generation_config, name):
            setattr(model.generation_config, name, value)
    return model


def random_features(bands: int, batch: int = 3, seed: int = 5) -> torch.Tensor:
    """Features ``(B, bands, FRAMES)`` of about the size of log-mel ones."""
    return torch.randn(batch, bands, FRAMES, generator=torch.Generator().manual_seed(seed))
