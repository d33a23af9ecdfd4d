"""What a family is: a mapping of configurations and a map of tensor names, both read strictly."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, ConfigError
from ..config import Activation, ModelConfig, Pooling
from ..dense_config import DenseConfig
from ..languages import LanguageConfig

if TYPE_CHECKING:  # a configuration is read without torch: only tensors need it
    from torch import Tensor

    from ..transformer import Transformer

ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Names of activations in Hugging Face's configurations (``ACT2FN`` in ``transformers/activations.py``)."""

Around = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens before a text, and after it."""
_HARMLESS = """
    _attn_implementation _name_or_path architectures attention_dropout attention_probs_dropout_prob bos_token_id
    chunk_size_feed_forward classifier_dropout dtype eos_token_id finetuning_task gradient_checkpointing hidden_dropout
    hidden_dropout_prob id2label initializer_range label2id model_type output_attentions output_hidden_states
    pad_token_id pretraining_tp problem_type return_dict task_specific_params tokenizer_class torch_dtype
    transformers_version use_cache
"""
HARMLESS = frozenset(_HARMLESS.split())
"""Fields of any ``config.json`` that change nothing of what a finished network computes, or that a family reads."""

MAX_ENDS = 64
"""Tokens that may end a text, as many as a bundle holds."""
_ABSENT = object()
_FUNCTIONS = tuple(
    "adapt prepared computed unread_rows tokenizer source_tokenizer languages speech".split()  # noqa: SIM905
)
"""Of a row, by their fields."""
_OLD_ENDS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""How names ended in the first releases of BERT's weights."""


