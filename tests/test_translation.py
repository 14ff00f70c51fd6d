"""From pairs to prompts, tokens and masks, and back from tokens to translations."""

import datetime
import itertools
import sys
from importlib.util import find_spec

import pytest
import tiny
import torch
from transformers import GenerationConfig

from kdlib import models, translation
from kdlib.translation import BEGIN, END, EOT, PAD, RESERVED

LITERAL = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 31 Mar 2025\n\n"
    "You are a professional translator. Translate the provided text from English to French, remaining true to the source text. Do not add "
    "any additional commentary or conversational elements to your response.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello"
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nBonjour<|end_of_translation|><|eot_id|>"
)


def dataset(**columns):
    return tiny.datasets.Dataset.from_dict(columns)


# -- pairs -----------------------------------------------------------------------------------------------------------


def test_filters_say_how_many_each_dropped(tmp_path):
    good = tiny.pairs(10)
    bad = [
        ("", "Vide."),
        ("Only spaces.", "  "),
        ("Close <|eot_id|> now.", "Fermez."),
        ("one " * 101, "un " * 101),
        ("Yes.", "Oui, je le veux bien."),
        (good["en"][0].upper(), "Une autre traduction."),
        (None, "Rien."),
    ]
    train = {"en": good["en"] + [b[0] for b in bad], "fr": good["fr"] + [b[1] for b in bad]}
    held = (
        {"en": [good["en"][3]], "fr": ["Autre chose que cela."]},
        {"en": ["Something else was said."], "fr": [good["fr"][4].upper()]},
    )
    folder = tiny.europarl(tmp_path, train=train, validation=held[0], test=held[1])
    pairs, dropped = translation.load(folder, "train")
    assert dropped == {
        "empty": 3,
        "special token": 1,
        "length": 1,
        "ratio": 1,
        "duplicate": 1,
        "in another split": 2,
        "kept": 8,
    }
    assert pairs["en"] == [
        e for i, e in enumerate(good["en"]) if i not in (3, 4)
    ] and pairs.column_names == ["en", "fr"]
    assert translation.load(folder / "en-fr", "validation").rows["en"] == held[0]["en"]
    assert translation.load(folder, "train", max_words=6, ratio=9).dropped["length"] > 1
    few = translation.load(folder, "train", rows=3).rows
    assert (
        len(few) == 3
        and few["en"] == translation.load(folder, "train", rows=5).rows["en"][:3]
        and few["en"] != pairs["en"][:3]
    )


def test_a_source_without_splits_is_split_and_no_sentence_crosses(tmp_path):
    """Equal French for different English (and the reverse) must not straddle the splits either."""
    english = [f"sentence number {i} of the debate" for i in range(3000)]
    french = [f"phrase {i // 2} du débat" for i in range(3000)]
    folder = tiny.europarl(tmp_path / "a", train={"en": english, "fr": french})
    parts = {split: translation.load(folder, split) for split in ("train", "validation", "test")}
    assert 15 < len(parts["validation"].rows) < 50 and 15 < len(parts["test"].rows) < 50
    assert (
        sum(p.dropped["kept"] + p.dropped.get("in another split", 0) for p in parts.values())
        == 3000
    )
    for side in ("en", "fr"):
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            assert not set(parts[one].rows[side]) & set(parts[other].rows[side])
    turned = tiny.europarl(tmp_path / "b", train={"en": english[::-1], "fr": french[::-1]})
    assert set(translation.load(turned, "test").rows["en"]) == set(parts["test"].rows["en"]), (
        "a row's split depends on its place"
    )


def test_a_local_copy_of_the_hub_id_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_REAL", str(tmp_path))
    tiny.europarl(
        tmp_path / "Helsinki-NLP" / "europarl", train=tiny.pairs(20), validation=tiny.pairs(5, 1)
    )
    assert len(translation.load("Helsinki-NLP/europarl", "validation").rows) > 0


