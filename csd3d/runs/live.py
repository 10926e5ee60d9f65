"""The report of a run that still goes on: how far it is, its curves and a picture.

A browser that shows it loads it again every few seconds. When the run is finished, its report is in the same place.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.runs.folder import RunFolder
from csd3d.runs.log import StepLog
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from csd3d.runs.report import Report, write_report

EVERY_S = 10
"""Seconds between two looks, at least: a run that is over before has none."""

Look = Callable[[], Mapping[str, Float[Tensor, "_n 3 _H _W"]]]
"""The rows of a contact sheet of how things are."""


class LivePage:
    """Writes it now and then."""

    def __init__(
        self, folder: RunFolder, manifest: Manifest, progress: RunProgress, log: StepLog, total: int, look: Look | None
    ) -> None:
        """Of the steps of `log`; `total`: as `--steps` counts them, when all are done."""
        self._folder, self._manifest, self._progress = folder, manifest, progress
        self._log, self._total, self._look = log, total, look
        self._since, self._there = progress.clock(), False

    def update(self) -> None:
        """Write the page, if the last one is old."""
        if self._progress.clock() - self._since < EVERY_S:
            return
        if self._look is not None:
            save_picture(contact_sheet(self._look()), self._folder.sheet)
        self._write(f"{self._manifest.steps} of {self._total} steps", refresh_s=EVERY_S)
        if not self._there:
            self._progress.say(f"how it looks so far: {self._folder.report}")
        self._since, self._there = self._progress.clock(), True

    def stop(self) -> None:
        """The run ended before it was finished: the page, if there is one, says so and is not loaded again."""
        if self._there:
            status = f"{self._manifest.status} after {self._manifest.steps} of {self._total} steps"
            self._write(status, refresh_s=0)

    def _write(self, status: str, *, refresh_s: int) -> None:
        manifest, folder = self._manifest, self._folder
        page = Report(
            title=str(manifest.config.get("prompt") or manifest.command), subtitle=status,
            facts=[f"prior {manifest.prior.get('name')}"], sheet=folder.sheet.name if self._look else "",
            curves=self._log.curves(), notes=manifest.notes, settings=manifest.config, refresh_s=refresh_s,
        )  # fmt: skip
        write_report(folder.report, page)
