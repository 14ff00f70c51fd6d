"""Exercise checks. They name the usual mistake, never raise, and say "not answered yet" to an empty answer.

    kd.check.answer("03.1", my_loss)

A check is a function marked `@question("03.1")`; it gets the student's answer and returns None when it is right, or a
sentence that names what is wrong. Mistakes are recognised by running them: see `closest`.
"""
from typing import Callable

QUESTIONS: dict[str, Callable] = {}


def question(number: str):
    """Register the check of an exercise; its docstring's first line restates the task."""
    def mark(function):
        QUESTIONS[number] = function
        return function
    return mark


def answer(number: str, given) -> bool:
    """Check an answer and print the verdict. Returns True when it is right; an exercise never stops a notebook."""
    if number not in QUESTIONS:
        print(f"there is no exercise {number!r}; there are {', '.join(sorted(QUESTIONS))}")
        return False
    if given is None or given is ...:
        print(f"{number}: not answered yet")
        return False
    try:
        wrong = QUESTIONS[number](given)
    except _NotAnswered:
        print(f"{number}: not answered yet")
        return False
    except Exception as error:                       # the student's function failed: say so in one line, go on
        wrong = f"your answer raised {type(error).__name__}: {error}"
    print(f"{number}: right." if wrong is None else f"{number}: not yet. {wrong}")
    return wrong is None


class _NotAnswered(Exception):
    pass


def call(function, *args, **kw):
    """The student's function called; an answer of None or ... counts as "not answered yet"."""
    value = function(*args, **kw)
    if value is None or value is ...:
        raise _NotAnswered
    return value


def closest(value: float, right: float, mistakes: dict[str, float], tolerance: float = 1e-4) -> str | None:
    """None if `value` is right; else the mistake that gives exactly this value, or a plain "expected … got …"."""
    value = float(value)
    if abs(value - right) <= tolerance * max(1, abs(right)):
        return None
    for name, wrong in mistakes.items():
        if abs(value - wrong) <= tolerance * max(1, abs(wrong)):
            return f"{value:.4f} is what comes out when {name}."
    return f"expected {right:.4f}, got {value:.4f}."
