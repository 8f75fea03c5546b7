"""Checks behind the book's exercises: `check("ex-label", answer)` says whether an answer is right, and if not, why.

A check calls the answer on cases of its own and compares with an independent formula. Where it fails it names the
mistake. Each chapter's checks stand in a file of their own.
"""

import importlib
import pkgutil
from collections.abc import Callable

CHECKS: dict[str, Callable] = {}


class Mistake(Exception):
    """What is wrong with an answer, in one sentence that names the mistake."""


def exercise(label: str) -> Callable:
    """Register the decorated function as the check of the exercise `label`. It takes the answer, raises Mistake."""

    def register(function: Callable) -> Callable:
        if label in CHECKS:
            raise ValueError(f"two checks are registered for the exercise {label}")
        CHECKS[label] = function
        return function

    return register


def require(condition, message: str) -> None:
    """Raise Mistake(message) unless `condition` holds."""
    if not condition:
        raise Mistake(message)


def call(answer: Callable, *args, **kwargs):
    """What `answer` returns. Raises Mistake where it is no function, stops, or returns nothing."""
    require(callable(answer), f"expected a function, got {type(answer).__name__}")
    try:
        value = answer(*args, **kwargs)
    except Exception as error:
        raise Mistake(f"your function stopped with {type(error).__name__}: {error}") from error
    require(value is not None and value is not ..., "your function returns nothing yet: replace the dots")
    return value


def check(label: str, answer) -> bool:
    """Print and return whether `answer` (a function or a value) solves the exercise `label`.

    Raises KeyError for a label that no exercise has.
    """
    if label not in CHECKS:
        raise KeyError(f"no exercise is called {label!r}; there are {', '.join(sorted(CHECKS))}")
    try:
        require(answer is not None and answer is not ..., "there is no answer yet: replace the dots")
        CHECKS[label](answer)
    except Mistake as mistake:
        print(f"{label}: not yet. {str(mistake)[0].upper()}{str(mistake)[1:]}.")
        return False
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:  # an answer of another kind
        print(f"{label}: not yet. The check could not use your answer ({type(error).__name__}: {error}).")
        return False
    print(f"{label}: right.")
    return True


for _module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name.startswith("ch")):
    importlib.import_module(f"{__name__}.{_module}")
