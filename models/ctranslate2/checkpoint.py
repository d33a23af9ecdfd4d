"""A CTranslate2 folder as a checkpoint: ``model.bin``, ``config.json``, vocabularies, and a ``tokenizer.json``.

CTranslate2 leaves splitting text to others, so many folders have no ``tokenizer.json``; one must be put there, whose
ids are those of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError
from ..checkpoint import CONFIG, SOURCE_TOKENIZER, TOKENIZER, Checkpoint, blueprint, filled, plain_name, read_json
from ..families.huggingface import check_tokenizer, notice_of, own_tokenizer, read_tokenizer, special_tokens
from ..families.whisper import special_controls
from ..languages import LanguageConfig
from .languages import ctranslate2_languages
from .network import check_revision, network_of
from .reader import ModelBin, read_model_bin
from .whisper import SPEC, whisper_network, whisper_tokens

MODEL = "model.bin"
MAX_CONTEXT = 8192
"""Tokens, where positions are rotary: the folder does not say how many it was trained on."""
MAX_VOCABULARY_BYTES = 64 << 20
_UNUSED = {
    *("unk_token", "alignment_heads", "multi_query_attention"),
    *("quantization_type", "quantization_bits", "quantization_group_size"),
}
_READ = {"bos_token", "eos_token", "layer_norm_epsilon"}
_READ_OF_WHISPER = {"suppress_ids", "suppress_ids_begin", "lang_ids"}
_READ_OF_TRANSLATORS = {"decoder_start_token", "add_source_bos", "add_source_eos"}


def is_ctranslate2(folder: Path) -> bool:
    """Whether the folder is one of CTranslate2's."""
    return (folder / MODEL).is_file()


def read_ctranslate2(folder: Path) -> Checkpoint:
    """Read a folder, strictly; weights become float32.

    Raises:
        CheckpointError: a file is missing or damaged, a specification or variable is not understood, or the tokenizer
            is another one's.
        ConfigError: a setting is not understood.
    """
    model = read_model_bin(folder / MODEL)
    if model.spec == SPEC:
        return _read_whisper(folder, model)
    translates = model.spec == "TransformerSpec"
    config = _configuration(folder, translates)
    tokens, sources = _vocabularies(folder)
    tokenizer = own_tokenizer(folder)
    named = _Tokens(config, tokens, folder, TOKENIZER, tokenizer)
    reads, source_tokenizer = named, None
    if sources is not None:
        source_tokenizer = _source_tokenizer(folder)
        _check_ids(folder, sources, source_tokenizer, SOURCE_TOKENIZER)
        reads = _Tokens(config, sources, folder, SOURCE_TOKENIZER, source_tokenizer)
    languages = ctranslate2_languages(folder, tokenizer) if translates and source_tokenizer is None else None
    text = _source(named, reads, languages) if translates else _prompt(named)
    try:
        made, tensors = network_of(model, config, text)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{folder}: {error}") from error
    if made.vocab_size != len(tokens):
        raise CheckpointError(
            f"{folder}: the vocabulary has {len(tokens)} tokens, the embedding {made.vocab_size} rows"
        )
    if made.source_vocab_size not in (None, len(sources or tokens)):
        raise CheckpointError(
            f"{folder}: the vocabulary of sources has {len(sources or tokens)} tokens, their embedding "
            f"{made.source_vocab_size} rows"
        )
    _check_ids(folder, tokens, tokenizer, TOKENIZER)
    network = filled(blueprint(made), tensors, str(folder / MODEL))
    return Checkpoint(
        model=network.eval().requires_grad_(False),
        folder=folder,
        name=plain_name(folder.resolve().name),
        weight_files=(folder / MODEL,),
        max_context=made.max_positions,
        beam_size=2 if made.encoder else 1,  # CTranslate2's own defaults
        training={"recipe": f"{model.spec}, read from a CTranslate2 folder"},
        notice=notice_of(folder),
        source_tokenizer=None if source_tokenizer is None else source_tokenizer.to_str(),
    )


