"""Folders as Hugging Face writes them: ``config.json``, weights (one file or several with an index), a tokenizer.

Weights are safetensors, or without them ``pytorch_model.bin``, see :mod:`.pickled`. ``tokenizer.json`` is taken as it
is, and without it made of the files that a family reads instead, of a tiktoken file, see :mod:`.tiktoken_files`, or of
a ``vocab.txt``, see :mod:`.wordpiece`; what it says of truncation and padding is not read, it is the runtime's
business, and of its special tokens the configuration says where they stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from ...errors import CheckpointError
from ..config import ModelConfig
from ..files import CONFIG, TOKENIZER, WEIGHTS, plain_name, read_json
from . import family_of
from .chat import read_chat
from .family import Facts, Family, build
from .generation import check_generation, recommended
from .sentence import read_sentences
from .tiktoken_files import tiktoken_file, tiktoken_json
from .wordpiece import VOCABULARY, wordpiece_of

if TYPE_CHECKING:  # what a folder says beside its weights is read without torch
    from torch import Tensor

    from ..checkpoint import Checkpoint

INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
SPECIAL_TOKENS, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
LICENCES = ("NOTICE", "LICENSE", "LICENSE.txt", "LICENSE.md")
_LONGEST_NOTICE = 20_000  # characters, as in a bundle
_CARD = "README.md"
_FRONT_MATTER = re.compile(r"---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
_STATED = re.compile(r"""^license:[ ]*(["']?)([A-Za-z0-9][A-Za-z0-9._+-]{0,99})\1[ ]*$""", re.MULTILINE)
_PROBE = "a"
_MOST_BEAMS = 64  # as in a bundle


def is_huggingface(folder: Path) -> bool:
    """Whether the ``config.json`` there is one of Hugging Face's: it names architectures."""
    file = folder / CONFIG
    data = read_json(file) if file.is_file() else None
    return isinstance(data, dict) and bool({"architectures", "model_type"} & data.keys())


def read_huggingface(folder: Path, others: Sequence[Family] = ()) -> Checkpoint:
    """Read a folder of a family that is in ``FAMILIES`` or among ``others``, strictly.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor missing, unknown, misshapen or not finite.
        ConfigError: no family has this architecture, or a field is missing, wrong, or not understood.
    """
    from ..checkpoint import Checkpoint

    config = read_json(folder / CONFIG)
    family = family_of(config, str(folder / CONFIG), others)
    made = family.tokenizer(folder, config)
    tokenizer = _tokenizer(folder, made)
    source, source_end = family.source_tokenizer(folder, config) or (None, None)
    facts = replace(_facts(folder, config, tokenizer, family), source_end=source_end)
    files = weight_files(folder)
    tensors = _tensors(files)
    head_files, head = _dense(folder)
    model = build(family, config, tensors, facts, str(folder), head)
    check_generation(_optional(folder / GENERATION_CONFIG), model.config, str(folder / GENERATION_CONFIG))
    check_tokenizer(folder, model.config.vocab_size, tokenizer)
    if source is not None:
        check_tokenizer(folder, model.config.source_vocab_size or 0, read_tokenizer(folder, source), "vocab.json")
    longest = min(model.config.max_positions, facts.max_tokens or model.config.max_positions)
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        folder=folder,
        name=_name(folder),
        weight_files=(*files, *head_files),
        max_context=longest,
        beam_size=_beams(folder, config),
        end_ids=_other_ends(folder, config, model.config),
        decoding=recommended(_optional(folder / GENERATION_CONFIG), config, model.config, longest, str(folder)),
        source_tokenizer=source,
        made_tokenizer=made or (None if (folder / TOKENIZER).is_file() else tokenizer.to_str()),
        training={"recipe": f"{config['architectures'][0]}, read from a Hugging Face folder"},
        chat=read_chat(folder, _optional(folder / TOKENIZER_CONFIG), _optional(folder / SPECIAL_TOKENS)),
        notice=notice_of(folder),
    )


