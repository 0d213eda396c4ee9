"""The first half of a resync: look at every target, side by side, and say what is not as the catalog has it."""

import threading
from collections.abc import Callable, Collection, Sequence

from receiver import catalog_walk as walk
from receiver.catalog import Catalog
from receiver.catalog_targets import replaced
from receiver.resync_compare import Comparison, Finding, Present
from receiver.resync_plan import Findings, Plan, TargetPlan
from receiver.targets.contract import Target
from tape.clock import Clock
from tape.errors import HometapeError

Told = Callable[[str, int], None]


class Survey:
    """One look. `progress` is told (target, files listed so far), from several threads."""

    def __init__(
        self,
        catalog: Catalog,
        targets: Sequence[Target],
        findings: Findings,
        *,
        clock: Clock,
        began_ns: int,
        progress: Told | None = None,
    ) -> None:
        self._catalog = catalog
        self._targets = targets
        self._findings = findings
        self._clock = clock
        self._began = began_ns
        self._progress: Told = progress or (lambda _target, _files: None)
        self._top = catalog.ask(walk.newest)
        self._present: dict[str, Present] = {}

    def run(self, only: Collection[str] = (), *, sums: bool = False) -> Plan:
        """Look at all targets (or `only` these). `sums`: read SHA256SUMS at remotes too. Raises StoreError."""
        chosen = [target for target in self._targets if not only or target.id in only]
        plans = [TargetPlan(target.id) for target in chosen]
        fatal: list[BaseException] = []

        def work(target: Target, plan: TargetPlan) -> None:
            try:
                self._one(target, plan, sums=sums or target.capabilities.local)
            except HometapeError as error:
                plan.error, plan.hint = str(error), error.hint
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread below
                fatal.append(error)

        threads = [
            threading.Thread(target=work, args=pair, name=f"resync-{pair[0].id}", daemon=True)
            for pair in zip(chosen, plans, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if fatal:
            raise fatal[0]
        held = sum(totals.segments for totals in self._catalog.streams())
        return Plan(plans, held=held)

    def _one(self, target: Target, plan: TargetPlan, *, sums: bool) -> None:
        state = target.state()
        if not state.readable:
            plan.error, plan.hint = state.reason, state.hint
            return
        known = next((one for one in self._catalog.targets() if one.name == target.id), None)
        plan.replaced = replaced(known, target.instance())
        present = Present(self._top)

        def progress(files: int) -> None:
            plan.files = files
            self._progress(target.id, files)

        comparison = Comparison(
            self._catalog,
            target,
            clock=self._clock,
            began_ns=self._began,
            present=present,
            sums=sums,
            progress=progress,
        )
        for finding in comparison.run():
            self._note(plan, finding)
        self._present[target.id] = present

    def _note(self, plan: TargetPlan, finding: Finding) -> None:
        plan.found[finding.kind].add(finding.path, finding.size)
        self._findings.add(plan.target, finding)

    def bad_bytes(self, plan: Plan, target: str, finding: Finding) -> None:
        """A copy was read and is not what it must be: one more finding, unless the listing told of it already."""
        present = self._present.get(target)
        if present is None or not present.has(finding.segment):
            return
        present.put(finding.segment, there=False)
        for one in plan.targets:
            if one.target == target:
                self._note(one, finding)

    def gone(self, plan: Plan) -> None:
        """Count what lies nowhere: at no target that was listed, and by the catalog at none that was not."""
        union = Present(self._top)
        for present in self._present.values():
            union.take(present)
        unlisted = [target.id for target in self._targets if target.id not in self._present]
        numbers = self._catalog.ask(lambda base: [walk.target_number(base, name) for name in unlisted])
        for first, last in union.absent():
            self._gone_within(plan, union, numbers, first, last)

    def _gone_within(self, plan: Plan, union: Present, targets: Sequence[int], first: int, last: int) -> None:
        there = self._catalog.ask(lambda base: walk.existing(base, first, last))
        lacking = [number for number in there if not union.has(number)]
        for start in range(0, len(lacking), 500):
            chunk = lacking[start : start + 500]
            for number, size in self._nowhere(chunk, targets):
                held = self._catalog.get(number)
                plan.gone.add("" if held is None else str(held.path), size)

    def _nowhere(self, segments: Sequence[int], targets: Sequence[int]) -> list[tuple[int, int]]:
        return self._catalog.ask(lambda base: list(walk.without_copy(base, segments, targets)))


def estimate(plan: Plan, rates: dict[str, float]) -> None:
    """Fill in what each target is expected to take, bytes a second, as far as anything is known."""
    for one in plan.targets:
        one.rate = rates.get(one.target)
