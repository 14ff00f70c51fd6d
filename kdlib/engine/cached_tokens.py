"""A language model's teacher that has answered already: batches find their answers in its caches.

The answers are too many for a column of the dataset. The column `teacher_place` holds, for each
row, its place in the caches, counted through all of them.
"""

from torch import Tensor

from ..losses import TopK

TEACHER_PLACE = "teacher_place"


def with_places(rows, caches: list, must_find: bool):
    """`rows` with their places as a column, from the first cache that knows all of them.

    Where no cache does: ValueError if `must_find`, else `rows` unchanged.
    """
    rows_before = 0
    for cache in caches:
        try:
            places = cache.find(rows)
        except ValueError:
            if must_find and cache is caches[-1]:
                raise
        else:
            # An older column, of other caches, must not be taken for this one.
            others = [name for name in rows.column_names if name != TEACHER_PLACE]
            return rows.select_columns(others).add_column(TEACHER_PLACE, places + rows_before)
        rows_before += len(cache)
    return rows


def check_caches(caches: list, model, temperature: float) -> None:
    """ValueError unless the caches hold tokens of this model's vocabulary.

    The probability of all other tokens must be known at this temperature, too.
    """
    for cache in caches:
        if cache.kind != "topk":
            raise ValueError(
                "this teacher cache keeps a classifier's logits; "
                "a language model's is built with topk=…"
            )
        cached, own = cache.manifest["vocabulary"], model.config.vocab_size
        # Ids are places in a vocabulary: of another one they are other words.
        if cached != own:
            raise ValueError(f"the teacher cache knows {cached:,} words, the student has {own:,}")
        if float(temperature) not in cache.manifest["key"]["temperatures"]:
            cache.topk([], temperature)  # raises, and says which temperatures it was built for


def cached_answers(caches: list, places: Tensor, temperature: float, device) -> TopK:
    """The batch's answers (tokens, k), token by token in the order of `head.logits_at`.

    places: (batch,), all in the same cache: a batch comes from one dataset.
    """
    places = places.tolist()
    rows_before = 0
    for cache in caches:
        # One number says which cache and which row: places of the second cache go on where the
        # first one ends.
        if min(places) < rows_before + len(cache):
            break
        rows_before += len(cache)
    answers = cache.topk([place - rows_before for place in places], temperature)
    return TopK(*(part.to(device) for part in answers))
