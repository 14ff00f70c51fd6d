"""Does it fit? A training step's memory in GB, estimated part by part and laid beside six GPUs.

    doctor.estimate("Llama-3.2-1B", "Llama-3.2-3B", batch_size=8, length=256, learnt=100)
    doctor.plan(["P100", "H100", 24])            # which recipe fits where

No torch here: the plan may be asked for where torch is broken.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ..paths import did_you_mean


class Shape(NamedTuple):
    """What of a transformers config decides about memory; widths are of all heads together."""

    family: str  # llama, bert or distilbert
    vocabulary: int
    width: int
    layers: int
    inner: int  # of the feed-forward layers
    heads: int
    queries: int  # heads × size of one
    keys: int  # key-value heads × size of one
    positions: int = 0  # rows of BERT's table of positions
    labels: int = 2
    tied: bool = True  # head and embeddings are one matrix
    dropout: bool = False  # on attention

    @property
    def parameters(self) -> int:
        """Their exact count: `tests/test_doctor.py` builds the models and compares."""
        w, i = self.width, self.inner
        if self.family == "llama":
            layer = 2 * w * (self.queries + self.keys) + 3 * w * i + 2 * w
            matrices = 1 if self.tied else 2
            return matrices * self.vocabulary * w + self.layers * layer + w
        segments = 2 if self.family == "bert" else 0
        tables = (self.vocabulary + self.positions + segments) * w + 2 * w
        layer = 4 * w * w + 2 * w * i + 9 * w + i
        return tables + self.layers * layer + w * w + w + (w + 1) * self.labels

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA in every layer's seven matrices (`models.with_lora`): rank × (in +
        out) each.
        """
        attention = 4 * self.width + 2 * self.queries + 2 * self.keys
        return self.layers * rank * (attention + 3 * (self.width + self.inner))


MODELS = {
    "Llama-3.2-1B": Shape("llama", 128_256, 2048, 16, 8192, 32, 2048, 512),
    "Llama-3.2-3B": Shape("llama", 128_256, 3072, 28, 8192, 24, 3072, 1024),
    "bert-base-uncased": Shape("bert", 30_522, 768, 12, 3072, 12, 768, 768, 512, dropout=True),
    "distilbert-base-uncased": Shape(
        "distilbert", 30_522, 768, 6, 3072, 12, 768, 768, 512, dropout=True
    ),
}
FAMILIES = ("llama", "bert", "distilbert")


def shape(model) -> Shape:
    """Of a name in `MODELS` (owner/name too), or of a transformers config.

    ValueError for a model that the formula does not know.
    """
    if isinstance(model, Shape):
        return model
    if isinstance(model, str):
        name = model.rpartition("/")[2].removesuffix("-Instruct")
        if name in MODELS:
            return MODELS[name]
        raise ValueError(
            f"no memory estimate for {model!r}{did_you_mean(name, MODELS)}; "
            f"known are {', '.join(MODELS)}, or pass a transformers config"
        )
    family = getattr(model, "model_type", type(model).__name__)
    if family not in FAMILIES:
        raise ValueError(
            f"no memory estimate for a {family!r}: its layers keep other tensors; "
            "llama, bert and distilbert are known"
        )
    return _of_config(model, family)


def _of_config(config, family: str) -> Shape:
    heads = key_heads = config.num_attention_heads
    inner, dropout = "intermediate_size", 0
    if family == "llama":
        key_heads = config.num_key_value_heads
    elif family == "bert":
        dropout = config.attention_probs_dropout_prob
    else:
        inner, dropout = "hidden_dim", config.attention_dropout
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        family,
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        getattr(config, inner),
        heads,
        heads * size,
        key_heads * size,
        config.max_position_embeddings,
        config.num_labels,
        bool(config.tie_word_embeddings),
        dropout > 0,
    )


# -- one training step ---------------------------------------------------------------------------

