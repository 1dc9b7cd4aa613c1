"""What went wrong, in one line, where the user can mend it."""

from __future__ import annotations

import sys

_PACKAGE_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow"}
_OURS = ("semcom", "channels", "nodes", "scenarios", "analysis")


def _missing_package(error: ImportError) -> str | None:
    """Says what to install for an import that failed; None if what failed is the project's own."""
    top = (error.name or "").partition(".")[0]
    if not top or top in _OURS:
        return None
    from scenarios.doctor import requirements

    package = _PACKAGE_OF.get(top, top)
    try:
        versions = requirements().get(package, "")
    except ImportError:
        versions = ""
    if isinstance(error, ModuleNotFoundError):
        return f'package {package} is not installed: pip install "{package}{versions}"'
    return f'package {package} is broken ({error}): pip install --force-reinstall "{package}{versions}"'


def explain(error: BaseException) -> str | None:
    """The one line for an error that the user can mend; None for one that is a fault of the program."""
    # Ray hands over an error of a worker wrapped in its own; what the worker raised is the cause.
    causes = [error, getattr(error, "cause", None)]
    contracts = sys.modules.get("semcom.contracts")
    for cause in causes:
        if contracts is not None and isinstance(cause, contracts.SemcomError):
            return str(cause)
        if isinstance(cause, ImportError):
            return _missing_package(cause)
    return None
