"""A GGUF file as a checkpoint: its network by the table of a family, and a tokenizer made of its vocabulary.

What a file says and a bundle cannot hold as it stands:

* A network ends a text at one token. The file's end of a turn (``tokenizer.ggml.eot_token_id``) is taken where it is
  stated, else its end of a text (``eos_token_id``), which in files of chat models is mostly that of a turn, too. Other
  end tokens that the vocabulary holds end a result as well, where the bundle decodes.
* A context above ``MAX_CONTEXT`` of :mod:`.network` is cut: tables of rotations, which every variant holds, grow with
  it.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ..chat import ChatSource
from ..checkpoint import Checkpoint, plain_name
from ..families.family import MAX_ENDS, Facts, build
from .metadata import lookup, refuse
from .network import network_of
from .reader import GgufFile, open_gguf
from .tokenizer import adds_start, tokenizer_json
from .vocabulary import Vocabulary, read_vocabulary

_LONGEST_LINE = 500  # characters


def read_gguf(path: Path) -> Checkpoint:
    """Read a file of a family that is in ``FAMILIES``, strictly; weights become float32.

    Raises:
        CheckpointError: not GGUF, damaged, of another architecture, without a token that a text needs, or with tensors
            or tokens that do not fit each other.
        ConfigError: a setting is not understood, or the tokenizer puts an end token behind every text.
        TokenizerError: a tokenizer of a kind that is not converted.
    """
    file = open_gguf(path)
    vocabulary = read_vocabulary(file)
    network = network_of(file, vocabulary)
    config = network.config
    if len(vocabulary.tokens) > config["vocab_size"]:
        refuse(file, f"has {len(vocabulary.tokens)} tokens, its embedding {config['vocab_size']} rows")
    tokenizer, facts = tokenizer_json(vocabulary), _facts(file, vocabulary)
    weights = {name: torch.from_numpy(values) for name, values in network.tensors}
    model = build(network.family, config, weights, facts, str(path))
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        folder=path.parent,
        name=plain_name(path.stem),
        weight_files=(path,),
        max_context=network.longest,
        beam_size=1,  # as llama.cpp generates: it has no beams
        end_ids=tuple(sorted(vocabulary.end_ids - {model.config.end_id}))[:MAX_ENDS],
        training={"recipe": _recipe(file, vocabulary, model.config.end_id)},
        notice=_notice(file),
        made_tokenizer=tokenizer,
        chat=_chat(vocabulary),
    )


def _facts(file: GgufFile, vocabulary: Vocabulary) -> Facts:
    """Which tokens begin and end a text; a guess would be an id that means something else."""
    start = _stated(file, "bos", vocabulary.start_id)
    end = _stated(file, "eos", vocabulary.end_id if vocabulary.turn_end_id is None else vocabulary.turn_end_id)
    suffix = (end,) if vocabulary.adds_end else ()
    return Facts(prefix=(start,) if adds_start(vocabulary) else (), suffix=suffix, eos=end)


def _stated(file: GgufFile, name: str, token: int | None) -> int:
    if token is None:
        refuse(file, f"has no metadata 'tokenizer.ggml.{name}_token_id', expected the id of a token")
    return token


def _recipe(file: GgufFile, vocabulary: Vocabulary, end: int) -> str:
    """For provenance: what was read, and where its texts end."""
    architecture = lookup(file, "general.architecture", str)
    taken, *others = (repr(vocabulary.tokens[index][:60]) for index in (end, *sorted(vocabulary.end_ids - {end})))
    also = f", and at {', '.join(others)}" if others else ""
    return f"{architecture}, read from a GGUF file; a text ends at {taken}{also}"


def _chat(vocabulary: Vocabulary) -> ChatSource | None:
    if vocabulary.chat_template is None:
        return None
    ids = (vocabulary.start_id, vocabulary.end_id, vocabulary.unknown_id, vocabulary.pad_id)
    named = zip(("bos_token", "eos_token", "unk_token", "pad_token"), ids, strict=True)
    variables = {name: vocabulary.tokens[index] for name, index in named if index is not None}
    return ChatSource(template=vocabulary.chat_template, variables=variables)


def _notice(file: GgufFile) -> str:
    """The licence's name where the file states one, then whose weights they are and where to read it."""
    keys = ("license.name", "license", "license.link", "name", "author", "organization", "url")
    stated = {f"general.{key}": text for key in keys if (text := _line(file, f"general.{key}"))}
    licence = stated.get("general.license.name") or stated.get("general.license")
    if not licence:
        return ""
    lines = [f"{key}: {text}" for key, text in stated.items()]
    return "\n".join([licence, "", f"As stated in the metadata of {file.path.name}:", *lines, ""])


def _line(file: GgufFile, key: str) -> str:
    """A text from outside as one short line without control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", lookup(file, key, str, "")).split())[:_LONGEST_LINE]
