"""The prior that somebody asked for, or the one that a method is for. Loads no weights."""

from csd3d.engine.config import Method
from csd3d.priors.defaults import default_prior
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.store.resolve import Resolved, resolve


def resolve_for(
    method: Method | None, name: str | None, *, device: str | None = None, how: Loading = PLAIN
) -> Resolved:
    """The prior that a person named (None: the method's own), as far as `default_config` has to know it.

    A hub id is fetched, as `device` wants it, where only its files tell the kind. Raises what `find_prior` does.
    """
    found = resolve(name or default_prior(method), how)
    if found.kind is None and method in (None, "csd-edit"):
        from csd3d.priors.auto import find_prior  # slow to import

        return find_prior(found, device=device, how=how)
    return found
