"""`adapter-export run`, against the session itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from adapter_export.bundle.manifest import read_manifest, write_manifest
from adapter_export.cli import main
from adapter_export.reading.hashes import sha256
from adapter_export.runtime.generation.texts import PromptTexts, TextStream
from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.text import TextEncoder, probabilities
from tests.bundles import Exported
from tests.decoders import POSITIONS


def invoke(*args: Any) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, ["run", *map(str, args)])


def results(*args: Any) -> list[dict[str, Any]]:
    result = invoke(*args, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found: list[dict[str, Any]] = json.loads(result.stdout)["results"]
    return found


def one(bundle: Path, text: str, adapter: str | None) -> np.ndarray:
    """Probabilities of one text alone."""
    with AdapterSession(bundle) as session:
        encoded = TextEncoder(bundle, session.manifest).encode([text])
        found: np.ndarray = probabilities(session.run(encoded.inputs, adapter)["logits"])[0]
        return found


@pytest.mark.parametrize("bundle", ["swappable_bundle", "bank_bundle"])
def test_each_text_with_each_adapter(bundle: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    texts = ["a good movie", "bad", "the dark house was not for me"]
    names = ["houlsby_four", "ia3_two"]
    options = [part for name in names for part in ("--adapter", name)]
    found = results("--bundle", exported.bundle, *options, *(part for t in texts for part in ("--text", t)))
    assert [(item["text"], item["adapter"]) for item in found] == [(text, name) for text in texts for name in names]
    for item in found:
        wanted = one(exported.bundle, item["text"], item["adapter"])
        labels = read_manifest(exported.bundle).adapter(item["adapter"]).labels
        assert labels is not None
        assert list(item["probabilities"]) == list(labels)
        assert np.allclose(list(item["probabilities"].values()), wanted, atol=1e-6)
        assert item["label"] == labels[int(wanted.argmax())]
        assert item["probability"] == max(item["probabilities"].values())
        assert item["tokens"] == len(item["text"].split()) + 2
        assert item["truncated"] is False


def test_lines_of_a_file(swappable_bundle: Exported, tmp_path: Path) -> None:
    lines = [{"text": "good", "adapter": "pfeiffer_five"}, {"text": "bad day", "other": 1}]
    path = tmp_path / "texts.jsonl"
    # With a byte order mark and an empty line, and more of them than fit in a batch.
    path.write_text("\ufeff" + "\n\n".join(json.dumps(line) for line in lines * 20) + "\n", encoding="utf-8")
    found = results("--bundle", swappable_bundle.bundle, "--input", path, "--adapter", "ia3_two")
    assert [(item["text"], item["adapter"]) for item in found] == [
        ("good", "pfeiffer_five"),
        ("bad day", "ia3_two"),
    ] * 20
    assert np.allclose(list(found[-1]["probabilities"].values()), one(swappable_bundle.bundle, "bad day", "ia3_two"))


MIXED, MIXED_NAME = {"houlsby_four": 0.5, "houlsby_two": 2.0}, "houlsby_four=0.5,houlsby_two=2"


@pytest.mark.parametrize("bundle", ["swappable_bundle", "bank_bundle"])
def test_several_adapters_with_strengths(bundle: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(bundle).bundle
    options = ("--adapter", "houlsby_two=2,houlsby_four=0.5", "--head", "houlsby_two", "--adapter", "ia3_two")
    found = results("--bundle", folder, "--text", "good", *options)
    assert [item["adapter"] for item in found] == [MIXED, "ia3_two"]
    assert (found[0]["head"], "head" in found[1]) == ("houlsby_two", False)
    with AdapterSession(folder) as session:
        encoded = TextEncoder(folder, session.manifest).encode(["good"])
        logits = session.run(encoded.inputs, MIXED, head="houlsby_two")["logits"]
    assert np.allclose(list(found[0]["probabilities"].values()), probabilities(logits)[0], atol=1e-6)
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "good", "adapter": MIXED, "head": "houlsby_two"}) + '\n{"text": "good"}')
    for again, item in zip(results("--bundle", folder, "--input", path, "--adapter", "ia3_two"), found, strict=True):
        assert again.pop("probabilities") == pytest.approx(item.pop("probabilities"))
        assert {**again, "probability": 0} == {**item, "probability": 0}
    assert f"│ {MIXED_NAME} │" in invoke("--bundle", folder, "--text", "good", *options).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--adapter", MIXED_NAME), "adapters houlsby_four, houlsby_two: each has a task head; choose one"),
        (("--adapter", "a=1,b"), "--adapter 'a=1,b': expected NAME, or NAME=STRENGTH,..., found 'b'"),
        (("--adapter", "a=x"), "--adapter 'a=x': expected NAME, or NAME=STRENGTH,..., found 'a=x'"),
        (("--adapter", "=1"), "--adapter '=1': expected NAME, or NAME=STRENGTH,..., found '=1'"),
        (("--adapter", "a=inf"), "adapter 'a': expected a finite number as its strength, found inf"),
        (("--adapter", "a=1,a=2"), "--adapter 'a=1,a=2': 'a' is given twice"),
        (("--adapter", "ia3_two", "--head", "ia3_two"), "--head ia3_two: expected with it --adapter NAME=STRENGTH,..."),
        (("--adapter", MIXED_NAME, "--head", "x"), "head 'x': expected one of houlsby_four, houlsby_two"),
        (("--adapter", "ia3_two=2,nope=1"), "adapter 'nope': not in the bundle (it has: ia3_two"),
    ],
)
def test_strengths_that_are_refused(swappable_bundle: Exported, options: tuple[str, ...], message: str) -> None:
    result = invoke("--bundle", swappable_bundle.bundle, "--text", "good", *options)
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\nno json\n', "line 2: expected a JSON object, found: Expecting value"),
        (b'["a"]\n', "line 1: expected an object with a field 'text' that is a string"),
        (b'{"text": 3}\n', "line 1: expected an object with a field 'text'"),
        (b'{"text": "a", "adapter": 3}\n', "line 1: field 'adapter': expected a string, or an object of strengths by"),
        (b'{"text": "a", "adapter": {}}\n', "line 1: field 'adapter': adapter: expected at least one name"),
        (b'{"text": "a", "adapter": {"a": "1"}}\n', "line 1: field 'adapter': adapter 'a': expected a finite number"),
        (b'{"text": "a", "adapter": {"a": 2}, "head": "b"}\n', "line 1: field 'adapter': head 'b': expected one of a"),
        (
            b'{"text": "a", "adapter": "a", "head": "a"}\n',
            "line 1: field 'head': expected a string beside an 'adapter'",
        ),
        (b"\xff\xfe", "expected UTF-8, found"),
        (b"\n", "expected lines with texts, found none"),
    ],
)
def test_a_file_that_holds_something_else(
    swappable_bundle: Exported, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content)
    result = invoke("--bundle", swappable_bundle.bundle, "--input", path, "--adapter", "ia3_two")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}: {message}")
    assert result.stderr.count("\n") == 1


def test_the_table_shows_texts_as_they_are(swappable_bundle: Exported) -> None:
    text = "a [bold]good[/bold] :smile:\n movie [/]"
    result = invoke("--bundle", swappable_bundle.bundle, "--adapter", "ia3_three", "--text", text)
    assert result.exit_code == 0, result.output
    assert "│ a [bold]good[/bold] :smile: movie [/] │ ia3_three │" in result.stdout
    rows = [line.split("│")[3:5] for line in result.stdout.splitlines() if line.startswith("│")]
    wanted = sorted(zip(one(swappable_bundle.bundle, text, "ia3_three"), ("bad", "so so", "good"), strict=True))
    assert [(a.strip(), b.strip()) for a, b in rows] == [(label, f"{p:.4f}") for p, label in reversed(wanted)]


def test_a_text_that_is_too_long(swappable_bundle: Exported) -> None:
    args = ("--bundle", swappable_bundle.bundle, "--adapter", "ia3_two", "--text", "good " * 100, "--text", "bad")
    assert [item["truncated"] for item in results(*args)] == [True, False]
    assert invoke(*args).stderr == "note: 1 of the texts were longer than the model takes, and were cut\n"


def test_a_model_without_a_padding_token(swappable_bundle: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
    for name, field in (("config.json", "pad_token_id"), ("tokenizer_config.json", "pad_token")):
        content = json.loads((bundle / name).read_text())
        del content[field]
        (bundle / name).write_text(json.dumps(content))
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, files={name: sha256(bundle / name) for name in manifest.files}))
    args = ("--adapter", "ia3_two", "--text", "good", "--text", "the dark house")
    found = results("--bundle", bundle, *args)
    wanted = results("--bundle", swappable_bundle.bundle, *args)
    for alone, padded in zip(found, wanted, strict=True):
        assert alone["tokens"] == padded["tokens"]
        assert np.isclose(alone["probability"], padded["probability"], atol=1e-6)


@pytest.mark.parametrize(("fixture", "name"), [("embedded_bundle", "houlsby_four"), ("merged_bundle", "ia3_three")])
def test_an_adapter_in_the_graph(request: pytest.FixtureRequest, fixture: str, name: str) -> None:
    bundle = request.getfixturevalue(fixture).bundle
    (found,) = results("--bundle", bundle, "--text", "good")
    assert found["adapter"] == name
    assert results("--bundle", bundle, "--text", "good", "--adapter", name) == [found]
    assert invoke("--bundle", bundle, "--text", "good", "--adapter", "other").exit_code == 2


def test_the_base_model_itself(headed_bundle: Exported, swappable_bundle: Exported) -> None:
    (found,) = results("--bundle", headed_bundle.bundle, "--text", "good")
    assert found["adapter"] is None
    assert list(found["probabilities"]) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert np.allclose(list(found["probabilities"].values()), one(headed_bundle.bundle, "good", None))
    refused = invoke("--bundle", swappable_bundle.bundle, "--text", "good")
    assert refused.exit_code == 2
    assert "its base model has no labels of its own; choose an adapter with --adapter (ia3_two, " in refused.stderr


def test_features(features_bundle: Exported) -> None:
    args = ("--bundle", features_bundle.bundle, "--text", "a good day", "--text", "bad", "--adapter", "ia3")
    found = results(*args)
    with AdapterSession(features_bundle.bundle) as session:
        encoder = TextEncoder(features_bundle.bundle, session.manifest)
        for item in found:
            hidden = session.run(encoder.encode([item["text"]]).inputs, "ia3")["last_hidden_state"][0]
            assert item["shape"] == list(hidden.shape)
            assert np.allclose(item["embedding"], hidden.mean(axis=0), atol=1e-5)
            assert np.isclose(item["norm"], np.linalg.norm(hidden.mean(axis=0)), rtol=1e-5)
    table = invoke(*args).stdout
    assert f"{found[0]['norm']:.4f}" in table
    assert "...] of 32" in table


def test_a_language_model() -> None:
    from adapter_export.cli import answers, run

    class Encoder:
        def decode(self, token: int) -> str:
            return f"<{token}>"

    logits = np.zeros((1, 8), np.float32)
    logits[0, 4] = 3
    found = answers._next(Encoder(), logits)  # type: ignore[arg-type]
    assert found["next"][0]["token"] == "<4>"
    assert len({item["token"] for item in found["next"]}) == 5
    assert np.isclose(found["next"][0]["probability"], np.exp(3) / (np.exp(3) + 7))
    assert run._cells(found)[0].splitlines()[0] == "'<4>'"


def test_a_regression_has_a_value_and_no_probability() -> None:
    from adapter_export.cli import answers, run

    found = answers._label(("score",), np.array([2.5], np.float32), "regression")
    assert found == {"problem_type": "regression", "label": "score", "value": 2.5, "values": {"score": 2.5}}
    assert run._cells(found) == ("score", "2.5000")


@pytest.fixture(scope="module")
def wanted(llama_bundle: Exported) -> Iterator[Callable[..., tuple[str, int, str | None]]]:
    """Called as (text, adapter, **settings) -> the completion of that text alone, its tokens and why it ended."""
    with AdapterSession(llama_bundle.bundle) as session:
        texts = PromptTexts(llama_bundle.bundle)

        def make(text: str, adapter: str | None, **settings: Any) -> tuple[str, int, str | None]:
            prompt = texts.encode(text)
            (row,) = session.generate([prompt], adapter, **{"max_new_tokens": 12, **settings}).completions()
            words = row.tokens[:-1] if row.finish == "stop" else row.tokens
            return texts.completion(prompt, words), len(row.tokens), row.finish

        yield make


class TestWriting:
    """A bundle that generates, against the session itself."""

    TEXTS = ("the good man", "night", "a cold day and a warm house")

    def test_one_text_is_written_on(self, llama_bundle: Exported, wanted: Any) -> None:
        args = ("--bundle", llama_bundle.bundle, "--max-new-tokens", 12, "--text", self.TEXTS[0])
        for adapter in (None, "ia3"):
            result = invoke(*args, *(("--adapter", adapter) if adapter else ()))
            assert result.exit_code == 0, result.output
            assert result.stdout == wanted(self.TEXTS[0], adapter)[0] + "\n"
            assert result.stderr == ""

    @pytest.mark.parametrize("drawn", [False, True])
    def test_texts_and_adapters_one_after_the_other(self, llama_bundle: Exported, wanted: Any, drawn: bool) -> None:
        args: list[Any] = ["--bundle", llama_bundle.bundle, "--max-new-tokens", 12, "--adapter", "houlsby"]
        args += ["--adapter", "ia3", *(part for text in self.TEXTS for part in ("--text", text))]
        args += ["--temperature", 1.5, "--top-k", 50, "--top-p", 0.9, "--seed", 3] if drawn else []
        pairs = [(text, adapter) for text in self.TEXTS for adapter in ("houlsby", "ia3")]
        expected = []
        for i, pair in enumerate(pairs):
            draws = {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "seed": 3 + i} if drawn else {}
            expected.append(wanted(*pair, **draws))
        shown = [f"{adapter}: {text}\n{told[0]}\n" for (text, adapter), told in zip(pairs, expected, strict=True)]
        assert invoke(*args).stdout == "\n".join(shown)
        found = results(*args)
        assert [(item["text"], item["adapter"]) for item in found] == pairs
        assert [(item["completion"], item["new_tokens"], item["finish"]) for item in found] == expected
        assert [item["tokens"] for item in found] == [len(text.split()) for text, _ in pairs]

    def test_lines_of_a_file(self, llama_bundle: Exported, wanted: Any, tmp_path: Path) -> None:
        path = tmp_path / "texts.jsonl"
        # More than fit in a batch.
        path.write_text("".join(json.dumps({"text": text, "adapter": "ia3"}) + "\n" for text in self.TEXTS * 7))
        found = results("--bundle", llama_bundle.bundle, "--input", path, "--max-new-tokens", 12)
        assert [item["completion"] for item in found] == [wanted(text, "ia3")[0] for text in self.TEXTS] * 7

    def test_as_much_as_there_is_room_for(self, llama_bundle: Exported, wanted: Any) -> None:
        (found,) = results("--bundle", llama_bundle.bundle, "--text", "the good man", "--adapter", "ia3")
        room = POSITIONS + 1 - 3
        assert (found["completion"], found["new_tokens"]) == wanted("the good man", "ia3", max_new_tokens=room)[:2]

    def test_a_chat(self, llama_bundle: Exported, wanted: Any, tmp_path: Path) -> None:
        bundle = Path(shutil.copytree(llama_bundle.bundle, tmp_path / "bundle"))
        template = "{% for m in messages %}{{ m.role == 'user' and 'you' or 'me' }} {{ m.content }} {% endfor %}me"
        (bundle / "chat_template.jinja").write_text(template)
        path = tmp_path / "chat.jsonl"
        said = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "bad"}]
        path.write_text(json.dumps({"text": "a day"}) + "\n" + json.dumps({"messages": said}) + "\n")
        found = results("--bundle", bundle, "--chat", "--input", path, "--max-new-tokens", 12)
        assert [item["completion"] for item in found] == [
            wanted("you a day me", None)[0],
            wanted("you good me bad me", None)[0],
        ]
        assert (found[0]["text"], found[1]["messages"]) == ("a day", said)
        shown = invoke("--bundle", bundle, "--chat", "--input", path, "--max-new-tokens", 12).stdout
        assert shown.startswith(f"no adapter: a day\n{found[0]['completion']}\n\nno adapter: bad\n")

    def test_an_encoder_decoder_answers(self, t5_bundle: Exported) -> None:
        bundle = t5_bundle.bundle
        args = ("--bundle", bundle, "--text", "the good man", "--adapter", "ia3", "--max-new-tokens", 6)
        texts = PromptTexts(bundle)
        with AdapterSession(bundle) as session:
            (row,) = session.generate([texts.encode("the good man")], "ia3", max_new_tokens=6).completions()
        (found,) = results(*args)
        assert found["completion"] == texts.completion([], row.tokens)
        assert not found["completion"].startswith(" "), "an answer stands alone"
        assert invoke(*args).stdout == found["completion"] + "\n"

    def test_an_encoder_that_reads_no_text(self, whisper_bundle: Exported) -> None:
        bundle = whisper_bundle.bundle
        result = invoke("--bundle", bundle, "--text", "the good man")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"error: bundle {bundle}: takes input_features, which no text gives\n"

    def test_what_a_terminal_would_obey_is_not_printed(self, llama_bundle: Exported, monkeypatch: Any) -> None:
        monkeypatch.setattr(TextStream, "push", lambda self, token: "\x1b[31m\x9b\r\ttab\n")
        result = invoke("--bundle", llama_bundle.bundle, "--text", "good", "--max-new-tokens", 1, "--adapter", "ia3")
        assert result.stdout.startswith("\\x1b[31m\\x9b\\x0d\ttab\n")

    def test_bad_input_is_one_line(self, llama_bundle: Exported, swappable_bundle: Exported, tmp_path: Path) -> None:
        bundle, long = llama_bundle.bundle, tmp_path / "long.jsonl"
        long.write_text('{"text": "good"}\n' + json.dumps({"text": "good " * 97}) + "\n")
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"messages": []}\n')
        for args, message in (
            (("--adapter", "ia3", "--adapter", "nope", "--text", "good"), "adapter 'nope': not in the bundle"),
            (("--text", "good", "--top-k", 5), "top_k: expected a temperature above 0 with it"),
            (("--input", long), f"{long}: line 2: 97 tokens and 1 new ones do not fit in the 96 positions"),
            (("--text", "good", "--max-new-tokens", 97), "--text: 1 tokens and 97 new ones do not fit"),
            (("--text", ""), "--text: text '': the tokenizer makes no token of it"),
            (("--text", "good", "--chat"), "expected a chat template"),
            (("--input", bad), f"{bad}: line 1: expected an object with a field 'text'"),
            (("--input", bad, "--chat"), f"{bad}: line 1: expected a field 'text' that is a string, or 'messages'"),
            (("--text", "good", "--max-new-tokens", 0), "--max-new-tokens"),
        ):
            result = invoke("--bundle", bundle, *args)
            assert result.exit_code == 2
            assert message in result.stderr
            assert result.stderr.count("\n") == 1
            assert result.stdout == ""
        for option in (("--seed", 1), ("--chat",)):
            result = invoke("--bundle", swappable_bundle.bundle, "--text", "good", "--adapter", "ia3_two", *option)
            assert result.exit_code == 2
            assert f"{option[0]}: the graph of {swappable_bundle.bundle} does not generate" in result.stderr

    def test_tokens_come_one_by_one(self, llama_bundle: Exported) -> None:
        """In a process of its own, without torch: the first are read while the last are not there yet."""
        code = (
            "import sys, adapter_export.runtime.generation.stream as s\n"
            "step = s.Generation.__next__\n"
            "def held(self):\n"
            "    if sum(map(len, self._tokens)) == 3: sys.stdin.readline()\n"
            "    return step(self)\n"
            "s.Generation.__next__ = held\n"
            "from adapter_export.cli import main\n"
            "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
            "main(sys.argv[1:])\n"
        )
        command = [sys.executable, "-c", code, "run", "--bundle", llama_bundle.bundle, "--adapter", "ia3"]
        command += ["--text", "the good man", "--max-new-tokens", "6"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            # Three words, each after its space.
            early = process.stdout.read(1)
            while len(early.split()) < 3 or not early[-1].isalpha():
                early += process.stdout.read(1)
            rest, _ = process.communicate("\n")
        assert process.returncode == 0
        assert rest.splitlines()[-1] == "False"
        assert len((early + rest.splitlines()[0]).split()) == 6


@pytest.mark.parametrize("args", [(), ("--text", "a", "--input", "b")])
def test_text_or_input(swappable_bundle: Exported, args: tuple[str, ...]) -> None:
    result = invoke("--bundle", swappable_bundle.bundle, *args)
    assert result.exit_code == 2
    assert "expected --text TEXT or --input FILE, one of the two" in result.stderr


def test_bad_input_is_one_line(swappable_bundle: Exported, tmp_path: Path) -> None:
    bundle = swappable_bundle.bundle
    without = Path(shutil.copytree(bundle, tmp_path / "without"))
    (without / "tokenizer.json").unlink()
    for args, message in (
        (("--bundle", bundle, "--adapter", "nope"), "adapter 'nope'"),
        (("--bundle", tmp_path / "nope"), "expected a folder, found nothing"),
        (("--bundle", without, "--adapter", "ia3_two"), "expected tokenizer.json to encode texts with, found none"),
        (("--bundle", bundle, "--adapter", "ia3_two", "--input", tmp_path / "nope"), "no such file"),
    ):
        result = invoke(*args, *(() if "--input" in args else ("--text", "good")))
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""


def test_a_process_of_its_own_says_nothing_but_the_answer(swappable_bundle: Exported) -> None:
    """No torch, and no line of ONNX Runtime's own, not even where there is no GPU for --provider cuda."""
    command = [sys.executable, "-X", "importtime", "-m", "adapter_export", "run", "--bundle", swappable_bundle.bundle]
    command += ["--adapter", "ia3_two", "--text", "good", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["results"][0]["text"] == "good"
    lines = done.stderr.splitlines()
    assert all(line.startswith("import time:") for line in lines)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "onnxruntime" in imported
    # The tokenizer lives in a process of its own.
    assert not {"torch", "transformers", "onnx", "tokenizers"} & imported
    command[1:3] = []
    done = subprocess.run([*command, "--provider", "cuda"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        assert json.loads(done.stdout)["provider"] == "cuda"
    else:
        assert done.returncode == 2
        assert done.stderr.startswith("error: provider 'cuda': ")
        assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def meanings(
    tiny_model: Any, tiny_info: Any, random_adapter: Any, save_checkpoint: Any, export: Callable[..., Exported]
) -> Exported:
    """A base model with a head of three independent labels; adapters of all kinds of heads."""
    config = {"problem_type": "multi_label_classification"}
    base = tiny_model("bert", "text-classification", **config)
    info = tiny_info("bert", "text-classification", **config)
    adapters = {
        "as_the_base": (("x", "y", "z"), None),
        "other_count": (("no", "yes"), None),
        "exclusive": (("p", "q", "r"), "single_label_classification"),
        "value": (("score",), None),
        "values": (("high", "wide"), "regression"),
    }
    folders = {
        name: save_checkpoint(replace(random_adapter(info, "ia3", seed, labels=labels), problem_type=meant), info)
        for seed, (name, (labels, meant)) in enumerate(adapters.items())
    }
    return export(base, folders)


class TestMeanings:
    """Softmax was shown whatever the numbers mean."""

    TEXT = "a good movie"

    def logits(self, exported: Exported, adapter: str | None) -> np.ndarray:
        with AdapterSession(exported.bundle) as session:
            encoded = TextEncoder(exported.bundle, session.manifest).encode([self.TEXT])
            return np.asarray(session.run(encoded.inputs, adapter)["logits"][0], np.float64)

    def found(self, exported: Exported, adapter: str | None) -> dict[str, Any]:
        options = () if adapter is None else ("--adapter", adapter)
        (item,) = results("--bundle", exported.bundle, "--text", self.TEXT, *options)
        return item

    def test_the_base_models_own_head_as_transformers_answers(self, meanings: Exported) -> None:
        from transformers import pipeline

        wanted = pipeline("text-classification", model=str(meanings.base), top_k=None)(self.TEXT)
        (wanted,) = wanted if isinstance(wanted[0], list) else (wanted,)
        found = self.found(meanings, None)
        assert found["problem_type"] == "multi_label_classification"
        for item in wanted:
            assert np.isclose(found["probabilities"][item["label"]], item["score"], atol=1e-5)
        assert found["labels"] == [label for label, value in found["probabilities"].items() if value > 0.5]
        assert "label" not in found

    def test_independent_labels(self, meanings: Exported) -> None:
        found, logits = self.found(meanings, "as_the_base"), self.logits(meanings, "as_the_base")
        assert list(found["probabilities"]) == ["x", "y", "z"]
        assert np.allclose(list(found["probabilities"].values()), 1 / (1 + np.exp(-logits)), atol=1e-6)
        shown = invoke("--bundle", meanings.bundle, "--adapter", "as_the_base", "--text", self.TEXT).stdout
        for label, value in found["probabilities"].items():
            assert re.search(rf"{label} +│ +{value:.4f} {'yes' if value > 0.5 else 'no'}", shown)

    @pytest.mark.parametrize("adapter", ["other_count", "exclusive"])
    def test_one_of_several(self, meanings: Exported, adapter: str) -> None:
        found, logits = self.found(meanings, adapter), self.logits(meanings, adapter)
        assert found["problem_type"] == "single_label_classification"
        assert np.allclose(list(found["probabilities"].values()), np.exp(logits) / np.exp(logits).sum(), atol=1e-6)
        assert found["label"] == list(found["probabilities"])[int(logits.argmax())]

    @pytest.mark.parametrize("adapter", ["value", "values"])
    def test_values(self, meanings: Exported, adapter: str) -> None:
        found, logits = self.found(meanings, adapter), self.logits(meanings, adapter)
        assert found["problem_type"] == "regression"
        assert np.allclose(list(found["values"].values()), logits, atol=1e-6)
        assert not {"probability", "probabilities"} & set(found)
        shown = invoke("--bundle", meanings.bundle, "--adapter", adapter, "--text", self.TEXT).stdout
        assert "probability" not in shown
        assert "value" in shown

    def test_where_it_is_told(self, meanings: Exported, tmp_path: Path) -> None:
        manifest = read_manifest(meanings.bundle)
        assert manifest.problem_type == "multi_label_classification"
        told = {info.name: info.problem_type for info in manifest.adapters}
        assert told == {
            "as_the_base": "multi_label_classification",
            "other_count": None,
            "exclusive": "single_label_classification",
            "value": None,
            "values": "regression",
        }
        described = CliRunner().invoke(main, ["inspect", str(meanings.bundle), "--json"])
        assert {item["name"]: item["problem_type"] for item in json.loads(described.stdout)["adapters"]} == told

    def test_adding_and_merging_tell_the_same(self, meanings: Exported, tmp_path: Path) -> None:
        from adapter_export.bundle.add import add_adapter
        from adapter_export.merging.merge import merge

        bundle = Path(shutil.copytree(meanings.bundle, tmp_path / "bundle"))
        names = list(meanings.adapters)
        added = add_adapter(bundle, {f"{name}2": meanings.adapters[name] for name in names})
        for name in names:
            assert added.adapter(f"{name}2").problem_type == added.adapter(name).problem_type
            merge(meanings.base, meanings.adapters[name], tmp_path / name)
            config = json.loads((tmp_path / name / "config.json").read_text())
            assert config.get("problem_type") == added.adapter(name).problem_type

    def test_parity_compares_it(self, meanings: Exported) -> None:
        from adapter_export.checkpoints.folder import load_adapter
        from adapter_export.checkpoints.problem_types import with_problem_type
        from adapter_export.models.base_model import load_base
        from adapter_export.parity.checks.bundle import check_labels

        base = load_base(meanings.base, "text-classification")
        adapters = {
            name: with_problem_type(load_adapter(folder, base.info), base.module.config.to_dict())
            for name, folder in meanings.adapters.items()
        }
        manifest = read_manifest(meanings.bundle)
        assert check_labels(manifest, adapters, {}).verdict.value == "pass"
        wrong = manifest.with_adapter(replace(manifest.adapter("values"), problem_type=None))
        check = check_labels(wrong, adapters, {})
        assert check.verdict.value == "fail"
        assert check.detail == "adapter values: expected regression by the checkpoint, found None"


def test_an_older_manifest_opens(swappable_bundle: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["problem_type"]
    for adapter in manifest["adapters"]:
        del adapter["problem_type"]
    path.write_text(json.dumps(manifest))
    (found,) = results("--bundle", bundle, "--text", "good", "--adapter", "ia3_two")
    assert found["problem_type"] == "single_label_classification"
    manifest["problem_type"] = "many"
    path.write_text(json.dumps(manifest))
    result = invoke("--bundle", bundle, "--text", "good", "--adapter", "ia3_two")
    assert result.exit_code == 2
    assert f"{path}: field 'problem_type': expected one of " in result.stderr


def test_lines_end_where_json_lines_do(swappable_bundle: Exported, tmp_path: Path) -> None:
    """Characters that other readers end a line at may stand in a JSON string."""
    texts = ["good\u2028day", "bad\u0085day", "a\u2029b\x1c\x1dc\x0bd\x0c", "fine"]
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    assert "\u2028" in lines[0]
    for end in ("\n", "\r\n"):
        path.write_bytes(end.join(lines).encode())
        found = results("--bundle", swappable_bundle.bundle, "--input", path, "--adapter", "ia3_two")
        assert [item["text"] for item in found] == texts