# Bytes that autograd keeps of one token in one Llama layer: (× width, × queries, × inner). Read off
# transformers' modeling_llama.py (4.57) and counted by a test: a norm keeps its input in float32,
# its output before and after the weight (frozen by LoRA: not the former); attention q, k, v
# (repeated to all heads where a mask is given) and its result; the feed-forward part gate,
# silu(gate), up, their product. Autocast leaves norms in float32 and casts their output anew for
# each matrix (its copies of weights are counted as weights). LoRA's adapters are float32 (peft) and
# cast the input of each matrix; their r values a token are too few to matter.
KEPT = {
    ("float32", False): (24, 16, 16),
    ("float32", True): (16, 16, 16),
    ("half", False): (16, 8, 8),
    ("half", True): (28, 12, 10),
    ("autocast", False): (26, 8, 8),
    ("autocast", True): (18, 10, 8),
}
# Matrices of (tokens, vocabulary) that are alive at once in `causal.token_loss`: (in the model's
# dtype, in float32). Counted on the function itself, see tests: CE alone; top-k answers of a cache;
# a live teacher, whose logits are such matrices too.
ALIVE = {"ce": (1, 2), "topk": (2, 5), "dense": (4, 8)}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# The optimiser's bytes for each byte of a trained weight.
STATE = {"adamw": 2.0, "adamw8bit": 0.0, "sgd": 0.0}
# 8-bit AdamW is counted by parameters instead: two bytes, and two float32 scales a block of 256
# (Dettmers et al. 2022, section 2.1).
ADAMW_8BIT = 2 + 8 / 256


class Estimate(NamedTuple):
    """GB (10⁹ bytes). `total` is the largest moment of a step: gradients grow while activations go,
    so it is less than the sum.
    """

    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float
    teacher: float
    total: float


@dataclass(frozen=True)
class Step:
    """A training step of `DistillationTrainer`, as `estimate` is asked about it.

    ValueError for an unknown dtype or optimizer, and for sizes below 1.
    """

    student: Shape
    teacher: Shape | None  # None: CE alone
    batch_size: int
    length: int  # tokens of a row
    learnt: int | None = None  # of these, the ones whose successor is learnt; None: all
    dtype: str = "float32"  # of weights, gradients and AdamW's two states
    optimizer: str = "adamw"  # see STATE
    lora_rank: int = 0  # 0: all weights are trained
    checkpointing: bool = False
    # A cached teacher's answers are stored, and it leaves the GPU while the student trains: a model
    # is there only while it is asked.
    cached_teacher: bool = False
    # The loss sees that many tokens at a time (`engine.wide_loss`); 0: the plain way.
    chunk_tokens: int = 0
    teacher_dtype: str = ""  # "": the student's
    autocast: bool = False  # computes in 16 bits over float32 weights
    accumulation: int = 1  # above 1 gradients are kept between batches

    def __post_init__(self):
        teacher_dtype = self.teacher_dtype or self.dtype
        _refuse_unknown("dtype", self.dtype, BYTES)
        _refuse_unknown("teacher_dtype", teacher_dtype, BYTES)
        _refuse_unknown("optimizer", self.optimizer, STATE)
        learnt = self.length if self.learnt is None else self.learnt
        too_small = min(self.batch_size, self.length, self.accumulation) < 1
        if (
            too_small
            or not 0 <= learnt <= self.length
            or min(self.lora_rank, self.chunk_tokens) < 0
        ):
            raise ValueError(
                f"batch_size {self.batch_size}, length {self.length} and accumulation "
                f"{self.accumulation} must be 1 or more, learnt {learnt} at most the length"
            )
        if (self.lora_rank or self.chunk_tokens) and not self.is_llama:
            raise ValueError(
                "LoRA and a chunked loss are the language model's here: "
                "lora_rank and chunk_tokens must be 0"
            )

    @property
    def is_llama(self) -> bool:
        return self.student.family == "llama"

    @property
    def mode(self) -> str:
        """Of the arithmetic: float32, half (all in 16 bits) or autocast."""
        if self.dtype != "float32":
            return "half"
        return "autocast" if self.autocast else "float32"

    @property
    def compute_bytes(self) -> int:
        return 4 if self.mode == "float32" else 2

    @property
    def tokens(self) -> int:
        """Of a batch."""
        return self.batch_size * self.length

    @property
    def learnt_items(self) -> int:
        """Of a batch: tokens that have logits, or (a classifier's) rows."""
        if not self.is_llama:
            return self.batch_size
        return self.batch_size * (self.length if self.learnt is None else self.learnt)

    @property
    def live_teacher(self) -> Shape | None:
        return None if self.cached_teacher else self.teacher


def _refuse_unknown(name: str, value: str, known: dict) -> None:
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}{hint}")


