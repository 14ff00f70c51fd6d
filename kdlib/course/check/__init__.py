"""Exercise checks. They name the usual mistake and never raise.

    kd.check.answer("03.1", my_loss)
    kd.check.reveal("03.1")

Each notebook has a module here: the check of exercise 03.1 is in nb03. A check is a function marked
`@question("03.1")`. It gets the student's answer and returns None when that is right, or a sentence
that names what is wrong. It gives a hint and keeps the expected value to itself: that is in the
module's `ANSWERS`, a text an exercise, which `reveal` prints on request.
"""

from . import nb00, nb01, nb02, nb03, nb04, nb05, nb06, nb07, nb08, nb09, nb10
from .common import QUESTIONS, NotAnswered, filled

# What `reveal` prints: {number of the exercise: a model answer and its reason}.
ANSWERS: dict[str, str] = {}
for _module in (nb00, nb01, nb02, nb03, nb04, nb05, nb06, nb07, nb08, nb09, nb10):
    ANSWERS |= getattr(_module, "ANSWERS", {})


def answer(number: str, given) -> bool:
    """Check an answer and print the verdict. Returns True when it is right.

    An exercise never stops a notebook: a student's function that raises is a wrong answer, and an
    empty answer (None or `...`) is "not answered yet".
    """
    if number not in QUESTIONS:
        print(f"there is no exercise {number!r}; there are {', '.join(sorted(QUESTIONS))}")
        return False
    try:
        wrong = QUESTIONS[number](filled(given))
    except NotAnswered:
        print(f"{number}: not answered yet")
        return False
    except Exception as error:  # the student's function failed: say so in one line, go on
        wrong = f"Your answer raised {type(error).__name__}: {error}"
    wrong = wrong and wrong[0].upper() + wrong[1:]
    print(f"{number}: right." if wrong is None else f"{number}: not yet. {wrong}")
    if wrong is not None and number in ANSWERS:
        print(f'    (Stuck? kd.check.reveal("{number}") shows a model answer.)')
    return wrong is None


def reveal(number: str) -> None:
    """Print a model answer and its reason. Try first: a wrong answer gets a hint."""
    if number in ANSWERS:
        print(ANSWERS[number].strip())
    elif number in QUESTIONS:
        print(f"{number}: its answer stands in notebooks/solutions")
    else:
        print(f"there is no exercise {number!r}; there are {', '.join(sorted(ANSWERS))}")
