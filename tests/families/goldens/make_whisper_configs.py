"""Tiny Whispers as transformers 4.57.1 writes and computes them: run with that release, it prints the golden file.

``pip install torch==2.13.0 transformers==4.57.1``, then ``python make_whisper_configs.py > whisper_4_57_1.json``.
Parameters and features are given by a formula; the file has the names and shapes that the release stores, what it
writes beside them, some logits of one target, and what its ``generate`` writes down.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 makes what the tests compare with
from safetensors.torch import load_file, save_file

END, START, CODES = 280, 281, ("en", "de", "yue")  # of the tests' tokenizer
TRANSLATE, TRANSCRIBE, PREVIOUS, SILENT, SIZE = 285, 286, 288, 290, 322
SIZES = {"vocab_size": SIZE, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "num_mel_bins": 8}
SIZES |= {"encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 20, "decoder_ffn_dim": 24}
SIZES |= {"max_source_positions": 30, "max_target_positions": 40}
IDS = {"decoder_start_token_id": START, "pad_token_id": END, "bos_token_id": END, "eos_token_id": END}
SETTINGS: dict[str, Any] = {"no_timestamps_token_id": SILENT, "prev_sot_token_id": PREVIOUS, "max_length": 40}
SETTINGS |= {"suppress_tokens": [1, 2, 7], "begin_suppress_tokens": [220, END], "max_initial_timestamp_index": 4}
SEVERAL = {"lang_to_id": {f"<|{code}|>": START + 1 + i for i, code in enumerate(CODES)}}
SEVERAL |= {"task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE}}
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "several languages": ({}, {**SEVERAL, "is_multilingual": True}, {"language": "de", "task": "translate"}),
    "one language, scaled": (
        {"activation_function": "relu", "scale_embedding": True},
        {"is_multilingual": False},
        {"return_timestamps": True},
    ),
}
TARGET, LIMIT = [START, 9, 130, 22, 292], 12


def by_formula(shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every parameter by a formula of its name and place, whatever release draws random numbers."""
    found = {}
    for name, shape in shapes.items():
        places = torch.arange(int(torch.Size(shape).numel()), dtype=torch.float64) + len(name)
        found[name] = (torch.sin(places * 0.7).view(*shape) * 0.4).float()
    return found


def features() -> torch.Tensor:
    """One window ``(1, 8, 60)``."""
    return torch.cos(torch.arange(480, dtype=torch.float64) * 0.9).view(1, 8, 60).float()


def main() -> None:
    """Print an object of files and results by network, one a line."""
    rows = []
    for name, (more, settings, asked) in NETWORKS.items():
        config = transformers.WhisperConfig(**SIZES, **IDS, suppress_tokens=None, begin_suppress_tokens=None, **more)
        model = transformers.WhisperForConditionalGeneration(config)
        model.generation_config = transformers.GenerationConfig(**SETTINGS, **settings, **IDS)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            weights = Path(folder) / "model.safetensors"
            shapes = {tensor: list(value.shape) for tensor, value in load_file(weights).items()}
            save_file(by_formula(shapes), weights, metadata={"format": "pt"})
            found = {f: json.loads((Path(folder) / f"{f}.json").read_text()) for f in ("config", "generation_config")}
            model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = model(features(), decoder_input_ids=torch.tensor([TARGET])).logits[0, :, ::40]
        written = model.generate(features(), max_new_tokens=LIMIT, force_unique_generate_call=True, **asked)[0].tolist()
        found |= {"shapes": shapes, "logits": [[round(x, 6) for x in row] for row in logits.tolist()]}
        rows.append(f" {json.dumps(name)}: {json.dumps({**found, 'asked': asked, 'written': written})}")
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
