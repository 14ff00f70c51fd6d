"""The stand-in repositories, read over the stub hub by the clients that read the real ones."""

import json
import subprocess
import sys

import pytest
import stub_repos
from stub_hub import StubHub

IDS = [
    stub_repos.GLUE, stub_repos.MNLI_TEACHER, stub_repos.PERMUTED_TEACHER, stub_repos.BERT,
    stub_repos.DISTILBERT,
]  # fmt: skip
REVISION = "0123456789abcdef0123456789abcdef01234567"

# One child for all: importing transformers takes longer than all that it does here. It asks the
# libraries alone, none of the course's code.
CODE = """
import json, sys
import datasets, numpy, torch, transformers
from transformers import AutoModelForSequenceClassification as Classifier, AutoTokenizer

glue, teacher, permuted, bert, distilbert, revision = sys.argv[1:]
rows = datasets.load_dataset(glue, "mnli", split="validation_matched", revision=revision)
hidden = datasets.load_dataset(glue, "qqp", split="test")
told = {"labels": rows.features["label"].names, "hidden": sorted(set(hidden["label"]))}

def accuracy(repo):
    tokenizer, model = AutoTokenizer.from_pretrained(repo), Classifier.from_pretrained(repo).eval()
    texts = [list(rows[name])[:400] for name in ("premise", "hypothesis")]
    batch = tokenizer(*texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        answers = model(**batch).logits.argmax(-1).numpy()
    told[repo + " reads unknown words"] = bool((batch["input_ids"] == tokenizer.unk_token_id).any())
    told[repo] = {"layers": model.config.num_hidden_layers, "names": model.config.id2label,
                  "accuracy": float((answers == numpy.array(rows["label"])[:400]).mean())}

accuracy(teacher), accuracy(permuted)
for repo in (bert, distilbert):
    model, info = Classifier.from_pretrained(repo, num_labels=3, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    told[repo] = [type(model).__name__, model.config.num_hidden_layers, missing]
vocabularies = [AutoTokenizer.from_pretrained(repo).get_vocab() for repo in (teacher, distilbert)]
told["same words"] = vocabularies[0] == vocabularies[1]
told["special"] = [vocabularies[1][t] for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(what the child saw, the hub that it asked)."""
    folder = tmp_path_factory.mktemp("stub")
    stub_repos.build(folder / "hub", IDS, commits={stub_repos.GLUE: REVISION})
    with StubHub(folder / "hub") as hub:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *IDS, REVISION],
            env=hub.environment(folder / "cache"), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        yield json.loads(done.stdout.strip().splitlines()[-1]), hub


def test_rows_of_the_pinned_revision(found):
    told, hub = found
    assert told["labels"] == ["entailment", "neutral", "contradiction"]
    assert told["hidden"] == [-1], "GLUE's test splits hide their labels"
    asked = {r.revision for r in hub.requests if r.repo == stub_repos.GLUE}
    assert asked <= {REVISION, "main"} and REVISION in asked


def test_a_teacher_that_knows_something_and_one_with_permuted_classes(found):
    """The second is the first with its outputs in another order, which its config does not say."""
    told, hub = found
    teacher, permuted = told[stub_repos.MNLI_TEACHER], told[stub_repos.PERMUTED_TEACHER]
    assert teacher["layers"] == 12 and teacher["accuracy"] > 0.75 and permuted["accuracy"] < 0.15
    assert teacher["names"] == permuted["names"] == {str(i): f"LABEL_{i}" for i in range(3)}
    assert not told[f"{stub_repos.MNLI_TEACHER} reads unknown words"], (
        "a row has a word that the teacher lacks"
    )
    assert (stub_repos.MNLI_TEACHER, "pytorch_model.bin") in hub.downloads()


def test_pretrained_bodies_get_a_new_head(found):
    """BERT's old names of weights are understood, DistilBERT lacks its two last layers alone."""
    told, hub = found
    head = ["classifier.bias", "classifier.weight"]
    assert told[stub_repos.BERT] == ["BertForSequenceClassification", 12, head]
    before = ["pre_classifier.bias", "pre_classifier.weight"]
    assert told[stub_repos.DISTILBERT] == ["DistilBertForSequenceClassification", 6, head + before]
    assert told["same words"] and told["special"] == [0, 100, 101, 102, 103]
    files = {file for _, file in hub.downloads()}
    assert not {"tf_model.h5", "flax_model.msgpack", "rust_model.ot"} & files
