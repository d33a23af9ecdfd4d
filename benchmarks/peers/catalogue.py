"""Which systems a workload compares."""

from __future__ import annotations

from .embedders import EMBEDDERS
from .generators import GENERATORS
from .systems import SYSTEMS, System
from .workloads import WORKLOADS, Kind

_BY_KIND: dict[Kind, dict[str, System]] = {"translate": SYSTEMS, "generate": GENERATORS, "embed": EMBEDDERS}


def systems_of(workload: str) -> dict[str, System]:
    """Its systems by name, in the order in which they are measured."""
    return _BY_KIND[WORKLOADS[workload].kind]


def every_system() -> list[System]:
    """All of them; a name may stand for several, one a kind of workload."""
    return [system for systems in _BY_KIND.values() for system in systems.values()]
