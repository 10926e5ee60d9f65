"""What a check says: one finding with a level and, when something is to be done, what."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "absent", "warning", "problem"]
"""ok: usable. absent: optional and not here, which is normal. warning: the core works, something is worth
doing. problem: the core does not work until it is done."""


@dataclass(frozen=True)
class Finding:
    """One line of `csd3d doctor`."""

    group: str
    name: str
    level: Level
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.level in ("warning", "problem") and not self.remedy:
            raise ValueError(f"finding {self.name!r}: a {self.level} must say what to do about it")


def core_works(findings: list[Finding]) -> bool:
    """True when no finding is a problem."""
    return all(finding.level != "problem" for finding in findings)
