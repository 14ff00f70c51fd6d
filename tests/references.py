"""What each divergence is by definition: the one table that tests compare kdlib's losses with.

It shares nothing with kdlib: probabilities instead of log-probabilities, each formula as its paper
writes it. Whoever adds a divergence to `losses.DIVERGENCES` adds its definition here, and every
test that takes its names from there tests it. `test_losses` fails for a name without a definition.
"""


def kl(p, q):
    """KL(p ‖ q) over the last axis of two tensors of probabilities: (…, classes) → (…)."""
    return (p * (p / q).log()).sum(-1)


def jsd(p, q, beta):
    """Agarwal et al. 2024, eq. 1."""
    middle = beta * p + (1 - beta) * q
    return beta * kl(p, middle) + (1 - beta) * kl(q, middle)


# {name: a function of the teacher's p, the student's q, and beta, which most of them ignore}
DEFINITIONS = {
    "forward_kl": lambda p, q, beta: kl(p, q),
    "reverse_kl": lambda p, q, beta: kl(q, p),
    "jsd": jsd,
}


def divergence_of(name: str, p, q, beta: float = 0.5):
    """The divergence of teacher p and student q, float64 probabilities: (…, classes) → (…)."""
    return DEFINITIONS[name](p, q, beta)
