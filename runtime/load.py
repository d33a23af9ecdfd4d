"""Opening a bundle: which variant, on which engine, with how many threads."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, TargetError
from .bundle import Bundle
from .bundle.manifest import Manifest, Variant
from .cpu import available_cpus
from .options import is_count
from .session import Session
from .tokenizer import Tokenizer

EMBEDDED = Path(__file__).parent / "embedded" / "translate-en-de"
"""The bundle inside the package."""
TARGETS = ("cpu", "cuda", "openvino", "openvino:GPU", "openvino:NPU", "qnn")
PRECISIONS = ("fp32", "int8", "int8-fast", "int4")


def load(
    path: str | Path | None = None,
    target: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    *,
    verify: bool = True,
) -> Session:
    """Open a bundle and an engine for it.

    ``path``: the bundle's folder, by default the translator inside the package. ``target``: one of ``TARGETS``, or
    ``auto`` for ``cpu`` where the bundle has it. ``precision``: one of ``PRECISIONS``, or ``auto`` for ``int8`` where
    the bundle has it, else ``fp32``. ``threads``: by default what the machine and the cgroup allow. ``verify=False``
    leaves out the hashes, which are those of the chosen variant's files and of what all variants share.

    Raises:
        BundleError: the bundle is missing, damaged, unsafe, or of a newer format.
        TargetError: target or precision unknown, not in the bundle, or not on this machine.
        MissingExtraError: the target's library is not installed.
        EngineError: the engine cannot open the graphs.
        TokenizerError: the tokenizer is damaged.
        InputError: ``threads`` is no number of threads.
    """
    if threads is not None and not is_count(threads):
        raise InputError(f"threads ({threads!r}) must be an integer of at least 1, or None for what the machine has")
    check_names(target, precision)
    bundle = Bundle.open(
        path or EMBEDDED,
        verify,
        allow_hard_links=path is None,
        choose=lambda manifest: choose(manifest, target, precision)[1],
    )
    device, variant = choose(bundle.manifest, target, precision)
    from .engines import open_engine  # loads an engine's library, which a bundle that is refused need not wait for

    engine = open_engine(bundle, variant, device, threads or available_cpus())
    source = bundle.source_tokenizer_path
    own = Tokenizer.open(source) if source else None
    return Session(bundle, variant, engine, Tokenizer.open(bundle.tokenizer_path), own)


def check_names(target: str, precision: str) -> None:
    """Refuse names that no bundle could have.

    Raises:
        TargetError: unknown target or precision.
    """
    for kind, value, known in (("target", target, TARGETS), ("precision", precision, PRECISIONS)):
        if value != "auto" and value not in known:
            raise TargetError(f"{kind} {value!r} is unknown, expected auto, {', '.join(known)}")


def choose(manifest: Manifest, target: str, precision: str) -> tuple[str, Variant]:
    """The target to open and the variant for it; ``openvino:GPU`` takes the variant for ``openvino``.

    Raises:
        TargetError: not in the bundle.
    """
    there = {variant.target for variant in manifest.variants}
    device = ("cpu" if "cpu" in there else min(there)) if target == "auto" else target
    wanted = device.partition(":")[0]
    fitting: dict[str, Variant] = {
        variant.precision: variant for variant in manifest.variants if variant.target == wanted
    }
    order = ("int8", "fp32", "int4", "int8-fast") if precision == "auto" else (precision,)
    for name in order:
        if name in fitting:
            return device, fitting[name]
    raise TargetError(
        f"bundle {manifest.name!r} has no variant for target {device} at precision {precision}; "
        f"it has {', '.join(sorted(v.name for v in manifest.variants))}: choose one of these, or export it"
    )
