"""What is edited now: the sentences and scales that the command line gave and the viewer may have changed since, and
the prior that serves them. Knows no scene.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, get_args

from csd3d.engine.config import CsdConfig
from csd3d.nerf.settings import EditSettings
from csd3d.nerf.viewer import Scale
from csd3d.priors.loading import Loading
from csd3d.priors.prior import Prior, Prompts
from csd3d.priors.store.resolve import Resolved
from csd3d.runs.found_masks import MaskSearch


class CurrentEdit:
    """Sentences, scales and prior of the current edit. The settings that were given never change."""

    def __init__(self, settings: EditSettings, resolved: Resolved, device: str) -> None:
        """`resolved`: the prior that the settings ask for; `device`: where it computes, unless the settings say."""
        self.settings = settings
        self.prompt = settings.asked_prompt
        self.source_prompt = settings.source_prompt
        self.scales: dict[Scale, float | None] = {name: getattr(settings, name) for name in get_args(Scale)}
        """None: what suits the prior."""
        self.given = self.state()
        """The same as the command line gave it."""
        self._resolved, self._device = resolved, device
        self._search: MaskSearch | None = None

    @cached_property
    def prior(self) -> Prior:
        """The prior, loaded when first used; it is no part of the module, so never in a checkpoint."""
        from csd3d.priors.auto import load_prior  # slow to import, and eval never needs it

        device = self.settings.prior_device or self._device
        prior = load_prior(self._resolved, device=device, how=Loading.of(self.settings))
        self.settings.require_kind(prior.kind)
        return prior

    @property
    def size_px(self) -> int:
        """Shorter side in px at which the prior works."""
        return self.settings.size or self.prior.native_px

    @property
    def strength(self) -> float:
        """Share of an edit that is kept, 0 to 1."""
        strength = self.scales["strength"]
        assert strength is not None  # as its setting has a default
        return strength

    def csd(self) -> CsdConfig:
        """Settings of the engine for one batch of views."""
        return self._with_scales(self.settings.engine(builtin=self.prior.builtin, family=self._resolved.family))

    def require(self, prompt: str, source_prompt: str | None) -> None:
        """Raises `ValueError` for what the prior cannot serve, by its words, by its kind or by its training."""
        prompts = Prompts(prompt, source_prompt)
        self.prior.score_under(self.csd(), prompts, self.settings.attending)
        if (search := self.mask_search()) is not None:
            search.under(prompts)

    def mask_search(self) -> MaskSearch | None:
        """How masks are sought; None: they are not."""
        settings = self.settings
        if settings.mask is None and settings.mask_words is None:
            return None
        if self._search is None:
            self._search = MaskSearch(self.prior, settings.mask_words)
        return self._search

    def refusal_of(self, prompt: str, source_prompt: str | None) -> str:
        """Why sentences cannot be edited by, in one line; empty if they can."""
        if not prompt:
            return "prompt: expected a sentence, got none"
        try:
            self.require(prompt, source_prompt)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return ""

    @property
    def takes_captions(self) -> bool:
        """Whether sentences are captions for a text-to-image prior; loads none."""
        return self._resolved.kind != "instruct" and self.settings.method not in (None, "csd-edit")

    @property
    def needs_source_prompt(self) -> bool:
        """Whether a caption of the scene is needed too."""
        return (
            self.takes_captions
            and self.settings.engine(builtin=self._resolved.builtin, family=self._resolved.family).residual == "source"
        )

    def scales_in_use(self) -> dict[Scale, float]:
        """The scales that mean something to the prior and the driver, with their values; loads no prior."""
        csd = self._with_scales(self.settings.engine(builtin=self._resolved.builtin, family=self._resolved.family))
        scales: dict[Scale, float] = {"s_text": csd.s_text}
        if not self.takes_captions:
            scales["s_image"] = csd.s_image
        if self.settings.driver == "update":
            scales["strength"] = self.strength
        return scales

    def state(self) -> dict[str, Any]:
        """What the viewer can change, as it is now."""
        return {"prompt": self.prompt, "source_prompt": self.source_prompt, **self.scales}

    def load(self, state: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """Return to a `state`, except where the command line now gives something else than it did then (`given`).

        Raises:
            ValueError: the prior cannot serve the sentences.
        """
        now = {name: state[name] if now in (None, given[name]) else now for name, now in self.given.items()}
        self.prompt, self.source_prompt = now["prompt"], now["source_prompt"]
        if self.prompt:
            self.require(self.prompt, self.source_prompt)
        self.scales = {name: now[name] for name in self.scales}

    def _with_scales(self, csd: CsdConfig) -> CsdConfig:
        changed = {k: v for k in ("s_text", "s_image") if (v := self.scales[k]) is not None}
        return replace(csd, **changed)