def _read_whisper(folder: Path, model: ModelBin) -> Checkpoint:
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / CONFIG}: expected an object, got {type(config).__name__}")
    if unknown := sorted(config.keys() - _READ_OF_WHISPER - _UNUSED):
        raise ConfigError(f"{folder / CONFIG}: {unknown} not understood")
    tokens, _ = _vocabularies(folder)
    own_tokenizer(folder)  # refuses what is none
    contents = special_controls(read_json(folder / TOKENIZER))
    tokenizer = read_tokenizer(folder / TOKENIZER, contents)
    end = tokenizer.token_to_id("<|endoftext|>")
    text = {"pad_id": end, "start_id": tokenizer.token_to_id("<|startoftranscript|>"), "end_id": end}
    if None in text.values():
        raise CheckpointError(f"{folder / TOKENIZER} lacks <|startoftranscript|> or <|endoftext|>: it is another one's")
    try:
        check_revision(model)
        made, tensors = whisper_network(model, text, whisper_tokens(config, len(tokens), tokenizer, TOKENIZER))
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{folder}: {error}") from error
    if made.vocab_size != len(tokens):
        raise CheckpointError(
            f"{folder}: the vocabulary has {len(tokens)} tokens, the embedding {made.vocab_size} rows"
        )
    _check_ids(folder, tokens, tokenizer, TOKENIZER)
    return Checkpoint(
        model=filled(blueprint(made), tensors, str(folder / MODEL)).eval().requires_grad_(False),
        folder=folder,
        name=plain_name(folder.resolve().name),
        weight_files=(folder / MODEL,),
        max_context=made.max_positions,
        beam_size=5,  # of Whisper.generate, as is the length penalty of 1
        decoding={
            "length_norm": "power",
            "length_penalty": 1.0,
            "suppress": [[token] for token in config.get("suppress_ids", ())],
        },
        training={"recipe": f"{model.spec}, read from a CTranslate2 folder"},
        notice=notice_of(folder),
        made_tokenizer=contents,
    )


def _configuration(folder: Path, translates: bool) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / CONFIG}: expected an object, got {type(config).__name__}")
    unknown = sorted(config.keys() - _READ - _UNUSED - (_READ_OF_TRANSLATORS if translates else set()))
    if unknown or config.get("quantization_type"):
        raise ConfigError(f"{folder / CONFIG}: {unknown or ['quantization_type']} not understood")
    return config


def _vocabularies(folder: Path) -> tuple[list[str], list[str] | None]:
    """The tokens of texts that are written, and those of sources where they are others."""
    found: dict[str, list[str]] = {}
    for name in ("shared_vocabulary", "vocabulary", "target_vocabulary", "source_vocabulary"):
        for suffix in ("json", "txt"):
            file = folder / f"{name}.{suffix}"
            if file.is_file():
                found[name] = _tokens(file)
    if not found:
        raise CheckpointError(f"{folder} has no vocabulary: expected shared_vocabulary.json, vocabulary.json or .txt")
    sources = found.pop("source_vocabulary", None)
    if not found or any(tokens != next(iter(found.values())) for tokens in found.values()):
        raise CheckpointError(f"{folder} has the vocabularies {sorted(found)}, expected one of translations")
    tokens = next(iter(found.values()))
    return tokens, None if sources == tokens else sources


def _source_tokenizer(folder: Path) -> Any:
    if not (folder / SOURCE_TOKENIZER).is_file():
        raise CheckpointError(
            f"{folder}: source and target have vocabularies of their own, and there is no {SOURCE_TOKENIZER}: put one "
            f"there whose ids are those of source_vocabulary.json, beside a {TOKENIZER} of target_vocabulary.json"
        )
    return read_tokenizer(folder / SOURCE_TOKENIZER)


