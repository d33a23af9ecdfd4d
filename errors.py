"""Every exception that edgewise raises on purpose.

::

    EdgewiseError
    ├── ConfigError            a model configuration contradicts itself
    ├── CheckpointError        a checkpoint is missing, damaged, or of another shape
    ├── MissingExtraError      an optional dependency is not installed; prints the command
    ├── BundleError            a bundle cannot be used
    │   ├── BundleFormatError      manifest missing, malformed, or of a newer format
    │   ├── BundleIntegrityError   a file is missing, or differs in size or hash
    │   └── UnsafeBundleError      a path leaves the bundle, or a graph holds what it may not
    ├── TargetError            a target or precision is unknown, not in the bundle, or not on this machine
    ├── EngineError            an engine failed, or gave NaN
    ├── InputError             text, tokens or options that a model cannot take
    │   └── ContextLengthError     more tokens than the model's context
    ├── TokenizerError         a tokenizer file is damaged
    ├── VerificationError      a replay left its tolerance
    ├── ExportError            a graph could not be made
    └── GateError              a quantized build lost more quality than allowed

Messages say the value, what was expected, and what to do.
"""

from __future__ import annotations


class EdgewiseError(Exception):
    """Root of the tree: catch this to catch everything edgewise raises on purpose."""


class ConfigError(EdgewiseError):
    """A model configuration contradicts itself."""


class CheckpointError(EdgewiseError):
    """A checkpoint is missing, damaged, or of another shape."""


class MissingExtraError(EdgewiseError):
    """An optional dependency is not installed."""


class BundleError(EdgewiseError):
    """A bundle cannot be used."""


class BundleFormatError(BundleError):
    """The manifest is missing, malformed, or of a newer format."""


class BundleIntegrityError(BundleError):
    """A file of the bundle is missing, or differs in size or hash."""


class UnsafeBundleError(BundleError):
    """A path leaves the bundle, or a graph holds what it may not."""


class TargetError(EdgewiseError):
    """A target or precision is unknown, not in the bundle, or not on this machine."""


class EngineError(EdgewiseError):
    """An engine failed, or gave values that are not numbers."""


class InputError(EdgewiseError):
    """Text, tokens or options that a model cannot take."""


class ContextLengthError(InputError):
    """More tokens than the model's context holds."""


class TokenizerError(EdgewiseError):
    """A tokenizer file is damaged."""


class VerificationError(EdgewiseError):
    """A replay of the reference cases left its tolerance."""


class ExportError(EdgewiseError):
    """A graph could not be made."""


class GateError(EdgewiseError):
    """A quantized build lost more quality than allowed."""