@pytest.mark.parametrize(
    "texts, hint",
    [
        ({"en": tiny.pairs(9)["fr"], "fr": tiny.pairs(9)["en"]}, "wrong language direction"),
        ({"de": ["Ja."], "en": ["Yes."]}, "no fr"),
        ({"en": [""], "fr": ["Oui."]}, "no pair is left"),
    ],
)
def test_pairs_that_are_refused(tmp_path, texts, hint):
    with pytest.raises(ValueError, match=hint):
        translation.load(tiny.europarl(tmp_path, train=texts, validation=texts), "train")


def test_a_source_without_a_test_split_gives_half_of_its_validation(tmp_path):
    folder = tiny.europarl(tmp_path, train=tiny.pairs(40), validation=tiny.pairs(60, 1))
    train, validation, test = (
        {(r["en"], r["fr"]) for r in translation.load(folder, split).rows}
        for split in ("train", "validation", "test")
    )
    assert len(validation) > 5 and len(test) > 5 and not validation & test
    assert not {en for en, _ in train} & {en for en, _ in validation | test}


def test_what_load_refuses(tmp_path, monkeypatch):
    folder = tiny.europarl(tmp_path / "x", train=tiny.pairs(9), validation=tiny.pairs(9))
    with pytest.raises(ValueError, match="no split 'dev'; it has train, validation"):
        translation.load(folder, "dev")
    with pytest.raises(ValueError, match="rows"):
        translation.load(folder, "train", rows=-1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no Parquet"):
        translation.load(tmp_path / "empty", "train")
    monkeypatch.setenv("HF_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConnectionError, match="KD_REAL"):
        translation.load("someone/europarl", "train")


# -- the prompt ------------------------------------------------------------------------------------------------------


def test_metas_vocabulary(llama3):
    assert len(llama3) == 128_256 and llama3("<|begin_of_text|><|start_header_id|>system")[
        "input_ids"
    ] == [128000, 128006, 9125]
    assert llama3.convert_tokens_to_ids([PAD, EOT, RESERVED, "<|reserved_special_token_247|>"]) == [
        128004,
        128009,
        128002,
        128255,
    ]
    text = "L'été, où sont-ils ? 1 234 € “déjà”\n"
    assert llama3.decode(llama3(text)["input_ids"]) == text


@pytest.mark.parametrize(
    "how, end, size", [("new", 128_256, 128_257), ("reserved", 128_002, 128_256)]
)
def test_the_prompt_to_the_letter_with_metas_vocabulary(llama3, tmp_path, how, end, size):
    tokenizer = translation.with_end_token(llama3, how)
    text, begin = translation.training_text(tokenizer, "Hello", "Bonjour")
    assert text == LITERAL and text[begin:] == "Bonjour<|end_of_translation|><|eot_id|>"
    assert (
        len(tokenizer) == size
        and translation.end_token_id(tokenizer) == end
        and tokenizer.pad_token_id == 128004
    )
    row = translation.encode(dataset(en=["Hello"], fr=["Bonjour"]), tokenizer)[0][0]
    assert (
        row["input_ids"] == tokenizer(LITERAL)["input_ids"]
        and tokenizer.decode(row["input_ids"]) == LITERAL
    )
    assert [i for i in row["labels"] if i != -100] == [
        *tokenizer("Bonjour")["input_ids"],
        end,
        128009,
    ]
    assert len(llama3) == 128_256 and llama3.convert_tokens_to_ids(RESERVED) == 128_002, (
        "the tokenizer that was given has changed"
    )
    tokenizer.save_pretrained(tmp_path)
    again = models.load_tokenizer(tmp_path)
    assert translation.end_token_id(again) == end and translation.training_text(
        again, "Hello", "Bonjour"
    ) == (text, begin)
    models.check_vocabularies(tokenizer, again)


def test_the_prompt_to_the_letter_with_the_small_tokenizer(chat):
    assert translation.training_text(chat, " Hello\n", "Bonjour ")[0] == LITERAL
    text = translation.prompt(chat, "Yes.", shots=[("No.", "Non.")])
    assert text.count(EOT) == 4 and text.endswith(
        "user<|end_header_id|>\n\nYes.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("day", [datetime.datetime(2024, 2, 29), datetime.datetime(2031, 12, 24)])
def test_the_prompt_is_the_same_on_every_day(chat, monkeypatch, day):
    from transformers.utils import chat_template_utils as module

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, *args):
            return day

    monkeypatch.setattr(module, "datetime", Clock)
    getattr(getattr(module, "_cached_compile_jinja_template", None), "cache_clear", lambda: None)()
    unpinned = chat.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert f"Today Date: {day:%d %b %Y}" in unpinned, (
        "the trap is gone: the template no longer asks for today's date"
    )
    assert translation.training_text(chat, "Hello", "Bonjour")[0] == LITERAL


@pytest.mark.parametrize(
    "source, target, hint",
    [
        ("", "Bonjour", "empty"),
        (" \n", "Bonjour", "empty"),
        ("Hello", "", "target"),
        ("Hello", " ", "target"),
        ("Hello <|eot_id|>", "Bonjour", "special token"),
        ("Hello", "Bonjour <|end_of_text|>", "special token"),
    ],
)
def test_texts_that_are_refused(chat, source, target, hint):
    with pytest.raises(ValueError, match=hint):
        translation.training_text(chat, source, target)
    with pytest.raises(ValueError, match=hint):
        translation.encode(dataset(en=[source], fr=[target]), chat)


# -- tokens and masks ------------------------------------------------------------------------------------------------


def masked_by_hand(tokenizer, en: str, fr: str) -> tuple[list[int], list[int]]:
    """Token by token: which tokens of the whole text are needed to write the prompt?"""
    text, begin = translation.training_text(tokenizer, en, fr)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    first = next(
        n
        for n in range(len(ids) + 1)
        if tokenizer.decode(ids[:n], clean_up_tokenization_spaces=False) == text[:begin]
    )
    return ids, [-100] * first + ids[first:]


@pytest.mark.parametrize("how", ["new", "reserved"])
def test_masks(chat, how):
    plain = translation.small_tokenizer(tiny.pairs(256)["en"] + tiny.pairs(256)["fr"])
    tokenizer = translation.with_end_token(plain, how)
    pairs = tiny.pairs(40, seed=3)
    rows, report = translation.encode(
        dataset(**pairs, place=list(range(40))), tokenizer, keep=("place",)
    )
    for row, en, fr in zip(rows, pairs["en"], pairs["fr"]):
        assert (row["input_ids"], row["labels"]) == masked_by_hand(tokenizer, en, fr)
        assert row["labels"][-2:] == [
            translation.end_token_id(tokenizer),
            tokenizer.convert_tokens_to_ids(EOT),
        ]
        learnt = [i for i in row["labels"] if i != -100]
        assert tokenizer.decode(learnt, skip_special_tokens=True) == fr, (
            "elisions and spaces come back"
        )
    assert (
        rows["place"] == list(range(40))
        and report["rows"] == 40
        and report["cut"] == report["dropped"] == 0
    )
    assert (
        report["prompt"] + report["learnt"] == sum(map(len, rows["input_ids"]))
        and report["prompt"] > report["learnt"]
    )


def test_masks_with_metas_vocabulary(llama3):
    tokenizer = translation.with_end_token(llama3, "reserved")
    pairs = {
        "en": ["assistant", "user<|", "Is it 5 o'clock?"],
        "fr": ["assistant", "« Où ? »", "Est-il 5 heures ?"],
    }
    for row, en, fr in zip(
        translation.encode(dataset(**pairs), tokenizer)[0], pairs["en"], pairs["fr"]
    ):
        assert (row["input_ids"], row["labels"]) == masked_by_hand(tokenizer, en, fr)


def test_truncation_cuts_the_source_and_never_the_targets_end(chat):
    pairs = {
        "en": ["The president reads" + " the report" * 30 + ".", "The member."],
        "fr": ["Le président lit le rapport .", "Le membre."],
    }
    whole, _ = translation.encode(dataset(**pairs), chat)
    length = len(whole[0]["input_ids"])
    for window in range(length + 1, length - 64, -1):
        row = next(iter(translation.encode(dataset(**pairs), chat, max_length=window)[0]))
        kept, lost = len(row["input_ids"]), length - len(row["input_ids"])
        assert kept == min(window, length) and row["labels"][-9:] == whole[0]["labels"][-9:]
        text = chat.decode(row["input_ids"])
        assert text.count(EOT) == 3 and text.endswith(END + EOT) and text.startswith(BEGIN)
        source = text.split("user<|end_header_id|>\n\n")[1].split(EOT)[0]
        assert (
            source
            and pairs["en"][0].startswith(source)
            and (lost > 0) == (source != pairs["en"][0])
        )
    short, report = translation.encode(
        dataset(**pairs), chat, max_length=len(whole[1]["input_ids"])
    )
    assert (
        report["dropped"] == 1
        and len(short) == 1
        and len(short[0]["input_ids"]) == len(whole[1]["input_ids"])
    )


def test_a_window_that_holds_no_target_is_refused(chat):
    with pytest.raises(ValueError, match="no pair fits into max_length=20"):
        translation.encode(dataset(**tiny.pairs(4)), chat, max_length=20)


def test_an_end_token_that_is_no_token_is_refused(llama3, chat):
    plain = translation.small_tokenizer(["Hello"])
    for tokenizer, hint in ((llama3, "pieces"), (plain, "pieces|unknown")):
        with pytest.raises(ValueError, match=hint):
            translation.encode(dataset(en=["Hello"], fr=["Bonjour"]), tokenizer)
        with pytest.raises(ValueError, match=hint):
            models.add_end_token(tiny.llama(len(plain)), tokenizer)
    with pytest.raises(ValueError, match="new or reserved"):
        translation.with_end_token(plain, "eos")


def test_other_families_are_refused(tokenizer):
    with pytest.raises(ValueError, match="Llama 3"):
        translation.with_end_token(tokenizer)


def test_the_collator_pads_by_position(chat):
    rows, _ = translation.encode(dataset(**tiny.pairs(7)), chat)
    rows = rows.add_column("teacher_place", list(range(7)))
    batch = translation.collator(chat)([rows[i] for i in range(7)])
    assert batch["input_ids"].shape[1] % 8 == 0 and batch["teacher_place"].tolist() == list(
        range(7)
    )
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        assert batch["input_ids"][i].tolist() == row["input_ids"] + [chat.pad_token_id] * (
            batch["input_ids"].shape[1] - n
        )
        assert batch["labels"][i].tolist()[:n] == row["labels"] and set(
            batch["labels"][i].tolist()[n:]
        ) <= {-100}
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (
            batch["input_ids"].shape[1] - n
        )


@pytest.mark.parametrize("pad", [EOT, None])
def test_padding_with_the_end_is_refused(chat, pad):
    plain = translation.small_tokenizer(["Hello"])
    plain.pad_token = pad
    with pytest.raises(ValueError, match="learns to stop"):
        translation.collator(plain)


def test_the_small_tokenizer_gives_the_text_back(tmp_path):
    texts = [
        "L'homme qu'il n'a pas vu, aujourd'hui ; est-ce « vrai » ?",
        "It isn't the house: 3 per cent.",
        "d’autres écoles\n\nIci.",
    ]
    tokenizer = translation.small_tokenizer(texts)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids
    assert {"L'", " homme", " qu'", " n'"} <= set(tokenizer.get_vocab())
    assert len(translation.small_tokenizer(texts, size=5)) < len(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert (
        models.load_tokenizer(tmp_path)(texts[0])["input_ids"] == tokenizer(texts[0])["input_ids"]
    )


# -- generation ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def translator(chat):
    """A Llama that has half learnt the made-up parliament: its translations differ, some are wrong."""
    pairs, model = (
        tiny.pairs(96, seed=5),
        models.add_end_token(tiny.llama(len(chat), initializer_range=0.05), chat),
    )
    batch = translation.collator(chat)(list(translation.encode(dataset(**pairs), chat)[0]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        part = {k: v[step % 3 * 32 :][:32] for k, v in batch.items()}
        model(**part).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    return model.eval()


def one_by_one(model, tokenizer, sentence: str, limit: int) -> list[int]:
    """Greedy decoding spelt out: no cache, no batch, no padding."""
    ids = tokenizer(translation.prompt(tokenizer, sentence), add_special_tokens=False)["input_ids"]
    new = []
    while len(new) < limit:
        new.append(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax().item())
        if new[-1] in tokenizer.convert_tokens_to_ids([END, EOT, "<|end_of_text|>"]):
            break
    return new


def test_batched_generation_equals_a_loop_over_single_sentences(translator, chat):
    # settings that a checkpoint may bring along and that must not leak in
    translator.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.9, top_k=3, repetition_penalty=1.5
    )
    sentences = tiny.pairs(256, seed=6)["en"][:24] + ["The president."]
    translator.train()
    out = translation.translate(translator, chat, sentences, batch_size=7, max_new_tokens=14)
    assert translator.training
    translator.eval()
    with torch.no_grad():
        alone = [one_by_one(translator, chat, s, 14) for s in sentences]
    stops = chat.convert_tokens_to_ids([END, EOT, "<|end_of_text|>"])
    ended = [new[-1] in stops for new in alone]
    assert out.texts == [chat.decode(new, skip_special_tokens=True) for new in alone]
    assert out.report["hit_limit"] == [i for i, yes in enumerate(ended) if not yes]
    assert out.report["tokens"] == sum(map(len, alone)) and len(set(out.texts)) > 5
    assert sum(ended) > 15 and all(END not in text for text in out.texts)


def test_beams_and_nothing_to_do(translator, chat):
    assert translation.translate(translator, chat, []).texts == []
    assert (
        len(
            translation.translate(translator, chat, ["The member reads the report."], beams=3).texts
        )
        == 1
    )


def steered(model, tokenizer, *ids: int):
    """The model, but it says `ids` over and over."""
    calls = itertools.count()  # the prompt is the first, then one a token

    def hook(module, args, kw, out):
        said = next(calls)
        out.logits[:, -1] = -9.0
        out.logits[:, -1, ids[said % len(ids)]] = 9.0
        return out

    return model.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize(
    "said, found",
    [
        (["Le", " membre"], {"hit_limit", "repeats"}),
        (["Le", "<|start_header_id|>", END], {"stray"}),
        ([END], {"empty"}),
        (["Le", EOT], set()),
        (["Le", " membre", "<|end_of_text|>"], set()),
    ],
)
def test_the_report(translator, chat, said, found):
    hook = steered(translator, chat, *chat.convert_tokens_to_ids(said))
    try:
        out = translation.translate(translator, chat, ["The member."], max_new_tokens=9)
    finally:
        hook.remove()
    assert {
        name for name in ("hit_limit", "stray", "repeats", "empty") if out.report[name] == [0]
    } == found
    assert out.texts[0].startswith("Le" if "Le" in said else "") and "<|" not in out.texts[0]


def test_a_generation_that_never_ends_is_cut_and_said(translator, chat):
    hook = steered(
        translator,
        chat,
        *chat.convert_tokens_to_ids(["Le", " membre", " lit", " le", " rapport", "."]),
    )
    try:
        out = translation.translate(translator, chat, ["The member."])
    finally:
        hook.remove()
    assert (
        out.report["hit_limit"] == out.report["repeats"] == [0] and 32 < out.report["tokens"] < 48
    )


@pytest.mark.parametrize(
    "sentence, hint", [("", "empty"), ("the " * 300, "reads 256"), ("<|eot_id|>", "special")]
)
def test_sentences_that_are_refused(translator, chat, sentence, hint):
    with pytest.raises(ValueError, match=hint):
        translation.translate(translator, chat, ["The member.", sentence])


# -- scores ----------------------------------------------------------------------------------------------------------


def test_bleu_chrf_and_their_signatures():
    import sacrebleu

    from kdlib import scores

    references = ["Le chat est assis sur le tapis.", "Il pleut beaucoup aujourd'hui."]
    texts = ["Le chat est couché sur le tapis.", "Il pleut beaucoup aujourd'hui."]
    bleu, chrf = scores.bleu(texts, references), scores.chrf(texts, references)
    assert (
        scores.bleu(references, references).value == pytest.approx(100)
        and bleu.value < 100
        and chrf.value < 100
    )
    assert (
        bleu.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
        and "chars" in chrf.signature
        or "nc:6" in chrf.signature
    )
    assert bleu.value == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score, abs=1e-12)
    assert chrf.value == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score, abs=1e-12)
    with pytest.raises(ValueError, match="as many"):
        scores.bleu(texts, references[:1])
    with pytest.raises(ValueError, match="at least one"):
        scores.bleu([], [])


def test_paired_bootstrap():
    from kdlib import scores

    references = tiny.pairs(60, seed=1)["fr"]
    worse = [
        r if i % 3 else r.replace("le ", "la ").replace("l'", "la ")
        for i, r in enumerate(references)
    ]
    worst = [r.replace("e", "a") for r in references]
    rows = scores.compare(
        {"worse": worse, "same": list(worse), "right": references, "worst": worst},
        references,
        samples=200,
    )
    got = {(r["system"], r["metric"]): r for r in rows}
    assert (
        len(rows) == 8
        and got["worse", "BLEU"]["p"] is None
        and got["worse", "BLEU"]["score"] == pytest.approx(scores.bleu(worse, references).value)
    )
    assert (
        got["same", "BLEU"]["p"] == got["same", "chrF2"]["p"] == 1
        and got["right", "BLEU"]["p"] < 0.02
        and got["worst", "chrF2"]["p"] < 0.02
    )
    assert (
        got["worse", "BLEU"]["low"] < got["worse", "BLEU"]["score"] < got["worse", "BLEU"]["high"]
        and "version" in rows[0]["signature"]
    )
    with pytest.raises(ValueError, match="two systems"):
        scores.compare({"one": worse}, references)


@pytest.fixture(scope="module")
def tiny_comet(tmp_path_factory):
    """A COMET of a few thousand weights, from scratch, in the layout of the hub's: hparams.yaml and checkpoints/model.ckpt."""
    pytest.importorskip("comet", reason="unbabel-comet is optional (pip install 'kdlib[comet]')")
    import yaml
    from comet.models import RegressionMetric
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds
    from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast

    folder = tmp_path_factory.mktemp("comet")
    pieces = Tokenizer(kinds.Unigram())
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pairs = tiny.pairs(200)
    pieces.train_from_iterator(
        pairs["en"] + pairs["fr"],
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    tokenizer = XLMRobertaTokenizerFast(tokenizer_object=pieces)
    tokenizer.save_pretrained(folder / "encoder")
    torch.manual_seed(0)
    XLMRobertaModel(
        XLMRobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=80,
            pad_token_id=1,
            initializer_range=0.3,
        )
    ).save_pretrained(folder / "encoder")
    settings = dict(
        encoder_model="XLM-RoBERTa",
        pretrained_model=str(folder / "encoder"),
        hidden_sizes=[16],
        layer="mix",
        load_pretrained_weights=False,
        local_files_only=True,
    )
    model = RegressionMetric(**settings)
    (folder / "checkpoints").mkdir()
    import pytorch_lightning

    torch.save(
        {
            "state_dict": model.state_dict(),
            "hyper_parameters": dict(model.hparams),
            "pytorch-lightning_version": pytorch_lightning.__version__,
        },
        folder / "checkpoints" / "model.ckpt",
    )
    (folder / "hparams.yaml").write_text(
        yaml.safe_dump({"class_identifier": "regression_metric", **settings})
    )
    return folder


def test_comet_with_a_tiny_checkpoint(tiny_comet):
    from kdlib import scores

    pairs = tiny.pairs(5)
    found = scores.comet(pairs["en"], pairs["fr"], pairs["fr"], tiny_comet)
    assert (
        found.reason == ""
        and len(found.segments) == 5
        and found.score == pytest.approx(sum(found.segments) / 5, abs=1e-5)
    )
    other = scores.comet(
        pairs["en"], pairs["fr"][::-1], pairs["fr"], tiny_comet / "checkpoints" / "model.ckpt"
    )
    assert other.segments != found.segments, "the translation was not read"
    assert scores.comet(
        pairs["en"][:2], pairs["fr"][:2], pairs["fr"][:2], tiny_comet
    ).segments == pytest.approx(found.segments[:2], abs=1e-4)


@pytest.mark.skipif(find_spec("comet") is None, reason="unbabel-comet is an extra")
def test_comet_that_cannot_be_had_is_a_reason_and_no_number(tmp_path, monkeypatch):
    from kdlib import scores

    monkeypatch.setenv("HF_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    texts = ["Oui."], ["Yes."], ["Oui."]
    for model, hint in ((scores.COMET, "could not be loaded"), (tmp_path, "could not be loaded")):
        found = scores.comet(*texts, model)
        assert found.score is None and found.segments == [] and hint in found.reason
    monkeypatch.setitem(sys.modules, "comet", None)
    assert scores.comet(*texts).score is None and "not installed" in scores.comet(*texts).reason
    with pytest.raises(ValueError, match="as many"):
        scores.comet(["Yes."], [], ["Oui."])


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a b c", "a b c"),
        ("a x c", "a ⟦x⟧ c"),
        ("a c", "a ⟦⟧ c"),
        ("a b c d", "a b c ⟦d⟧"),
        ("", "⟦⟧"),
    ],
)
def test_differing_words_are_marked(text, shown):
    assert translation.marked("a b c", text) == shown


def test_a_tokenizer_by_folder_and_metas_by_its_wheel(chat, tmp_path, llama3):
    translation.small_tokenizer(["Hello"]).save_pretrained(tmp_path)
    for how in ("reserved", "new"):
        found = translation.tokenizer(tmp_path, how)
        assert translation.end_token_id(found) == (
            len(found) - 1 if how == "new" else translation.token_id(found, translation.END)
        )
    assert len(translation.tokenizer("llama-models")) == len(llama3)


def test_without_the_wheel_it_is_said_what_to_do(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install llama-models"):
        translation.tokenizer("llama-models")


@pytest.mark.parametrize(
    "en, fr, side",
    [
        ("Hello", " ", "fr, the target"),
        (None, "Bonjour", "en, the source"),
        ("", "", "en, the source and fr, the target"),
    ],
)
def test_a_pair_with_an_empty_side_is_named(chat, en, fr, side):
    with pytest.raises(ValueError, match=f"empty side \\({side}\\)"):
        translation.encode(dataset(en=["Yes", en], fr=["Oui", fr]), chat)


def test_one_language_on_both_sides_is_refused(tmp_path):
    english = [
        f"this is the house of the man number {i} that is for the king and the people"
        for i in range(40)
    ]
    rows = {"en": english, "fr": [text.replace("house", "home") for text in english]}
    with pytest.raises(ValueError, match="both read like English, for example 'this is the house"):
        translation.load(tiny.europarl(tmp_path, train=rows, validation=rows), "train")


@pytest.mark.parametrize(
    "wrong",
    [
        dict(batch_size=0),
        dict(batch_size=-1),
        dict(beams=0),
        dict(max_new_tokens=-1),
        dict(batch_size=True),
    ],
)
def test_counts_that_would_translate_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number from"):
        translation.translate(None, None, ["a"], **wrong)
