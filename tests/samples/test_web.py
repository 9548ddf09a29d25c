"""The page of samples/web: its tokenizer against the bundle's own, and the page in a real headless Chromium."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.text import TextEncoder, probabilities
from samples.assets import AssetError, minilm
from tests import node, tiny
from tests.bundles import Exported
from tests.pages.browser import drive

HERE = Path(__file__).parent
WEB = node.SAMPLES / "web"
# Another build of ONNX Runtime, and a tokenizer of its own.
TOLERANCE = 1e-4
PHONE = 390

VARIED = [
    "a",
    "what a lovely day",
    "The MOVIE was Great, wasn't it?!",
    "  spaces \t and\nlines  ",
    "Ünïcödé: naïve façade, Straße, Ελλάδα, İstanbul, ﬁne",
    "decomposed: e\u0301 a\u0308 \u1e9b\u0323",
    "中文字符 and 日本語テキスト 한국어 ไทย हिन्दी العربية עברית",
    "emoji 🙂 👩‍👩‍👧 🇩🇪 e.g. ☕️",
    "[CLS] special [SEP] [MASK] [UNK] [PAD] </s> <s> <unk>",
    "numbers 3.14 1,000,000 ½ ² ٣ 0x1F",
    "https://example.org/a?b=c&d=%20 user@example.org #tag @name",
    "control \u0000 \u0007 \u200b \u00ad \u001c \u2028 characters \ufffd",
    "spaces\u00a0of\u2003other\u3000kinds",
    "\U0001f600 \U0001d518\U0001d52b\U0001d526 \U00020000",
    "quotes \u201clike\u201d \u2018these\u2019 \u2014 and \u2013 dashes\u2026 ``x''",
    "Supercalifragilisticexpialidocious " + "x" * 120,
    "word " * 80,
    "don't can't we're I'll 'tis they'd've",
]
# White space in Python's tokenizers or in JavaScript alone. Tokenizers for real texts remove it first, or have it in
# their vocabulary.
SPACES = "a\ufeffmark b\u0085mark"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the page's sources with the packages of its lock file, and the package for JavaScript beside it."""
    folder = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("node_modules", "dist")
    for source in (WEB, node.JAVASCRIPT):
        shutil.copytree(source, folder / source.name, ignore=ignored)
    node.linked(node.locked(WEB, node.JAVASCRIPT), folder / "web" / "node_modules", folder / "javascript")
    return folder / "web"