def estimate(student, teacher=None, **settings) -> Estimate:
    """The memory of a training step of `DistillationTrainer`, in GB, part by part.

    student, teacher: names of `MODELS`, transformers configs, or None (CE alone); settings: the
    fields of `Step`, of which batch_size and length have no default. `total` is the largest of
    these moments:

        the loss  weights + optimiser + teacher + activations
                  + max(logits, the teacher's own passing through)
        the head  the same with the gradient of logits and head in place of the loss
        the end   weights + optimiser + teacher + gradients
                  (embeddings tied to the head: theirs, the head's, and the sum of both)

    Left out: the CUDA context (0.3–0.6 GB), fragmentation, kernels' work space, the evaluation.
    BERT is counted as PyTorch keeps it on a CPU (attention matrices where attention has dropout,
    masks as numbers): a GPU needs less. ValueError for an unknown model, and as `Step`.
    """
    step = Step(shape(student), None if teacher is None else shape(teacher), **settings)
    weights, gradients, optimiser = _parameter_bytes(step)
    teacher_weights, teacher_passing = _teacher_bytes(step)
    activations, one_layer = _activation_bytes(step)
    logits, matrix, head = _loss_bytes(step)

    always = weights + optimiser + teacher_weights
    always += gradients if step.accumulation > 1 else 0
    # With checkpointing one layer is whole only on the way back.
    forward = activations - (one_layer if step.checkpointing else 0)
    shared = head if step.student.tied else 0
    if step.accumulation > 1:
        end = 3 * shared
    else:
        end = gradients + 2 * shared
    total = always + max(
        forward + max(logits, teacher_passing + matrix * step.compute_bytes),
        forward + 2 * matrix * 4 + head,
        activations + head,
        end,
    )
    parts = (weights, gradients, optimiser, activations, logits, teacher_weights, total)
    return Estimate(*(round(part / 1e9, 4) for part in parts))


def _parameter_bytes(step: Step) -> tuple[float, float, float]:
    """(weights, gradients, optimiser): parameters × bytes.

    The 16 bytes a parameter of Rajbhandari et al. 2020, "ZeRO", section 3.1, are autocast's with
    float32 weights and AdamW.
    """
    student, size = step.student, BYTES[step.dtype]
    weights = student.parameters * size
    if step.lora_rank:
        trained = student.adapters(step.lora_rank)
        gradients = trained * 4  # adapters are float32
        weights += gradients
    else:
        trained = student.parameters
        gradients = trained * size
    if step.mode == "autocast":  # 16-bit copies; a table of embeddings is read, not multiplied
        table = 0 if student.tied else student.vocabulary * student.width
        weights += 2 * (student.parameters - table)
    if step.optimizer == "adamw8bit":
        return weights, gradients, trained * ADAMW_8BIT
    return weights, gradients, gradients * STATE[step.optimizer]


def _teacher_bytes(step: Step) -> tuple[float, float]:
    """(its weights, what its own passing through takes); 0 for one that is not there."""
    teacher = step.live_teacher
    if teacher is None:
        return 0, 0
    size = BYTES[step.teacher_dtype or step.dtype]
    passing = step.tokens * size * 3 * (teacher.width + teacher.inner)
    return teacher.parameters * size, passing


def _activation_bytes(step: Step) -> tuple[float, float]:
    """(all activations, those of one layer): `KEPT` × tokens × layers.

    With checkpointing one width a layer, and one layer whole (Chen et al. 2016).
    """
    student, tokens = step.student, step.tokens
    layer = _layer(student, step.mode, bool(step.lora_rank)) * tokens
    if not step.is_llama:
        layer += _attention(student, step.batch_size, step.length) * step.compute_bytes
    # before the first layer and after the last
    ends = tokens * student.width * (12 if step.is_llama else 20)
    ends += step.learnt_items * student.width * step.compute_bytes
    if not step.checkpointing:
        return ends + layer * student.layers, layer
    inputs = tokens * student.width * student.layers * (2 if step.mode == "half" else 4)
    return ends + inputs + layer, layer


def _layer(s: Shape, mode: str, lora: bool) -> float:
    """Bytes kept of one token in one layer.

    BERT: LayerNorms' inputs and outputs, q, k, v, their result, two masks of dropout, gelu.
    """
    if s.family == "llama":
        width, queries, inner = KEPT[mode, lora]
        return width * s.width + queries * s.queries + inner * s.inner
    return (10 * s.width + 2 * s.inner) * (4 if mode == "float32" else 2)


