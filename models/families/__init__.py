"""Families: networks of other libraries as tables over the one reference network.

A family is a row: which configuration fields it reads, which it leaves alone and which may have one value only; which
:class:`~edgewise.models.config.ModelConfig` they make; and what its tensors are called here. Nothing outside this
folder asks for a family's name. To add one: write its table in a file of its own (:mod:`.bert` is a short example), put
it into ``FAMILIES``, and compare it with the library it comes from in ``tests/families``; or keep the file outside the
package, and name it when exporting (:mod:`.from_file`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ConfigError
from .bart import BART
from .bert import BERT
from .distilbert import DISTILBERT
from .electra import ELECTRA
from .family import ACTIVATIONS, Facts, Family, Fields
from .gemma import GEMMA2, GEMMA3
from .gpt2 import GPT2
from .gpt_neox import GPT_NEOX
from .llama import LLAMA
from .m2m100 import M2M100
from .marian import MARIAN
from .mbart import MBART
from .mistral import MISTRAL
from .modernbert import MODERNBERT
from .opt import OPT
from .pegasus import PEGASUS
from .phi3 import PHI3
from .qwen import QWEN2, QWEN3
from .roberta import ROBERTA, XLM_ROBERTA
from .smollm3 import SMOLLM3
from .t5 import MT5, T5
from .t5_encoder import MT5_ENCODER, T5_ENCODER
from .whisper import WHISPER

__all__ = ["FAMILIES", "family_of", "Family", "Fields", "Facts", "ACTIVATIONS"]

_ENCODERS = (BERT, DISTILBERT, ROBERTA, XLM_ROBERTA, ELECTRA, MODERNBERT, T5_ENCODER, MT5_ENCODER)
_DECODERS = (LLAMA, GPT2, OPT, GPT_NEOX, PHI3, QWEN2, QWEN3, MISTRAL, SMOLLM3, GEMMA2, GEMMA3)
_BOTH = (MARIAN, BART, MBART, M2M100, PEGASUS, T5, MT5, WHISPER)
FAMILIES: tuple[Family, ...] = (*_ENCODERS, *_DECODERS, *_BOTH)


def family_of(config: Mapping[str, Any], where: str, others: Sequence[Family] = ()) -> Family:
    """The family of a Hugging Face ``config.json``, by its one architecture; ``where`` begins the message.

    ``others`` go before those of the package.

    Raises:
        ConfigError: no family has it; lists those that there are.
    """
    families = (*others, *FAMILIES)
    named = config.get("architectures")
    for family in families:
        if isinstance(named, list) and len(named) == 1 and named[0] in family.architectures:
            return family
    known = ", ".join(name for family in families for name in family.architectures)
    raise ConfigError(
        f"{where}: architectures is {named!r}, expected one of {known}. Another one becomes known by a table in a file "
        "of your own: edgewise export --family FILE, see docs/families.md; or optimum makes graphs of it: edgewise "
        "export --exporter optimum, see docs/formats.md"
    )
