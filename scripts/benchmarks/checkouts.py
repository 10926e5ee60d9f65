"""The published code of a checkout, imported as it is: nothing of it is kept, nothing is written into it."""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from types import ModuleType


def imported(folder: Path, file: str, *, flag: str) -> ModuleType:
    """The module `file` of a checkout, which may import what lies beside it. Raises ValueError if it cannot be
    imported, naming the `flag` by which the checkout was given."""
    spec = importlib.util.spec_from_file_location(f"published_{flag}", folder / file)
    assert spec is not None
    assert spec.loader is not None
    module, known = importlib.util.module_from_spec(spec), set(sys.modules)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of any kind: it is not ours
        raise ValueError(f"{flag}: {folder / file} cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:  # such as "utils", which another checkout may have too
            if any(Path(place).is_relative_to(folder) for place in _places(sys.modules[name])):
                del sys.modules[name]
    return module


def _places(module: ModuleType) -> list[str]:
    """Where a module is: its file, or the folders of a package that has none."""
    file = getattr(module, "__file__", None)
    return [file] if file else list(getattr(module, "__path__", []))


@contextmanager
def quiet() -> Iterator[None]:
    """Neither bars nor warnings."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield
