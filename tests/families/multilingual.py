"""Folders of mBART, mBART-50, M2M-100 and NLLB as the original library writes them, tiny and random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

from edgewise.models.families.language_codes import MBART, MBART_50, NLLB_200

from ..models.gguf.lines import WRITTEN
from .folders import SOURCE_LINES, TARGET_LINES, randomize, sentencepiece_model, sentencepiece_processor, write_json

CODES = {"mbart": ("de_DE", "en_XX", "ru_RU"), "mbart-50": ("de_DE", "sl_SI", "en_XX")}
CODES |= {"m2m100": ("de", "zu", "en"), "nllb": ("deu_Latn", "zul_Latn", "eng_Latn")}
CASES: dict[str, dict[str, Any]] = {
    "mbart-50": {"activation_function": "relu", "scale_embedding": True},
    "mbart": {
        "tie_word_embeddings": False,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 24,
    },
    "m2m100": {
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": False,
        "encoder_layers": 3,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 40,
    },
    "nllb": {},
}
"""Each family with every switch of its configuration that changes the mathematics away from its default in one case."""
_LINES = [*SOURCE_LINES * 9, *TARGET_LINES * 9, *(line for line in WRITTEN if line.strip())]


def write_tokenizer(folder: Path, case: str, size: int = 430) -> None:
    """What the original library's tokenizer reads: for ``nllb`` a ``tokenizer.json`` that it wrote itself."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "bpe" if case in ("nllb", "m2m100") else "unigram"
    file = folder / "sentencepiece.bpe.model"
    file.write_bytes(sentencepiece_model(_LINES, vocab_size=size, model_type=kind))
    names = {"mbart": "MBart", "mbart-50": "MBart50", "m2m100": "M2M100", "nllb": "Nllb"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": f"{names[case]}Tokenizer"})
    if case == "m2m100":
        pieces = sentencepiece_processor(file)
        names_of = [pieces.id_to_piece(i) for i in range(3, len(pieces))]
        write_json(
            folder / "vocab.json", {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *names_of])}
        )
    if case == "nllb":
        transformers.NllbTokenizer.from_pretrained(folder, extra_special_tokens=NLLB_200).save_pretrained(folder)


def language_ids(folder: Path, case: str) -> dict[str, int]:
    """The token of every language, by the library's rules for its class, or as its ``tokenizer.json`` says."""
    if case == "nllb":
        added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        return {token["content"]: token["id"] for token in added if "_" in token["content"]}
    if case == "m2m100":
        return dict(transformers.M2M100Tokenizer.from_pretrained(folder).lang_code_to_id)
    pieces = len(sentencepiece_processor(folder / "sentencepiece.bpe.model"))
    return {code: pieces + i + 1 for i, code in enumerate(MBART if case == "mbart" else MBART_50)}


def multilingual_folder(folder: Path, case: str, *, seed: int = 3, std: float = 0.3, **config: Any) -> Path:
    """A folder of the case's network; ``config`` changes its configuration."""
    write_tokenizer(folder, case)
    languages = language_ids(folder, case)
    fields = {
        "vocab_size": max(languages.values()) + 9,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "decoder_start_token_id": languages[CODES[case][0]] if case == "mbart" else 2,
        "forced_eos_token_id": None,
        **CASES[case],
        **config,
    }
    kind = "MBart" if case.startswith("mbart") else "M2M100"
    made = getattr(transformers, f"{kind}Config")(**fields)
    model = randomize(getattr(transformers, f"{kind}ForConditionalGeneration")(made), seed, std)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # so that what is written depends on what is read
            if "norm" in name:
                parameter.add_(1.0) if name.endswith("weight") else parameter.mul_(0.2)
        if kind == "MBart":
            model.final_logits_bias.normal_(std=0.1, generator=torch.Generator().manual_seed(seed))  # type: ignore[operator,union-attr]
        for stack in (model.model.encoder, model.model.decoder):  # type: ignore[union-attr]
            stack.embed_tokens.weight.copy_(model.model.shared.weight)  # type: ignore[operator,union-attr] # one table
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def library_model(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()


def library_source(folder: Path, case: str, text: str, code: str) -> list[int]:
    """What the encoder reads of a text in language ``code``.

    By the library's tokenizer for M2M-100 and NLLB, and for mBART by the rules of its class over the sentencepiece
    library (``_convert_token_to_id`` and ``build_inputs_with_special_tokens`` of transformers 4.57.1).
    """
    if case in ("m2m100", "nllb"):
        kind = transformers.M2M100Tokenizer if case == "m2m100" else transformers.NllbTokenizer
        found: list[int] = kind.from_pretrained(folder, src_lang=code)(text, split_special_tokens=True)["input_ids"]
        return found
    pieces = sentencepiece_processor(folder / "sentencepiece.bpe.model")
    ids = [i + 1 if i else 3 for i in pieces.encode(text)]
    language = language_ids(folder, case)[code]
    return [*ids, 2, language] if case == "mbart" else [language, *ids, 2]