def _tokens(file: Path) -> list[str]:
    if file.stat().st_size > MAX_VOCABULARY_BYTES:
        raise CheckpointError(f"{file}: more than {MAX_VOCABULARY_BYTES} bytes, expected a vocabulary")
    if file.suffix == ".json":
        tokens = read_json(file)
    else:
        try:
            tokens = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: expected lines of UTF-8, got {error}") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{file}: expected a list of tokens")
    return tokens


class _Tokens:
    """Ids of the tokens that a folder's configuration names, and what its tokenizer puts around a text."""

    def __init__(self, config: Mapping[str, Any], tokens: list[str], folder: Path, file: str, tokenizer: Any) -> None:
        self.config, self.folder, self.file = config, folder, file
        self.ids = {token: i for i, token in reversed(list(enumerate(tokens)))}
        self.prefix, self.suffix = special_tokens(folder, tokenizer)

    def named(self, field: str, default: str) -> int:
        token = self.config.get(field, default)
        if not isinstance(token, str) or token not in self.ids:
            raise ConfigError(f"{self.folder / CONFIG}: {field} is {token!r}, expected a token of the vocabulary")
        return self.ids[token]

    def flag(self, field: str) -> bool:
        value = self.config.get(field, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.folder / CONFIG}: {field} is {value!r}, expected true or false")
        return value

    def text(self, start: int) -> dict[str, Any]:
        """Ids that begin and end texts. CTranslate2 pads by lengths, so no token is set apart for it."""
        end = self.named("eos_token", "</s>")
        return {"pad_id": end, "start_id": start, "end_id": end, "max_positions": MAX_CONTEXT}


def _prompt(tokens: _Tokens) -> dict[str, Any]:
    """What a decoder alone reads around a text."""
    start = tokens.named("bos_token", "<s>")
    if tokens.suffix or tokens.prefix not in ((), (start,)):
        raise ConfigError(
            f"{tokens.folder / TOKENIZER} puts {tokens.prefix} before and {tokens.suffix} after a text, expected "
            f"bos_token ({start}) or nothing before, and nothing after"
        )
    return {**tokens.text(start), "adds_start": bool(tokens.prefix)}


def _source(tokens: _Tokens, reads: _Tokens, languages: LanguageConfig | None) -> dict[str, Any]:
    """What an encoder reads around a text: CTranslate2 adds its tokens to those that the tokenizer has put there.

    ``reads``: the tokens of sources; ``tokens``, where they have no others. ``languages``: each text has the token of
    its own before it, whichever the tokenizer puts there.
    """
    text, end = tokens.text(tokens.named("decoder_start_token", "<s>")), reads.named("eos_token", "</s>")
    start: tuple[int, ...] = (reads.named("bos_token", "<s>"),) if reads.flag("add_source_bos") else ()
    prefix = reads.prefix[1:] if languages and {*reads.prefix[:1]} & {*languages.tokens.values()} else reads.prefix
    before = start + prefix
    after = reads.suffix + ((end,) if reads.flag("add_source_eos") else ())
    if len(before) > 1 or after != (end,):
        raise ConfigError(
            f"{reads.folder}: {CONFIG} and {reads.file} together put {before} before and {after} after a source, "
            f"expected at most one token before, and eos_token ({end}) after: a source that ends in it has "
            "it from the tokenizer's template, or from add_source_eos"
        )
    if languages is not None:
        if before:
            raise ConfigError(
                f"{reads.folder}: {CONFIG} and {reads.file} together put {before} before a source beside its language, "
                "expected nothing"
            )
        return {**text, "languages": languages}
    if reads is not tokens:
        text |= {"source_end_id": end, "source_pad_id": end}
    elif before == (text["start_id"],):
        return {**text, "adds_start": True}
    return {**text, "source_start_id": before[0] if before else None}


def _check_ids(folder: Path, tokens: list[str], tokenizer: Any, file: str) -> None:
    check_tokenizer(folder, len(tokens), tokenizer, file)
    for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
        if tokens[index] != token:
            raise CheckpointError(
                f"{folder / file}: token {index} is {token!r}, in the vocabulary it is {tokens[index]!r}: it is "
                "another network's"
            )