def check_tokenizer(folder: Path, vocab_size: int, tokenizer: Any = None, file: str = TOKENIZER) -> None:
    """Refuse a ``tokenizer.json`` that is damaged, or another network's; or a ``tokenizer`` made of other files.

    ``file`` is what a message calls it.

    Raises:
        CheckpointError: it is.
    """
    # The largest id counts, not how many there are: ids may have gaps.
    tokenizer = tokenizer or _tokenizer(folder)
    vocabulary = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if vocabulary > vocab_size:
        raise CheckpointError(
            f"{folder / file} has ids up to {vocabulary - 1}, the network {vocab_size} tokens: it is another one's"
        )


def own_tokenizer(folder: Path) -> Any:
    """The ``tokenizer.json`` of a format that has nothing else to make one of.

    Raises:
        CheckpointError: missing or damaged.
    """
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(f"{folder} has no {TOKENIZER}: put one there whose ids are those of the vocabulary")
    return _tokenizer(folder)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files with a folder's weights, each once; safetensors go before pickles.

    Raises:
        CheckpointError: there are none, or the index names something else than files beside it.
    """
    from .pickled import PICKLED, PICKLED_INDEX

    for whole, index, ending in ((WEIGHTS, INDEX, "safetensors"), (PICKLED, PICKLED_INDEX, "bin")):
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            return _indexed(folder / index, ending)
    raise CheckpointError(f"{folder} has none of {WEIGHTS}, {INDEX}, {PICKLED} and {PICKLED_INDEX}: copy it again")


def _indexed(file: Path, ending: str) -> tuple[Path, ...]:
    index = read_json(file)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not all(
        isinstance(name, str) and re.fullmatch(rf"[\w.-]+\.{ending}", name) for name in named.values()
    ):
        raise CheckpointError(f"{file}: expected weight_map, tensor names to plain names of .{ending} files")
    return tuple(file.parent / name for name in sorted(set(named.values())))


def _tensors(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """All tensors of all files.

    Raises:
        CheckpointError: a file cannot be read, or two hold a tensor of one name.
    """
    from ..checkpoint import read_tensors
    from .pickled import read_pickled

    found: dict[str, Tensor] = {}
    for file in files:
        tensors = read_pickled(file) if file.suffix == ".bin" else read_tensors(file)
        if twice := sorted(found.keys() & tensors.keys()):
            raise CheckpointError(f"{file}: {', '.join(twice[:5])} stand in another file too")
        found |= tensors
    return found


def _dense(folder: Path) -> tuple[tuple[Path, ...], dict[str, Tensor]]:
    """The files of a Dense that ``modules.json`` names, and its tensors by our names; none where it names none."""
    sentences = read_sentences(folder)
    if sentences is None or sentences.dense_folder is None:
        return (), {}
    files = weight_files(sentences.dense_folder)
    return files, {f"dense.{name.removeprefix('linear.')}": tensor for name, tensor in _tensors(files).items()}


def _facts(folder: Path, config: dict[str, Any], tokenizer: Any, family: Family | None) -> Facts:
    prefix, suffix = special_tokens(folder, tokenizer)
    between, second_type = _between_pairs(tokenizer, prefix, suffix)
    generation = _optional(folder / GENERATION_CONFIG)
    facts = Facts(
        prefix=prefix,
        suffix=suffix,
        between=between,
        second_type=second_type,
        mask=_mask(folder, tokenizer),
        eos=generation.get("eos_token_id"),
        endless=generation.get("eos_token_id", 0) is None,
        suppressed=_suppressed(folder, config, generation),
        forced=_forced(folder, generation),
        languages=family.languages(folder, config, tokenizer, (prefix, suffix)) if family else None,
        speech=family.speech({**config, **generation}, tokenizer, str(folder)) if family else None,
    )
    sentences = read_sentences(folder)
    if sentences is None:
        return facts
    return replace(
        facts,
        pooling=sentences.pooling,
        dense=sentences.dense,
        normalize=sentences.normalize,
        max_tokens=sentences.max_tokens,
    )


def _between_pairs(tokenizer: Any, prefix: tuple[int, ...], suffix: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """What the tokenizer puts between two texts, and the type of the second; nothing where it makes no such pairs."""
    bare = tuple(tokenizer.encode(_PROBE, add_special_tokens=False).ids)
    whole = tokenizer.encode(_PROBE, _PROBE)
    begin, end = (*prefix, *bare), (*bare, *suffix)
    ids, length = tuple(whole.ids), len(begin) + len(end)
    if len(ids) <= length or ids[: len(begin)] != begin or ids[-len(end) :] != end:
        return (), 0
    return ids[len(begin) : -len(end)], whole.type_ids[-len(end)]


def _mask(folder: Path, tokenizer: Any) -> int | None:
    """The token that ``tokenizer_config.json`` or ``special_tokens_map.json`` calls ``mask_token``."""
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        token = _optional(folder / name).get("mask_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found: int | None = tokenizer.token_to_id(text)
            return found
    # What a vocab.txt leaves out is as in the library that wrote it.
    return None if (folder / TOKENIZER).is_file() else tokenizer.token_to_id("[MASK]")


def _suppressed(folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> tuple[int, ...]:
    """Tokens that ``bad_words_ids`` forbid; longer words are a bundle's business.

    Raises:
        CheckpointError: no list of lists of token ids.
    """
    words = generation.get("bad_words_ids", config.get("bad_words_ids"))
    if words is None:
        return ()
    if not isinstance(words, list) or not all(isinstance(w, list) and w and {*map(type, w)} == {int} for w in words):
        raise CheckpointError(f"{folder}: bad_words_ids are {words!r}, expected lists of token ids")
    return tuple(word[0] for word in words if len(word) == 1)


def _forced(folder: Path, generation: dict[str, Any]) -> int | None:
    """What ``forced_bos_token_id`` says.

    Raises:
        CheckpointError: no token id.
    """
    token = generation.get("forced_bos_token_id")
    if token is not None and (type(token) is not int or token < 0):
        raise CheckpointError(f"{folder}: forced_bos_token_id is {token!r}, expected a token id")
    return token


def _other_ends(folder: Path, config: dict[str, Any], model: ModelConfig) -> tuple[int, ...]:
    """What ends a text beside the network's end token: the rest of a list that the family took the first of.

    Raises:
        CheckpointError: a token id beyond the vocabulary.
    """
    given = _optional(folder / GENERATION_CONFIG).get("eos_token_id", config.get("eos_token_id"))
    ends = tuple(end for end in dict.fromkeys(given) if end != model.end_id) if isinstance(given, list) else ()
    if wrong := [end for end in ends if end >= model.vocab_size]:
        last = model.vocab_size - 1
        raise CheckpointError(f"{folder}: eos_token_id has {wrong[0]}, and the vocabulary ends at {last}")
    return ends


def _beams(folder: Path, config: dict[str, Any]) -> int:
    """With how many beams the folder says to decode; 1, as transformers generate, where it says nothing."""
    beams = _optional(folder / GENERATION_CONFIG).get("num_beams", config.get("num_beams"))
    if beams is None:
        return 1
    if type(beams) is not int or not 1 <= beams <= _MOST_BEAMS:
        raise CheckpointError(f"{folder}: num_beams is {beams!r}, expected an integer from 1 to {_MOST_BEAMS}")
    return beams


def _tokenizer(folder: Path, made: str | None = None) -> Any:
    file = folder / TOKENIZER
    if not made and not file.is_file():
        return _made_tokenizer(folder)
    return read_tokenizer(file, made)


def read_tokenizer(file: Path, made: str | None = None) -> Any:
    """A tokenizer without truncation and padding; ``made``: contents in place of those of ``file``.

    Raises:
        CheckpointError: not one.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_str(made) if made else tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises the bare class
        raise CheckpointError(f"{file}: expected a tokenizer of the tokenizers library, got {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _made_tokenizer(folder: Path) -> Any:
    """A tokenizer made of what there is in place of ``tokenizer.json``."""
    if (file := tiktoken_file(folder)) is not None:
        text = tiktoken_json(file, _optional(folder / CONFIG), _optional(folder / TOKENIZER_CONFIG))
        return read_tokenizer(file, text)
    if not (folder / VOCABULARY).is_file():
        raise CheckpointError(
            f"{folder} has neither {TOKENIZER} nor {VOCABULARY}: save it there with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    settings = _optional(folder / SPECIAL_TOKENS) | _optional(folder / TOKENIZER_CONFIG)
    added = tuple(_optional(folder / ADDED_TOKENS))
    return wordpiece_of(folder / VOCABULARY, settings, folder / TOKENIZER_CONFIG, added)


def special_tokens(folder: Path, tokenizer: Any = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before a text and after it; ``add_bos_token`` in its configuration goes before.

    Raises:
        CheckpointError: the configuration asks for something else before or after a text, or the text itself changes.
    """
    tokenizer = tokenizer or _tokenizer(folder)
    bare, whole = (tokenizer.encode(_PROBE, add_special_tokens=special).ids for special in (False, True))
    place = next((i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare), None)
    if place is None:
        raise CheckpointError(f"{folder / TOKENIZER}: {_PROBE!r} becomes {bare} bare and {whole} with special tokens")
    prefix, suffix = tuple(whole[:place]), tuple(whole[place + len(bare) :])
    return _prefix_as_configured(folder, tokenizer, prefix), suffix


def _prefix_as_configured(folder: Path, tokenizer: Any, prefix: tuple[int, ...]) -> tuple[int, ...]:
    settings = _optional(folder / TOKENIZER_CONFIG)
    for name, expected in (("add_bos_token", (True, False, None)), ("add_eos_token", (False, None))):
        if not any(settings.get(name) is value for value in expected):
            raise CheckpointError(
                f"{folder / TOKENIZER_CONFIG}: {name} is {settings[name]!r}, expected "
                f"{' or '.join(json.dumps(value) for value in expected[:-1])}: it would change what the network reads"
            )
    adds, token = settings.get("add_bos_token"), settings.get("bos_token")
    text = token.get("content") if isinstance(token, dict) else token
    start = tokenizer.token_to_id(text) if isinstance(text, str) else None
    if adds is False and prefix == (start,):
        return ()
    return (start,) if adds is True and not prefix and start is not None else prefix


def _optional(file: Path) -> dict[str, Any]:
    """The object in a file that may be absent."""
    data = read_json(file) if file.is_file() else {}
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: expected an object, got {type(data).__name__}")
    return data


def _name(folder: Path) -> str:
    """A bundle's name from a folder's; in a cache of snapshots the repository's, not that of a commit."""
    path = folder.resolve()
    if path.parent.name == "snapshots":
        path = Path(path.parent.parent.name.rpartition("--")[2])
    return plain_name(path.name)


def notice_of(folder: Path) -> str:
    """The licence that a folder's files state; empty where none does."""
    files = (folder / name for name in LICENCES)
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file())
    return next(texts, _stated_licence(folder))[:_LONGEST_NOTICE]


def _stated_licence(folder: Path) -> str:
    """What the front matter of a model card gives as ``license``; empty where it gives none, or several."""
    file = folder / _CARD
    card = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    front = _FRONT_MATTER.match(card)
    stated = _STATED.search(front[1]) if front else None
    return f"{stated[2]}\n\nAs {_CARD} states; the folder had no licence file.\n" if stated else ""
