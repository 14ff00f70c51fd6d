"""Does it fit? A training step's memory, estimated part by part and laid beside six GPUs; `measure` measures it.

    doctor.estimate("Llama-3.2-1B", "Llama-3.2-3B", batch_size=8, length=256, learnt=100)     # GB, part by part
    doctor.plan(["P100", "H100", 24])                                                         # which recipe fits where
"""
from typing import NamedTuple

from ..paths import did_you_mean


class Shape(NamedTuple):
    """What of a transformers config decides about memory; widths are those of all heads together."""

    family: str                  # llama, bert or distilbert
    vocabulary: int
    width: int
    layers: int
    inner: int                   # of the feed-forward layers
    heads: int
    queries: int                 # heads × size of one
    keys: int                    # key-value heads × size of one
    positions: int = 0           # rows of BERT's table of positions
    labels: int = 2
    tied: bool = True            # head and embeddings are one matrix
    dropout: bool = False        # on attention

    @property
    def parameters(self) -> int:
        """Their exact count: `tests/test_doctor.py` builds the models and compares."""
        w, i = self.width, self.inner
        if self.family == "llama":
            layer = 2 * w * self.queries + 2 * w * self.keys + 3 * w * i + 2 * w
            return self.vocabulary * w * (1 if self.tied else 2) + self.layers * layer + w
        table = (self.vocabulary + self.positions + (2 if self.family == "bert" else 0)) * w + 2 * w
        return table + self.layers * (4 * w * w + 2 * w * i + 9 * w + i) + w * w + w + (w + 1) * self.labels

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA in every layer's seven matrices (`models.with_lora`): rank × (in + out) each."""
        w, q, k, i = self.width, self.queries, self.keys, self.inner
        return self.layers * rank * (2 * (w + q) + 2 * (w + k) + 3 * (w + i))


MODELS = {"Llama-3.2-1B": Shape("llama", 128_256, 2048, 16, 8192, 32, 2048, 512),
          "Llama-3.2-3B": Shape("llama", 128_256, 3072, 28, 8192, 24, 3072, 1024),
          "bert-base-uncased": Shape("bert", 30_522, 768, 12, 3072, 12, 768, 768, 512, dropout=True),
          "distilbert-base-uncased": Shape("distilbert", 30_522, 768, 6, 3072, 12, 768, 768, 512, dropout=True)}


def shape(model) -> Shape:
    """Of a name in `MODELS` (owner/name too) or a transformers config. ValueError for a model that the formula does not know."""
    if isinstance(model, Shape):
        return model
    if isinstance(model, str):
        name = model.rpartition("/")[2].removesuffix("-Instruct")
        if name not in MODELS:
            raise ValueError(f"no memory estimate for {model!r}{did_you_mean(name, MODELS)}; known are {', '.join(MODELS)}, or pass a transformers config")
        return MODELS[name]
    c, family = model, getattr(model, "model_type", type(model).__name__)
    if family not in ("llama", "bert", "distilbert"):
        raise ValueError(f"no memory estimate for a {family!r}: its layers keep other tensors; llama, bert and distilbert are known")
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    bert = family != "llama"
    return Shape(family, c.vocab_size, c.hidden_size, c.num_hidden_layers, c.hidden_dim if family == "distilbert" else c.intermediate_size,
                 c.num_attention_heads, c.num_attention_heads * size, (c.num_attention_heads if bert else c.num_key_value_heads) * size,
                 c.max_position_embeddings, c.num_labels, bool(c.tie_word_embeddings),
                 bert and getattr(c, "attention_dropout" if family == "distilbert" else "attention_probs_dropout_prob") > 0)


