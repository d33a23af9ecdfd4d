"""Families: networks of other libraries as tables over the one reference network.

A family is a row: which configuration fields it reads, which it leaves alone and which may have one value only; which
:class:`~edgewise.models.config.ModelConfig` they make; and what its tensors are called here. Nothing outside this
folder asks for a family's name. To add one: write its table in a file of its own (:mod:`.bert` is a short example), put
it into ``FAMILIES``, and compare it with the library it comes from in ``tests/families``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from .bert import BERT
from .family import Family
from .llama import LLAMA

FAMILIES: tuple[Family, ...] = (BERT, LLAMA)


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family of a Hugging Face ``config.json``, by its one architecture; ``where`` begins the message.

    Raises:
        ConfigError: no family has it; lists those that there are.
    """
    named = config.get("architectures")
    for family in FAMILIES:
        if isinstance(named, list) and len(named) == 1 and named[0] in family.architectures:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise ConfigError(
        f"{where}: architectures is {named!r}, expected one of {known}. Another one becomes known by a table in "
        "models/families, see the docstring there"
    )
