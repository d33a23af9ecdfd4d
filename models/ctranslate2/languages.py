"""Languages of a CTranslate2 folder of mBART-50, M2M-100 or NLLB: CTranslate2 takes their tokens for any others.

Which tokens are languages and where they stand, the tokenizer's files tell, as those of Hugging Face's folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..families.fairseq import TOKENIZER_CLASSES, fairseq_languages
from ..families.huggingface import TOKENIZER_CONFIG
from ..files import read_json
from ..languages import LanguageConfig


def ctranslate2_languages(folder: Path, tokenizer: Any) -> LanguageConfig | None:
    """The languages, where ``tokenizer_config.json`` names a tokenizer that has them; else ``None``.

    Raises:
        CheckpointError: the tokenizer has no languages, or the file is no JSON.
        ConfigError: a language by default that is none, or tokens that stand behind a source.
    """
    file = folder / TOKENIZER_CONFIG
    settings = read_json(file) if file.is_file() else {}
    name = settings.get("tokenizer_class") if isinstance(settings, dict) else None
    if not isinstance(name, str) or name.removesuffix("Fast") not in TOKENIZER_CLASSES:
        return None
    found = fairseq_languages(folder, {}, tokenizer, ((), ()))
    if (found.source, found.target) != ("before", "forced"):
        raise ConfigError(
            f"{file}: with {name} languages of sources stand {found.source} a text and those of translations are "
            f"{found.target}, expected 'before' and 'forced', as CTranslate2 is asked for NLLB, M2M-100 and mBART-50"
        )
    return found
