"""What `check` of either side finds, and how it is shown: one line a finding, worst decides the exit code."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tape.console import out, print_json

WORDS = ("ok", "warning", "critical")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked. `level`: 0 fine, 1 warning, 2 critical."""

    what: str
    level: int
    text: str
    hint: str = ""


def report(findings: Sequence[Finding], *, json: bool) -> int:
    """Print all findings and return the exit code: the worst level."""
    worst = max((finding.level for finding in findings), default=0)
    if json:
        print_json({"level": worst, "findings": [asdict(finding) for finding in findings]})
        return worst
    for finding in findings:
        out.print(f"{WORDS[finding.level]:<9}{finding.what}: {finding.text}", markup=False)
        if finding.hint and finding.level:
            out.print(f"{'':9}hint: {finding.hint}", markup=False)
    return worst
