"""What ends a program in one line for a person instead of a traceback, and with which exit code."""

import errno

DEBUG_VARIABLE = "CSD3D_DEBUG"
"""Environment variable: when set and not empty, errors show their traceback (as `csd3d --debug` does)."""


def explain(error: Exception) -> tuple[str, int] | None:
    """(one line for a person, exit code) for an error that a person can act on, None for a fault of ours.

    Packages refuse bad input with ValueError, TypeError or an OSError whose text says what was expected and
    what arrived; here they only get their final form. A divergence (FloatingPointError) or a lack of memory is
    a failed run (1), everything else what was asked for (2).
    """
    if isinstance(error, FloatingPointError):
        return str(error) or "the run diverged", 1
    if out_of_memory(error):
        first = (str(error).splitlines() or [""])[0]
        return f"out of memory{': ' if first else ''}{first}", 1
    if isinstance(error, ImportError):
        return _explain_import(error)
    if isinstance(error, OSError):
        return _explain_os(error), 2
    if isinstance(error, ValueError | TypeError):
        return str(error).partition("\nException raised from")[0].strip() or type(error).__name__, 2
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of Path.resolve, until Python 3.13
        return f"expected a path that leads somewhere, got a link that leads in a circle ({error})", 2
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of which torch says so in a type for devices and in a text for the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):  # FFmpeg's text for a thread that could not be started is EAGAIN's
        return error.errno in (errno.ENOMEM, errno.EAGAIN)
    texts = (
        "can't allocate memory", "could not create a primitive", "not enough memory", "Insufficient memory",
        "failed to map segment",
    )  # fmt: skip
    return any(text in str(error) for text in texts)


def _explain_import(error: ImportError) -> tuple[str, int] | None:
    """A package that is missing or broken is the person's to install; a missing module of ours is our fault."""
    package = (error.name or "").partition(".")[0]
    if package in ("csd3d", "video", "panorama"):
        return None
    return f"{package or 'a package'} cannot be imported ({error}); `csd3d doctor` says what to install", 2


def _explain_os(error: OSError) -> str:
    """'FILE: reason' where the system gave both, else the error's own text; a full disk says what to do."""
    text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if error.errno == errno.ENOSPC:
        text += "; free some space first"
    return text or type(error).__name__