def _attention(s: Shape, batch_size: int, length: int) -> int:
    """Numbers in the attention matrices that BERT keeps: softmax, dropout's mask, their product;
    none without dropout (fused).
    """
    return 3 * s.heads * batch_size * length**2 if s.dropout else 0


def _loss_bytes(step: Step) -> tuple[float, float, float]:
    """(logits and what the loss makes of them, numbers in a matrix of logits that outlives the
    loss, the gradient of the head's matrix): `ALIVE` × learnt tokens × vocabulary.
    """
    student, learnt = step.student, step.learnt_items
    head = 0
    if step.is_llama and not step.lora_rank:
        head = student.vocabulary * student.width * BYTES[step.dtype]
    at_once = min(step.chunk_tokens or learnt, learnt)
    matrix = at_once * (student.vocabulary if step.is_llama else student.labels)
    if step.chunk_tokens:
        # `engine.wide_loss`: a float32 buffer each (with stored answers one is named and two are
        # measured); the head's gradient is there when the loss is.
        return 2 * matrix * 4 + 3 * learnt * student.width * step.compute_bytes + head, 0, head
    if step.cached_teacher:
        native, float32 = ALIVE["topk"]
    else:
        native, float32 = ALIVE["dense" if step.teacher else "ce"]
    return matrix * (native * step.compute_bytes + float32 * 4), matrix, head


# -- six GPUs ------------------------------------------------------------------------------------

# GB as printed on the card. A card of "16 GB" has 16 GiB, 7 % more: that pays for the CUDA context
# and fragmentation.
GPUS = {"P100": 16, "V100": 32, "A100-40": 40, "A100-80": 80, "H100": 80, "H200": 141}
# Each adds to the one before. 8-bit AdamW is none of them, because no notebook offers it.
RECIPES = {
    "plain": {},
    "+ teacher cache": {"cached_teacher": True},
    "+ chunked loss": {"chunk_tokens": 256},
    "+ checkpointing": {"checkpointing": True},
    "+ LoRA, rank 16": {"lora_rank": 16},
}
# The profile `full` of notebook 07: float32 weights, 16-bit arithmetic (bf16 from Ampere on, else
# fp16) and a 16-bit teacher.
FULL = {
    "batch_size": 8,
    "length": 256,
    "learnt": 100,
    "accumulation": 8,
    "autocast": True,
    "teacher_dtype": "float16",
}


def plan(gpus=None, student="Llama-3.2-1B", teacher="Llama-3.2-3B", **settings):
    """Which recipe fits which GPU, as a tidy DataFrame: gpu, gpu_gb, recipe, the parts of
    `Estimate`, fits.

    gpus: names of `GPUS` or numbers of GB, all names by default. settings: as `estimate`'s, `FULL`
    by default. fits: "yes", "tight" where less than 15 % of the card is left (the estimate is no
    better than that), "no". Recipes add up. ValueError for an unknown GPU, naming the known ones.
    """
    import pandas as pd

    cards = _cards(GPUS if gpus is None else gpus)
    settings = FULL | settings
    rows = []
    for recipe, change in RECIPES.items():
        settings |= change
        parts = estimate(student, teacher, **settings)
        for gpu, gb in cards.items():
            row = {"gpu": gpu, "gpu_gb": gb, "recipe": recipe, **parts._asdict()}
            rows.append(row | {"fits": _fits(parts.total, gb)})
    return pd.DataFrame(rows)


def _fits(total: float, gb: float) -> str:
    if total > gb:
        return "no"
    return "tight" if total > 0.85 * gb else "yes"


def _cards(gpus) -> dict[str, float]:
    """{name, or "24 GB": GB}."""
    cards = {}
    for gpu in [gpus] if isinstance(gpus, (str, int, float)) else gpus:
        if isinstance(gpu, str) and gpu.upper() in GPUS:
            cards[gpu.upper()] = float(GPUS[gpu.upper()])
        elif type(gpu) in (int, float) and 0 < gpu < float("inf"):
            cards[f"{gpu:g} GB"] = float(gpu)
        else:
            name = gpu.upper() if isinstance(gpu, str) else gpu
            raise ValueError(
                f"unknown GPU {name!r}{did_you_mean(str(name), GPUS)}; "
                f"known are {', '.join(GPUS)}, or say how many GB it has"
            )
    return cards