class Fields:
    """A ``config.json`` that is read once: every fault, and every field that nobody asked for, goes into one error."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data, self._where = data, where
        self._seen: set[str] = set()
        self.faults: list[str] = []

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = _ABSENT) -> Any:
        """The value of a field; without a ``default`` it must be there. ``None`` counts as absent."""
        self._seen.add(name)
        value = self._data.get(name)
        if value is None:
            if default is _ABSENT:
                self.faults.append(f"{name} is missing")
            return None if default is _ABSENT else default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            self.faults.append(f"{name} is {value!r}, expected {' or '.join(k.__name__ for k in kinds)}")
            return None
        return value

    def nullable(self, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
        """As :meth:`get`, but ``null`` in the file is ``None``, and only what is absent the ``default``."""
        return self.get(name, kind, None if name in self._data else default)

    def given(self, name: str) -> bool:
        """Whether there is such a field."""
        return self._data.get(name) is not None

    def choice(self, name: str, choices: Mapping[str, Any], default: str) -> Any:
        """What ``choices`` make of a field's value."""
        self._seen.add(name)
        value = self._data.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or value not in choices:
            self.faults.append(f"{name} is {value!r}, expected {' or '.join(map(repr, choices))}")
            return None
        return choices[value]

    def only(self, **expected: Any) -> None:
        """Fields that may be absent, and otherwise have this one value: another is mathematics not written here."""
        for name, value in expected.items():
            self._seen.add(name)
            if self._data.get(name, value) not in (value, None):
                self.faults.append(f"{name} is {self._data[name]!r}, expected {value!r}")

    def ignore(self, *names: str) -> None:
        """Fields that change nothing of what a finished network computes, whatever they hold."""
        self._seen.update(names)

    def build(self, make: Callable[[], ModelConfig]) -> ModelConfig:
        """The configuration that ``make`` builds, if there was nothing wrong.

        Raises:
            ConfigError: all faults, unknown fields among them, or what the configuration itself refuses.
        """
        unknown = sorted(set(self._data) - self._seen - HARMLESS)
        self.faults += [f"{name} ({self._data[name]!r}) is not understood" for name in unknown]
        if self.faults:
            raise ConfigError(
                f"{self._where}: {'; '.join(self.faults)}: what is not understood may change what the network computes"
            )
        try:
            return make()
        except ConfigError as error:
            raise ConfigError(f"{self._where}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What other files than ``config.json`` say of a network.

    ``prefix``, ``suffix``: special tokens that the tokenizer puts around a text; ``between`` the two texts of a pair,
    none where it makes no pairs, and ``second_type`` is what it calls the type of the second. ``mask``: the token that
    stands for a word to be found. ``pooling``, ``dense``, ``normalize`` and ``max_tokens`` (specials included): how
    sentence embeddings are made of states, where they are. ``eos``: what ``generation_config.json`` says ends a text,
    which goes before what ``config.json`` says; ``endless``: it says that nothing does. ``suppressed``: tokens that may
    not be generated, as either says. ``forced``: the first token that is generated, as the former says. ``source_end``:
    what ends a source, where sources have a vocabulary of their own. ``languages``: those that texts choose from, where
    there are any. ``speech``: of a network that hears, the fields of its ``SpeechConfig`` that are tokens. ``stored``:
    the names of the tensors that files hold.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    second_type: int = 0
    mask: int | None = None
    pooling: Pooling | None = None
    dense: DenseConfig | None = None
    normalize: bool = False
    max_tokens: int | None = None
    eos: int | list[int] | None = None
    endless: bool = False
    suppressed: tuple[int, ...] = ()
    forced: int | None = None
    source_end: int | None = None
    languages: LanguageConfig | None = None
    speech: Mapping[str, Any] | None = None
    stored: frozenset[str] = frozenset()

    def adds_start(self, fields: Fields, start: int) -> bool:
        """Whether ``start`` stands before a text of a decoder; anything else before or after it is a fault."""
        if self.suffix or self.prefix not in ((), (start,)):
            fields.faults.append(
                f"the tokenizer puts {self.prefix} before and {self.suffix} after a text, expected bos_token_id "
                f"({start}) or nothing before, and nothing after"
            )
        return bool(self.prefix)

    def end_id(self, fields: Fields, several: bool = False, *, default: int | None = 2) -> int:
        """The one token that ends a text; more are a fault, or with ``several`` the first of them.

        ``default``: where no file speaks of it. Where one says ``null``, or there is no default, nothing ends a text:
        a fault too, for the searches of a bundle end at a token.
        """
        given = fields.nullable("eos_token_id", (int, list), default) if self.eos is None else self.eos
        if self.endless or (given is None and not fields.given("eos_token_id")):
            fields.faults.append("eos_token_id is null, by which no text ever ends: name the token that ends one")
            return 0
        ends = given if isinstance(given, list) else [given]
        most = MAX_ENDS if several else 1
        if not 1 <= len(ends) <= most or not all(type(end) is int and end >= 0 for end in ends):
            wanted = f"1 to {most} tokens" if several else "one token"
            fields.faults.append(f"eos_token_id is {given!r}, expected {wanted}")
            return 0
        return int(ends[0])


def with_default_target(fields: Fields, facts: Facts, start: int | None) -> LanguageConfig | None:
    """The languages; into which one is translated where nobody says, ``start`` or the token that is forced tells.

    A ``start`` that has to be a language and is none, and a forced token that is none, are faults.
    """
    languages = facts.languages
    assert languages is not None
    forced = fields.get("forced_bos_token_id", int, None) if facts.forced is None else facts.forced
    fields.ignore("forced_bos_token_id")
    token = start if languages.target == "start" else forced
    code = next((code for code, i in languages.tokens.items() if i == token), None)
    if token is not None and code is None:
        name = "decoder_start_token_id" if languages.target == "start" else "forced_bos_token_id"
        fields.faults.append(f"{name} is {token}, expected the token of a language")
    return replace(languages, default_target=code or languages.default_target)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table.

    ``keys``: their names to ours, ``{i}`` standing for a number; a name stands for the tensors under it, ``.weight``
    and ``.bias``. Several of ours: theirs is cut into as many equal parts along its first axis. ``optional_prefix`` may
    stand before all of theirs. ``dropped``: regular expressions of names that hold nothing a network needs, or that a
    head does not use. ``transposed``: those of matrices that lie as ``(in, out)``. ``copies``: our names of tensors
    that must equal a parameter where there is none of their own, or stand for it where it is not in the file.
    ``zeros``: parameters that are 0 where a file lacks them. ``adapt``: their tensor, under our name, as this network
    has it. ``prepared``: all of their tensors as the other fields speak of them, where a file has them otherwise.
    ``computed``: parameters that no file holds. ``unread_rows``: how many rows at the beginning of a parameter no text
    reads, by our name. ``tokenizer``: the contents of a ``tokenizer.json`` out of the other files of a folder; ``None``
    where they are not there. ``source_tokenizer``: the same, and the token that ends a text, of sources with a
    vocabulary of their own. ``languages``: those that texts choose from, of a folder, its configuration, its
    tokenizer, and the tokens that this puts around a text. ``speech``: see :class:`Facts`, of what
    ``generation_config.json`` and ``config.json`` say together, a tokenizer, and where that is.

    Raises:
        ConfigError: the row contradicts itself.
    """

    architectures: tuple[str, ...]
    config: Callable[[Fields, Facts], ModelConfig]
    keys: Mapping[str, str | tuple[str, ...]]
    optional_prefix: str = ""
    dropped: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    adapt: Callable[[str, Tensor, Facts], Tensor] = lambda name, tensor, facts: tensor
    prepared: Callable[[Mapping[str, Tensor], ModelConfig], Mapping[str, Tensor]] = lambda tensors, config: tensors
    computed: Callable[[ModelConfig], Mapping[str, Tensor]] = lambda _: {}
    unread_rows: Callable[[ModelConfig], Mapping[str, int]] = lambda _: {}
    tokenizer: Callable[[Path, Mapping[str, Any]], str | None] = lambda folder, config: None
    source_tokenizer: Callable[[Path, Mapping[str, Any]], tuple[str, int] | None] = lambda folder, config: None
    languages: Callable[[Path, Mapping[str, Any], Any, Around], LanguageConfig | None] = lambda *_: None
    speech: Callable[[Mapping[str, Any], Any, str], Mapping[str, Any] | None] = lambda *_: None

    def __post_init__(self) -> None:
        for name in ("architectures", "dropped", "transposed", "zeros"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
                raise ConfigError(f"{name} is {value!r}, expected a tuple of strings")
        if not self.architectures:
            raise ConfigError("architectures is empty, expected the names that stand in config.json")
        if not callable(self.config):
            raise ConfigError(f"config is {self.config!r}, expected a function of Fields and Facts")
        for name in _FUNCTIONS:
            if not callable(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected a function")
        self._check_names()
        for pattern in (*self.dropped, *self.transposed):
            _check_pattern(pattern)
        for theirs, ours in self.keys.items():
            if any(theirs.count("{i}") != name.count("{i}") or theirs.count("{i}") > 1 for name in _several(ours)):
                raise ConfigError(f"{theirs!r} becomes {ours!r}, expected {{i}} once in both, or in neither")

    def _check_names(self) -> None:
        prefix = getattr(self, "optional_prefix")  # noqa: B009 of any type: a person's own file sets it
        if not isinstance(prefix, str):
            raise ConfigError(f"optional_prefix is {prefix!r}, expected a string")
        for name in ("keys", "copies"):
            pairs: Any = getattr(self, name)
            whole = isinstance(pairs, Mapping) and all(isinstance(v, str | tuple) for v in pairs.values())
            if not whole or not all(isinstance(n, str) for k, v in pairs.items() for n in (k, *_several(v))):
                raise ConfigError(f"{name} is {pairs!r}, expected a mapping of names")

    def ours(self, name: str) -> tuple[str, ...]:
        """Our names of their tensor, or of its parts in order; none where the table has none."""
        bare = name.removeprefix(self.optional_prefix)
        for old, new in _OLD_ENDS.items():
            bare = f"{bare.removesuffix(old)}{new}" if bare.endswith(old) else bare
        for theirs, ours in self.keys.items():
            pattern = re.escape(theirs).replace(re.escape("{i}"), r"(\d{1,4})")
            if match := re.fullmatch(rf"{pattern}(\.weight|\.bias)?", bare):
                *numbers, suffix = match.groups()
                number = str(int(numbers[0])) if numbers else ""
                return tuple(part.replace("{i}", number) + (suffix or "") for part in _several(ours))
        return ()

    def parts(self, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        """Our tensors in theirs, as the network has them; none where the table has none.

        Raises:
            CheckpointError: it cannot be cut, or is no matrix that could be transposed.
        """
        ours = self.ours(name)
        if self._is_any(name, self.transposed):
            if tensor.ndim != 2:
                raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}, expected a matrix")
            tensor = tensor.T
        if len(ours) < 2:
            return [(ours[0], tensor)] if ours else []
        if tensor.ndim == 0 or tensor.shape[0] % len(ours):
            shape = tuple(tensor.shape)
            raise CheckpointError(f"{name} has shape {shape}, expected {len(ours)} equal parts along the first axis")
        return list(zip(ours, tensor.chunk(len(ours)), strict=True))

    def is_dropped(self, name: str) -> bool:
        """Whether their tensor holds nothing that a network needs."""
        return self._is_any(name, self.dropped)

    def _is_any(self, name: str, patterns: tuple[str, ...]) -> bool:
        bare = name.removeprefix(self.optional_prefix)
        return any(re.fullmatch(pattern, bare) for pattern in patterns)


def _several(ours: str | tuple[str, ...]) -> tuple[str, ...]:
    return (ours,) if isinstance(ours, str) else ours


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}") from error


def build(
    family: Family,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    facts: Facts,
    where: str,
    head: Mapping[str, Tensor] = MappingProxyType({}),
) -> Transformer:
    """The reference network of a family's ``config`` and ``tensors``, whatever file they come from.

    ``head``: parameters that stand apart, by our names, of a head that the network may have.

    Raises:
        ConfigError: a field is missing, wrong, or not understood; all of them in one message that ``where`` begins.
        CheckpointError: a tensor is missing, unknown, given twice, misshapen or not finite; all in one message.
    """
    import torch

    from ..checkpoint import blueprint, filled

    fields = Fields(config, f"{where}: config.json")
    plan = blueprint(family.config(fields, replace(facts, stored=frozenset(tensors))))
    expected, unread = plan.state_dict(), family.unread_rows(plan.config)
    found: dict[str, Tensor] = {}
    copies: list[tuple[str, Tensor]] = []
    faults: list[str] = []
    for name, tensor in family.prepared(tensors, plan.config).items():
        try:
            parts = family.parts(name, tensor)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if not parts and not family.is_dropped(name):
            faults.append(f"unexpected {name}")
        for ours, part in parts:
            original = family.copies.get(ours)
            if ours not in expected and original is not None and original in expected:
                copies.append((original, part))
            elif ours not in expected and family.is_dropped(name):
                continue
            elif ours in found:
                faults.append(f"{name} is given twice, with and without {family.optional_prefix!r}")
            else:
                found[ours] = part[unread.get(ours, 0) :] if ours in unread else part
    for name, tensor in copies:
        if not _equal(found.setdefault(name, tensor), tensor):
            faults.append(f"a copy of {name} differs from it")
    found |= {
        name: torch.zeros(expected[name].shape) for name in family.zeros if name in expected.keys() - found.keys()
    }
    found = {name: family.adapt(name, tensor, facts) for name, tensor in found.items()}
    apart = head if head.keys() & expected.keys() else {}
    return filled(plan, {**found, **family.computed(plan.config), **apart}, where, faults)


def _equal(tensor: Tensor, copy: Tensor) -> bool:
    """As float32: types of eight bits, refused later, compare with no other."""
    import torch

    return tensor.shape == copy.shape and bool(torch.equal(tensor.float(), copy.float()))