class Estimate(NamedTuple):
    """GB (10⁹ bytes). `total` is the largest moment of a step: gradients grow while activations go, so it is less than the sum."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float
    teacher: float
    total: float


# Bytes that autograd keeps of one token in one Llama layer: (× width, × queries, × inner). Read off transformers' modeling_llama.py
# (4.57) and counted by a test: a norm keeps its input in float32, its output before and after the weight (frozen by LoRA: not the
# former); attention q, k, v (repeated to all heads where a mask is given) and its result; the feed-forward part gate, silu(gate), up,
# their product. Autocast leaves norms in float32 and casts their output anew for each matrix (its copies of weights are counted as
# weights). LoRA's adapters are float32 (peft) and cast the input of each matrix; their r values a token are too few to matter.
KEPT = {("float32", False): (24, 16, 16), ("float32", True): (16, 16, 16), ("half", False): (16, 8, 8), ("half", True): (28, 12, 10),
        ("autocast", False): (26, 8, 8), ("autocast", True): (18, 10, 8)}
# Matrices of (tokens, vocabulary) that are alive at once in `causal.token_loss`: (in the model's dtype, in float32). Counted on the
# function itself, see tests: CE alone; top-k answers of a cache; a live teacher, whose logits are such matrices too.
ALIVE = {"ce": (1, 2), "topk": (2, 5), "dense": (4, 8)}
STATE = {"adamw": 2.0, "adamw8bit": 0.0, "sgd": 0.0}              # × the weights' own bytes; 8-bit AdamW: see `estimate`


def estimate(student, teacher=None, *, batch_size: int, length: int, learnt: int | None = None, dtype: str = "float32",
             optimizer: str = "adamw", lora_rank: int = 0, checkpointing: bool = False, cached_teacher: bool = False,
             chunk_tokens: int = 0, teacher_dtype: str = "", autocast: bool = False, accumulation: int = 1) -> Estimate:
    """The memory of a training step of `DistillationTrainer`, in GB, part by part.

    student, teacher: names of `MODELS`, transformers configs, or None (CE alone). length: tokens a row; learnt: of these, the ones
    whose successor is learnt (all by default): logits exist for them alone. dtype: of weights, gradients and AdamW's two states;
    autocast: computes in 16 bits over float32 weights. optimizer: adamw (8 bytes a parameter in float32), adamw8bit (2, and two float32
    scales a block of 256: Dettmers et al. 2022, section 2.1), sgd (none). lora_rank: 0 trains all weights. chunk_tokens: the loss sees
    that many tokens at a time (`engine.wide_loss`, which the trainer uses; 0: the plain way). accumulation > 1 keeps gradients between batches.
    cached_teacher: its answers are stored, and it leaves the GPU while the student trains (a model is on the GPU only while it is asked).

    weights, gradients, optimiser: parameters × bytes (the 16 bytes a parameter of Rajbhandari et al. 2020, "ZeRO", section 3.1,
    are autocast's with float32 weights and AdamW). activations: `KEPT` × tokens × layers; with checkpointing one width a layer, and
    one layer whole (Chen et al. 2016). logits: `ALIVE` × learnt tokens × vocabulary. total: the largest of these moments

        the loss        weights + optimiser + teacher + activations + max(logits, the teacher's own passing through)
        the head        the same with the gradient of logits and head in place of the loss
        the end         weights + optimiser + teacher + gradients (embeddings tied to the head: theirs, the head's, and the sum of both)

    Left out: the CUDA context (0.3–0.6 GB), fragmentation, kernels' work space, the evaluation. BERT is counted as PyTorch
    keeps it on a CPU (attention matrices where attention has dropout, masks as numbers): a GPU needs less.
    ValueError for an unknown model, dtype or optimizer, and for sizes below 1.
    """
    s, n_bytes = shape(student), {"float32": 4, "float16": 2, "bfloat16": 2}
    for name, value, known in (("dtype", dtype, n_bytes), ("teacher_dtype", teacher_dtype or dtype, n_bytes), ("optimizer", optimizer, STATE)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}{did_you_mean(str(value), known)}")
    llama, learnt = s.family == "llama", length if learnt is None else learnt
    if min(batch_size, length, accumulation) < 1 or not 0 <= learnt <= length or min(lora_rank, chunk_tokens) < 0:
        raise ValueError(f"batch_size {batch_size}, length {length} and accumulation {accumulation} must be 1 or more, learnt {learnt} at most the length")
    if (lora_rank or chunk_tokens) and not llama:
        raise ValueError("LoRA and a chunked loss are the language model's here: lora_rank and chunk_tokens must be 0")
    t = None if teacher is None else shape(teacher)
    mode = "autocast" if autocast and dtype == "float32" else "float32" if dtype == "float32" else "half"
    size, tokens, learnt = n_bytes[dtype], batch_size * length, batch_size * (learnt if llama else 1)
    compute = 4 if mode == "float32" else 2
    # -- what stays over the step
    trained, wide = (s.adapters(lora_rank), 4) if lora_rank else (s.parameters, size)
    weights = s.parameters * size + (trained * wide if lora_rank else 0)
    weights += 2 * (s.parameters - (0 if s.tied else s.vocabulary * s.width)) if mode == "autocast" else 0          # 16-bit copies
    gradients = trained * wide
    state = trained * (2 + 8 / 256) if optimizer == "adamw8bit" else gradients * STATE[optimizer]
    theirs = n_bytes[teacher_dtype or dtype]
    kept = 0 if t is None or cached_teacher else t.parameters * theirs
    passing = 0 if t is None or cached_teacher else tokens * theirs * (3 * t.width + 3 * t.inner)
    # -- what comes and goes
    layer = _layer(s, mode, bool(lora_rank)) * tokens + (0 if llama else _attention(s, batch_size, length) * compute)
    ends = tokens * s.width * (12 if llama else 20) + learnt * s.width * compute
    activations = ends + (tokens * s.width * s.layers * (2 if mode == "half" else 4) + layer if checkpointing else layer * s.layers)
    now = min(chunk_tokens or learnt, learnt)
    native, float32 = ALIVE["topk" if cached_teacher else "ce" if t is None else "dense"]
    one = now * (s.vocabulary if llama else s.labels)
    logits = one * (native * compute + float32 * 4)
    head = s.vocabulary * s.width * wide if llama and not lora_rank else 0
    twice = head if s.tied else 0
    if chunk_tokens:        # `engine.wide_loss`: a float32 buffer each (with stored answers one is named and two are measured); the head's gradient
        logits, one = 2 * one * 4 + 3 * learnt * s.width * compute + head, 0                                    # is there when the loss is
    # -- the largest moment
    always = weights + state + kept + (gradients if accumulation > 1 else 0)
    alive = activations - (layer if checkpointing else 0)                        # one layer is whole only on the way back
    total = always + max(alive + max(logits, passing + one * compute), alive + 2 * one * 4 + head,
                         activations + head, 3 * twice if accumulation > 1 else gradients + 2 * twice)
    return Estimate(*(round(part / 1e9, 4) for part in (weights, gradients, state, activations, logits, kept, total)))


def _layer(s: Shape, mode: str, lora: bool) -> float:
    """Bytes kept of one token in one layer. BERT: LayerNorms' inputs and outputs, q, k, v, their result, two masks of dropout, gelu."""
    if s.family == "llama":
        w, q, i = KEPT[mode, lora]
        return w * s.width + q * s.queries + i * s.inner
    return (10 * s.width + 2 * s.inner) * (4 if mode == "float32" else 2)


def _attention(s: Shape, batch_size: int, length: int) -> int:
    """Numbers in the attention matrices that BERT keeps: softmax, dropout's mask, their product; none without dropout (fused)."""
    return 3 * s.heads * batch_size * length ** 2 if s.dropout else 0


# -- six GPUs --------------------------------------------------------------------------------------------------------

# GB as printed on the card. A card of "16 GB" has 16 GiB, 7 % more: that pays for the CUDA context and fragmentation.
GPUS = {"P100": 16, "V100": 32, "A100-40": 40, "A100-80": 80, "H100": 80, "H200": 141}
RECIPES = {                                     # each adds to the one before
    "plain": {}, "+ teacher cache": {"cached_teacher": True}, "+ chunked loss": {"chunk_tokens": 256},
    "+ checkpointing": {"checkpointing": True}, "+ LoRA, rank 16": {"lora_rank": 16}}


def plan(gpus=None, student="Llama-3.2-1B", teacher="Llama-3.2-3B", *, batch_size: int = 8, length: int = 256, learnt: int = 100,
         accumulation: int = 8, autocast: bool = True, teacher_dtype: str = "float16"):
    """Which recipe fits which GPU, as a tidy DataFrame: gpu, gpu_gb, recipe, the parts of `Estimate`, fits.

    gpus: names of `GPUS` or numbers of GB, all names by default. The defaults are the profile `full` of notebook 07: float32 weights,
    16-bit arithmetic (bf16 from Ampere on, else fp16) and a 16-bit teacher. 8-bit AdamW is no recipe, because no notebook offers it. fits: "yes", "tight" where less than 15 % of the
    card is left (the estimate is no better than that), "no". Recipes add up. ValueError for an unknown GPU, naming the known ones.
    """
    import pandas as pd
    rows, asked, cards = [], {}, {}
    for gpu in GPUS if gpus is None else [gpus] if isinstance(gpus, (str, int, float)) else gpus:
        gpu = gpu.upper() if isinstance(gpu, str) else gpu
        number = isinstance(gpu, (int, float)) and not isinstance(gpu, bool) and 0 < gpu < float("inf")
        if not number and gpu not in GPUS:
            raise ValueError(f"unknown GPU {gpu!r}{did_you_mean(str(gpu), GPUS)}; known are {', '.join(GPUS)}, or say how many GB it has")
        cards[f"{gpu:g} GB" if number else gpu] = float(gpu if number else GPUS[gpu])
    for recipe, change in RECIPES.items():
        asked |= change
        parts = estimate(student, teacher, batch_size=batch_size, length=length, learnt=learnt, accumulation=accumulation,
                         autocast=autocast, teacher_dtype=teacher_dtype, **asked)
        rows += [{"gpu": gpu, "gpu_gb": gb, "recipe": recipe, **parts._asdict(),
                  "fits": "no" if parts.total > gb else "tight" if parts.total > 0.85 * gb else "yes"} for gpu, gb in cards.items()]
    return pd.DataFrame(rows)