@pytest.fixture(scope="module")
def build(site: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Called as (bundle): `npm run build` with it."""

    def run(bundle: Path) -> subprocess.CompletedProcess[str]:
        command = [shutil.which("npm") or "npm", "run", "build"]
        environment = os.environ | {"BUNDLE": str(bundle)}
        return subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, check=False)

    return run


def tokenizers(folder: Path) -> dict[str, Path]:
    """Folders with tokenizer.json and tokenizer_config.json of each kind of model."""
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing

    texts = [*VARIED, " ".join(tiny.WORDS)] * 2
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    wordpiece.train_from_iterator(texts, 600, min_frequency=1, show_progress=False)
    bpe = ByteLevelBPETokenizer(add_prefix_space=True)
    bpe.train_from_iterator(texts, 600, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False)
    bpe._tokenizer.post_processor = RobertaProcessing(("</s>", 1), ("<s>", 0))
    made = {"wordpiece": wordpiece, "bpe": bpe, "unigram": unigram(texts)}
    for name, tokenizer in made.items():
        (folder / name).mkdir()
        tokenizer.save(str(folder / name / "tokenizer.json"))
        (folder / name / "tokenizer_config.json").write_text("{}")
    return {name: folder / name for name in made}


def unigram(texts: Sequence[str]) -> Any:
    """A Unigram tokenizer of pieces of the texts, without sentencepiece's Nmt, which the page refuses. The scores are
    random: trained on so little, many would be equal, and which of two equal ways a word is cut would be chance.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    rng = random.Random(0)
    words = sorted({f"\u2581{word}" for text in texts for word in text.split()})
    pieces = sorted({word[at : at + size] for word in words for at in range(len(word)) for size in (1, 2, 4)})
    names = ("<s>", "</s>", "<unk>")
    scores = [(piece, -rng.uniform(3, 12)) for piece in pieces if piece not in names]
    tokenizer = Tokenizer(models.Unigram([*((name, 0.0) for name in names), *scores], unk_id=2))
    tokenizer.add_special_tokens([*names])
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [("<s>", 0), ("</s>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A:1 </s>", special_tokens=special)
    return tokenizer


def with_tokenizer(bundle: Path, target: Path, source: Path, settings: Mapping[str, object]) -> Path:
    """What the encoders read of a bundle, with another tokenizer and with settings of its own."""
    target.mkdir()
    for name in ("manifest.json", "config.json"):
        shutil.copy(bundle / name, target)
    shutil.copy(source / "tokenizer.json", target)
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    (target / "tokenizer_config.json").write_text(json.dumps({**config, **settings}))
    return target


def encoded_in_javascript(site: Path, bundles: Sequence[Path], texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    shutil.copy(HERE / "encode_texts.mjs", site)
    command = ["node", "encode_texts.mjs", str(site / "src" / "encoder.js"), *map(str, bundles)]
    done = subprocess.run(command, cwd=site, input=json.dumps(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def check_encoding(site: Path, required: Exported, folders: Sequence[Path], texts: Sequence[str]) -> None:
    """Each text has the ids, the types and the cut of `TextEncoder`."""
    with AdapterSession(required.bundle) as session:
        manifest = session.manifest
    for folder, rows in zip(folders, encoded_in_javascript(site, folders, texts), strict=True):
        encoder = TextEncoder(folder, manifest)
        for text, row in zip(texts, rows, strict=True):
            expected = encoder.encode([text])
            ids, types = (expected.inputs[name][0].tolist() for name in ("input_ids", "token_type_ids"))
            assert (row["ids"], row["types"], row["truncated"]) == (ids, types, expected.truncated[0]), (folder, text)


def test_texts_are_encoded_as_in_python(site: Path, required_bundle: Exported, tmp_path: Path) -> None:
    bundle = required_bundle.bundle
    left = {"model_max_length": 7, "truncation_side": "left"}
    no_types = {"model_max_length": 5, "model_input_names": ["input_ids", "attention_mask"]}
    own = [with_tokenizer(bundle, tmp_path / f"own{n}", bundle, item) for n, item in enumerate(({}, no_types))]
    check_encoding(site, required_bundle, own, VARIED)
    others = [
        with_tokenizer(bundle, tmp_path / f"{name}{n}", source, item)
        for name, source in tokenizers(tmp_path).items()
        for n, item in enumerate(({}, left))
    ]
    check_encoding(site, required_bundle, others, [*VARIED, SPACES])


@pytest.mark.real
def test_texts_are_encoded_as_in_python_with_a_real_vocabulary(
    site: Path, required_bundle: Exported, tmp_path: Path
) -> None:
    try:
        source = minilm()
    except AssetError as error:
        pytest.skip(str(error))
    folder = with_tokenizer(required_bundle.bundle, tmp_path / "bundle", source, {})
    check_encoding(site, required_bundle, [folder], [*VARIED, SPACES])


TEXTS = ["what a lovely day", "the movie was dull and long", "Ünicode — 你好", "word " * 100]


def expected(bundle: Path, names: Sequence[str], texts: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """The probabilities of AdapterSession, by adapter, text and label."""
    answers: dict[str, list[dict[str, float]]] = {}
    with AdapterSession(bundle) as session:
        encoder = TextEncoder(bundle, session.manifest)
        for name in names:
            labels = session.labels(name) or ()
            rows = [session.run(encoder.encode([text]).inputs, name)["logits"][0] for text in texts]
            answers[name] = [dict(zip(labels, probabilities(row).tolist(), strict=True)) for row in rows]
    return answers


def check_answers(shown: Mapping[str, Any], exported: Exported, texts: Sequence[str]) -> None:
    """Of each adapter and text."""
    wanted = expected(exported.bundle, [*exported.adapters], texts)
    assert [*shown] == [*wanted]
    for name, answers in wanted.items():
        for answer, found in zip(answers, shown[name], strict=True):
            assert [*found] == [*answer]
            np.testing.assert_allclose([*found.values()], [*answer.values()], rtol=0, atol=TOLERANCE)
    distinct = {round(value, 6) for answers in wanted.values() for answer in answers for value in answer.values()}
    assert len(distinct) > 10 * len(texts), "the numbers say which adapter and which text they are of"


def built(build: Callable[[Path], subprocess.CompletedProcess[str]], bundle: Path) -> None:
    done = build(bundle)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def used(
    site: Path,
    build: Callable[[Path], subprocess.CompletedProcess[str]],
    required_bundle: Exported,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What a reader meets who uses the page of `required_bundle`."""
    built(build, required_bundle.bundle)
    output = tmp_path_factory.mktemp("web")
    found = drive(HERE / "look_web.mjs", site, output, text=json.dumps({"texts": TEXTS, "looks": True, "gpu": False}))
    return {**found, "output": output}


def test_the_answers_are_those_of_the_session(used: dict[str, Any], required_bundle: Exported) -> None:
    assert used["alert"] == ""
    check_answers(used["answers"], required_bundle, TEXTS)
    assert used["isolated"], "WebAssembly may use several threads"
    assert used["run"].startswith("WebAssembly: 64 tokens (the text is cut there")


def test_the_model_is_read_once_and_progress_shows(used: dict[str, Any], required_bundle: Exported) -> None:
    names = [url.partition("/bundle/")[2] for url in used["read"] if "/bundle/" in url]
    assert names.count("model.onnx") == 1
    assert sorted(names) == sorted({*names}), "no file is read twice"
    told = [label for label, _ in used["loading"]]
    size = (required_bundle.bundle / "model.onnx").stat().st_size / 1e6
    assert any(re.fullmatch(rf"Loading the model: \d+\.\d MB of {size:.1f} MB", label) for label in told), told
    assert told[-1] == "Starting the model"
    shares = [share for label, share in used["loading"] if label.startswith("Loading the model")]
    assert shares == sorted(shares)
    assert 0 < shares[0] <= shares[-1] < 1


def test_it_works_without_a_network(used: dict[str, Any]) -> None:
    """The server has ended, and the page was opened again."""
    assert used["offline"] == used["answers"]


def test_the_console_is_silent(used: dict[str, Any]) -> None:
    # Chromium says itself that there is no GPU.
    assert {*used["messages"]} <= {"warning: No available adapters."}


def test_the_keyboard(used: dict[str, Any], required_bundle: Exported) -> None:
    first, second, *_ = required_bundle.adapters
    keyboard = used["keyboard"]
    assert [stop["name"] for stop in keyboard["stops"]] == [first, second, "Text"]
    assert {stop["outline"] for stop in keyboard["stops"]} == {"solid"}
    assert keyboard["answer"] == used["answers"][second][0]
    label = max(keyboard["answer"], key=keyboard["answer"].__getitem__)
    assert keyboard["told"].startswith(f"{label}: ")


def test_a_text_that_is_taken_away_has_no_answer(used: dict[str, Any]) -> None:
    """Also if it was taken away while it was classified."""
    assert used["cleared"] == ["true", 0, ""]


def test_widths_and_accessibility(used: dict[str, Any]) -> None:
    """Nothing is wider than the page, and axe finds nothing: names, roles, contrast as it is drawn, in both schemes."""
    assert [(view["scheme"], view["width"]) for view in used["views"]] == [
        (scheme, width) for scheme in ("light", "dark") for width in (PHONE, 820, 1400)
    ]
    assert [view["misfits"] for view in used["views"]] == [[]] * 6
    assert [view["violations"] for view in used["views"] if "violations" in view] == [[], []]
    assert len(list(used["output"].glob("*.png"))) == 6


@pytest.mark.slow
def test_a_bank_on_webgpu(used: dict[str, Any], site: Path, bank_bundle: Exported, tmp_path: Path) -> None:
    """In place of the other bundle: the page is the same for each. Chromium computes
    the GPU itself, which takes seconds for the first text.
    """
    shutil.rmtree(site / "dist" / "bundle")
    shutil.copytree(bank_bundle.bundle, site / "dist" / "bundle")
    found = drive(
        HERE / "look_web.mjs", site, tmp_path, text=json.dumps({"texts": TEXTS[:1], "looks": False, "gpu": True})
    )
    assert (found["alert"], found["messages"]) == ("", [])
    assert found["run"].startswith("WebGPU: ")
    check_answers(found["answers"], bank_bundle, TEXTS[:1])


def test_a_bundle_that_browsers_cannot_run_is_not_built(
    build: Callable[[Path], subprocess.CompletedProcess[str]], required_bundle: Exported, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(required_bundle.bundle, tmp_path / "copied"))
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "bind": "initializer"}))
    done = build(copied)
    assert done.returncode != 0
    assert "found mode swappable with '--bind initializer'" in done.stderr
