"""All figures, in the order in which the slides show them: the lecture's way from why to limits,
then what its claims are worth.

To add a figure, write its function with `@figure(…)` above it in the module of its chapter, and
give it its place here.
"""

from . import beyond, glue, ideas, limits, llama

SLIDES = (
    ideas.teacher_and_student,
    ideas.race,
    ideas.speed_size_quality,
    ideas.dark_knowledge,
    ideas.dark_knowledge_people,
    ideas.dark_knowledge_or_smoothing,
    ideas.softening,
    ideas.nearer_then_farther_people,
    ideas.nearer_then_farther,
    ideas.why_t_squared,
    ideas.pulls,
    ideas.mistakes,
    ideas.accuracy_hides,
    glue.mnli_rates,
    glue.learning_curves,
    glue.learning_curves_mnli,
    glue.live_curves,
    glue.methods,
    glue.methods_mnli,
    glue.qqp_rates,
    glue.learning_curves_qqp,
    glue.temperature_and_alpha,
    glue.temperature_and_alpha_real,
    glue.reliability,
    glue.reliability_qqp,
    glue.confusion,
    glue.confusion_qqp,
    llama.prompt_legend,
    llama.token_divergence,
    llama.translation_rates,
    llama.eurollama_rates,
    llama.translators,
    llama.translations,
    llama.vocabulary_cost,
    llama.end_recipes,
    llama.end_learnt,
    llama.end_unlearnt,
    limits.quantisation_plane,
    limits.quantisation_plane_mnli,
    limits.layer_sensitivity,
    limits.into_few_bits,
    limits.memory_bars,
    beyond.two_modes,
    beyond.hidden_states,
    beyond.cover_or_seek,
    beyond.claims,
)
FIGURES = {draw.__name__: draw for draw in SLIDES}
