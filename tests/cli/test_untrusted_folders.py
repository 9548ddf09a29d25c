"""Folders from a stranger, in which links lead out, and pipes, devices and folders stand where files should: every
command ends soon, with exit 2 and one line, and nothing outside is read or changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from adapter_export.cli import main
from adapter_export.reading.hashes import sha256
from tests.bundles import Exported
from tests.merging.models import INDEX, write_adapter, write_model

SECRET = "what nobody else may read"
Damage = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """Far more than any of these takes: a command that waits for a pipe fails the test instead of stopping it."""

    def late(*_: object) -> None:
        raise TimeoutError("the command does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    """Something else in the place of a file, which goes out of the folder."""

    def damage(folder: Path) -> None:
        path = folder / name
        if path.exists():
            path.rename(folder.parent / "moved")
        path.parent.mkdir(exist_ok=True)
        make(path)

    return damage


def out(name: str) -> Damage:
    """A link to the very file, outside of the folder."""
    return replaced(name, lambda path: path.symlink_to("../" * (1 + name.count("/")) + "moved"))


def absolute(name: str) -> Damage:
    return replaced(name, lambda path: path.symlink_to(path.parent.parent / "moved"))


def chain(name: str) -> Damage:
    def make(path: Path) -> None:
        path.symlink_to("first")
        (path.parent / "first").symlink_to("second")
        (path.parent / "second").symlink_to("../moved")

    return replaced(name, make)


def loop(name: str) -> Damage:
    def make(path: Path) -> None:
        path.symlink_to("other")
        (path.parent / "other").symlink_to(path.name)

    return replaced(name, make)


def to(name: str, target: str) -> Damage:
    return replaced(name, lambda path: path.symlink_to(target))


def pipe(name: str) -> Damage:
    return replaced(name, os.mkfifo)


def directory(name: str) -> Damage:
    return replaced(name, Path.mkdir)


def edited(name: str, change: Callable[[Any], object]) -> Damage:
    def damage(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return damage


def ends(arguments: list[str], *expected: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for text in expected:
        assert text in line
    assert SECRET not in result.output
    return result


LINK = "is a link out of"
IRREGULAR = "expected a regular file, found"
ADAPTER: dict[str, tuple[Damage, str, str]] = {
    "absolute link": (absolute("adapter_config.json"), "adapter_config.json", LINK),
    "relative link": (out("adapter_model.safetensors"), "adapter_model.safetensors", LINK),
    "chain of links": (chain("adapter_model.safetensors"), "adapter_model.safetensors", LINK),
    "loop of links": (loop("adapter_config.json"), "adapter_config.json", IRREGULAR),
    "stdin": (to("adapter_config.json", "/dev/stdin"), "adapter_config.json", LINK),
    "zeros": (to("adapter_model.safetensors", "/dev/zero"), "adapter_model.safetensors", LINK),
    "pipe": (pipe("adapter_model.safetensors"), "adapter_model.safetensors", f"{IRREGULAR} a pipe"),
    "folder": (directory("adapter_config.json"), "adapter_config.json", f"{IRREGULAR} a folder"),
    "a link to nothing": (to("adapter_export.json", "nothing"), "adapter_export.json", "no such file"),
}
MODEL: dict[str, tuple[Damage, str, str]] = {
    "config: link": (out("config.json"), "config.json", LINK),
    "config: loop": (loop("config.json"), "config.json", IRREGULAR),
    "weights: pipe": (pipe("model.safetensors"), "model.safetensors", f"{IRREGULAR} a pipe"),
    "weights: folder": (directory("model.safetensors"), "model.safetensors", f"{IRREGULAR} a folder"),
    "weights: chain": (chain("model.safetensors"), "model.safetensors", LINK),
    "weights: zeros": (to("model.safetensors", "/dev/zero"), "model.safetensors", LINK),
}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    write_adapter(tmp_path / "adapter")
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path


def merge(folder: Path, *more: str) -> list[str]:
    model, adapter, output = (str(folder / name) for name in ("model", "adapter", "out"))
    return ["merge", "--model", model, "--adapter", adapter, "--output", output, *more]


@pytest.mark.parametrize("case", ADAPTER)
def test_adapters(case: str, plain: Path) -> None:
    damage, name, message = ADAPTER[case]
    damage(plain / "adapter")
    ends(merge(plain), f"{plain / 'adapter' / name}: {message}")
    ends(["inspect", str(plain / "adapter")], f"{plain / 'adapter' / name}: {message}")
    assert not (plain / "out").exists()


@pytest.mark.parametrize("case", MODEL)
def test_models(case: str, plain: Path) -> None:
    damage, name, message = MODEL[case]
    damage(plain / "model")
    ends(merge(plain), f"{plain / 'model' / name}: {message}")
    ends(["inspect", str(plain / "model")], f"{plain / 'model' / name}: {message}")
    assert not (plain / "out").exists()


@pytest.mark.parametrize("shard", ["../secret", "/etc/passwd", "up/secret", "..", "a\0b"])
def test_shards_of_another_folder(shard: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", shards=2)
    write_adapter(tmp_path / "adapter")
    (model / "up").symlink_to("..")
    edited(INDEX, lambda index: index["weight_map"].update({"lm_head.weight": shard}))(model)
    ends(merge(tmp_path), f"{INDEX}: field 'weight_map'", "expected the name of a .safetensors file in this folder")


def test_follow_links_is_offered_and_follows(plain: Path) -> None:
    """For the folders of the model and the adapter; what is no file stays refused."""
    chain("model.safetensors")(plain / "model")
    ends(merge(plain), "model.safetensors: is a link out of", str(plain / "moved"), "--follow-links")
    assert CliRunner().invoke(main, merge(plain, "--follow-links")).exit_code == 0
    for name, target, found in (("config.json", "/dev/zero", "a device"), ("adapter_config.json", "../p", "a pipe")):
        folder = plain / ("adapter" if name.startswith("adapter") else "model")
        if found == "a pipe":
            os.mkfifo(plain / "p")
        (folder / name).rename(plain / name)
        (folder / name).symlink_to(target)
        ends(merge(plain, "--follow-links", "--force"), f"{name}: expected a regular file, found {found}")
        (folder / name).unlink()
        (plain / name).rename(folder / name)


def test_what_lies_beside_a_model_is_not_copied_through_links(plain: Path) -> None:
    (plain / "model" / "chat_template.jinja").symlink_to("../secret")
    assert CliRunner().invoke(main, merge(plain)).exit_code == 0
    assert not (plain / "out" / "chat_template.jinja").exists()
    assert CliRunner().invoke(main, merge(plain, "--follow-links", "--force")).exit_code == 0
    assert (plain / "out" / "chat_template.jinja").read_text() == SECRET


TRACED: dict[str, tuple[Damage, str]] = {
    "chat template": (to("chat_template.jinja", "../secret"), "chat_template.jinja: is a link out of"),
    "chat templates": (
        lambda model: (model / "additional_chat_templates").symlink_to(".."),
        "additional_chat_templates: is a link out of",
    ),
    "generation config": (out("generation_config.json"), "generation_config.json: is a link out of"),
    "tokenizer: zeros": (to("tokenizer.json", "/dev/zero"), "tokenizer.json: is a link out of"),
    "tokenizer: pipe": (pipe("tokenizer.json"), "tokenizer.json: expected a regular file, found a pipe"),
    "preprocessor": (to("preprocessor_config.json", "../secret"), "preprocessor_config.json: is a link out of"),
    "vocabulary": (to("vocab.txt", "/etc/passwd"), "vocab.txt: is a link out of"),
    "vocabulary by its path": (
        edited("tokenizer_config.json", lambda config: config.update(vocab_file="/etc/passwd")),
        "tokenizer_config.json: field 'vocab_file': expected a file in this folder, found '/etc/passwd'",
    ),
    "vocabulary by position": (
        edited("tokenizer_config.json", lambda config: config.update(init_inputs=["/etc/passwd"])),
        "tokenizer_config.json: field 'init_inputs': expected a file in this folder, found '/etc/passwd'",
    ),
}


@pytest.mark.parametrize("case", TRACED)
def test_what_transformers_would_open(
    case: str, tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> None:
    damage, message = TRACED[case]
    model = tmp_path / "model"
    shutil.copytree(tiny_model("bert"), model)
    (tmp_path / "secret").write_text(SECRET)
    damage(model)
    adapter = f"a={classifier_checkpoints['ia3_two']}"
    output = tmp_path / "out"
    ends(["onnx", "--model", str(model), "--adapter", adapter, "--mode", "swappable", "--output", str(output)], message)
    assert not output.exists()


@pytest.fixture
def bundle(tmp_path: Path, swappable_bundle: Exported) -> Path:
    shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle")
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path / "bundle"


def run(bundle: Path) -> list[str]:
    return ["run", "--bundle", str(bundle), "--adapter", "ia3_two", "--text", "a"]


BUNDLE: dict[str, tuple[Damage, str]] = {
    "manifest: link": (out("manifest.json"), "manifest.json: is a link out of"),
    "manifest: pipe": (pipe("manifest.json"), "manifest.json: expected a regular file, found a pipe"),
    "graph: link": (absolute("model.onnx"), "model.onnx: is a link out of"),
    "graph: pipe": (pipe("model.onnx"), "model.onnx: expected a regular file, found a pipe"),
    "config": (to("config.json", "/dev/zero"), "config.json: is a link out of"),
    "tokenizer": (to("tokenizer.json", "/dev/zero"), "tokenizer.json: is a link out of"),
    "adapter: pipe": (pipe("adapters/ia3_two.onnx_adapter"), "expected a regular file, found a pipe"),
    "adapter: folder": (directory("adapters/ia3_two.onnx_adapter"), "expected a regular file, found a folder"),
    "adapter: link": (out("adapters/ia3_two.onnx_adapter"), "ia3_two.onnx_adapter: is a link out of"),
    "adapters": (out("adapters"), "adapters: is a link out of"),
}


@pytest.mark.parametrize("case", BUNDLE)
def test_bundles(case: str, bundle: Path) -> None:
    damage, message = BUNDLE[case]
    damage(bundle)
    result = ends(run(bundle), message)
    assert "--follow-links" not in result.stderr
    ends(["inspect", str(bundle)], message)


def test_a_bundle_as_kubernetes_mounts_it_works(bundle: Path) -> None:
    version = bundle / "..2026_11_26"
    version.mkdir()
    for path in [path for path in bundle.iterdir() if path != version]:
        path.rename(version / path.name)
        path.symlink_to(f"..data/{path.name}")
    (bundle / "..data").symlink_to(version.name)
    assert CliRunner().invoke(main, run(bundle)).exit_code == 0
    result = CliRunner().invoke(main, ["inspect", str(bundle), "--json"])
    assert {item["status"] for item in json.loads(result.stdout)["files"]} == {"ok"}


def test_a_bundle_folder_that_is_a_link_works(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("bundle")
    assert CliRunner().invoke(main, run(tmp_path / "latest")).exit_code == 0


def test_nothing_is_added_through_a_link(bundle: Path, swappable_bundle: Exported, tmp_path: Path) -> None:
    out("adapters")(bundle)
    before = {path.name: path.read_bytes() for path in (tmp_path / "moved").iterdir()}
    adapter = swappable_bundle.adapters["ia3_two"]
    for name, more in (("new", []), ("ia3_two", ["--force"])):
        ends(["add", "--bundle", str(bundle), "--adapter", f"{name}={adapter}", *more], "adapters: is a link out of")
    assert {path.name: path.read_bytes() for path in (tmp_path / "moved").iterdir()} == before


def test_links_are_followed_where_that_is_asked_for(bundle: Path, swappable_bundle: Exported, tmp_path: Path) -> None:
    """By `add`, `onnx` and `parity`, for the folders of the model and the adapters."""
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    shutil.copytree(swappable_bundle.base, model)
    shutil.copytree(swappable_bundle.adapters["ia3_two"], adapter)
    (tmp_path / "weights").mkdir()
    for path in (model / "model.safetensors", model / "tokenizer.json", adapter / "adapter_model.safetensors"):
        path.rename(tmp_path / "weights" / path.name)
        path.symlink_to(f"../weights/{path.name}")
    made = str(tmp_path / "made")
    commands = (
        ["add", "--bundle", str(bundle), "--adapter", f"new={adapter}"],
        ["onnx", "--model", str(model), "--adapter", f"a={adapter}", "--mode", "swappable", "--output", made],
        ["parity", "--bundle", made, "--model", str(model), "--adapter", f"a={adapter}"],
    )
    for command in commands:
        if command[0] != "parity":
            ends(command, "is a link out of", "--follow-links")
        result = CliRunner().invoke(main, [*command, "--follow-links"])
        assert result.exit_code == 0, result.output
    ends(commands[2], "is a link out of", "--follow-links")


def test_the_hubs_cache_works(bundle: Path, swappable_bundle: Exported, tmp_path: Path) -> None:
    """Its snapshots are links to blobs; adapters also lie in folders below one."""
    repository = tmp_path / "models--team--adapters"
    (repository / "blobs").mkdir(parents=True)
    folder = repository / "snapshots" / "0123abc" / "adapters" / "one"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(swappable_bundle.adapters["ia3_two"].iterdir())):
        shutil.copyfile(path, repository / "blobs" / f"sha{number}")
        (folder / path.name).symlink_to(f"../../../../blobs/sha{number}")
    result = CliRunner().invoke(main, ["add", "--bundle", str(bundle), "--adapter", f"new={folder}"])
    assert result.exit_code == 0, result.output


def _in_initializer(model: Any) -> Any:
    return model.graph.initializer.add()


def _in_constant(model: Any) -> Any:
    node = model.graph.node.add(op_type="Constant", output=["c"])
    return node.attribute.add(name="value", type=4).t


def _in_branch(model: Any) -> Any:
    node = model.graph.node.add(op_type="If")
    return node.attribute.add(name="then_branch", type=5).g.initializer.add()


def _in_function(model: Any) -> Any:
    function = model.functions.add(name="f", domain="d")
    return function.node.add(op_type="Constant").attribute.add(name="value", type=4).t


def _in_default(model: Any) -> Any:
    return model.functions.add(name="f", domain="d").attribute_proto.add(name="value", type=4).t


def _in_sparse(model: Any) -> Any:
    return model.graph.sparse_initializer.add().values


PLACES = (_in_constant, _in_branch, _in_function, _in_default, _in_sparse)


def with_weights_elsewhere(bundle: Path, place: Callable[[Any], Any], entries: dict[str, str]) -> None:
    """Give the bundle's graph one more tensor, whose values a file has, and the manifest the graph's new digest."""
    import onnx

    model = onnx.load(bundle / "model.onnx")
    tensor = place(model)
    tensor.name, tensor.data_type, tensor.data_location = "w", 1, onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    digest = sha256(bundle / "model.onnx")
    edited("manifest.json", lambda manifest: manifest["files"].update({"model.onnx": digest}))(bundle)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, "expected a path inside the folder"),
        ({"location": "/etc/passwd"}, "expected a path inside the folder"),
        ({"location": "adapters/../../secret"}, "expected a path inside the folder"),
        ({"location": "link"}, "link: is a link out of"),
        ({"location": "pipe"}, "expected a regular file, found a pipe"),
        ({"location": "a\0b"}, "expected a path inside the folder"),
        ({"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096", "length": "4"}, "no such file"),
        ({"location": "tokenizer.json", "offset": str(1 << 50)}, "external data: expected 1,125,899,906,842,624 bytes"),
        ({"location": "tokenizer.json", "offset": "0", "length": str(1 << 50)}, "external data: expected"),
        ({"location": "tokenizer.json", "offset": "-1"}, "external data: expected a number as offset"),
        ({"location": "nothing"}, "no such file"),
    ],
)
def test_weights_that_a_graph_has_elsewhere(entries: dict[str, str], message: str, bundle: Path) -> None:
    (bundle / "link").symlink_to("../secret")
    os.mkfifo(bundle / "pipe")
    with_weights_elsewhere(bundle, _in_initializer, entries)
    ends(run(bundle), message)


@pytest.mark.parametrize("place", PLACES)
def test_wherever_in_the_graph_they_are(place: Callable[[Any], Any], bundle: Path) -> None:
    with_weights_elsewhere(bundle, place, {"location": "../secret"})
    ends(run(bundle), "expected a path inside the folder, found '../secret'")
    ends(["inspect", str(bundle / "model.onnx")], "expected a path inside the folder, found '../secret'")


PANICS: dict[str, Callable[[Any], object]] = {
    "normalizer": lambda file: file.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "eA=="}),
    "merges": lambda file: file.update(
        model={"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "continuing_subword_prefix": "###"}
    ),
}


@pytest.mark.parametrize("case", PANICS)
def test_a_tokenizer_at_which_its_library_gives_up(
    case: str, bundle: Path, swappable_bundle: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It panics: an exception that is no Exception, and a trace on stderr, which only a process of its own shows."""
    edited("tokenizer.json", PANICS[case])(bundle)
    digest = sha256(bundle / "tokenizer.json")
    edited("manifest.json", lambda manifest: manifest["files"].update({"tokenizer.json": digest}))(bundle)
    ends(run(bundle), f"{bundle / 'tokenizer.json'}: not a readable tokenizer: ")
    assert capfd.readouterr().err == ""
    model = tmp_path / "model"
    shutil.copytree(swappable_bundle.base, model)
    edited("tokenizer.json", PANICS[case])(model)
    adapter, output = f"a={swappable_bundle.adapters['ia3_two']}", str(tmp_path / "out")
    ends(
        ["onnx", "--model", str(model), "--adapter", adapter, "--mode", "swappable", "--output", output],
        f"{model / 'tokenizer.json'}: not a readable tokenizer: ",
    )
    assert capfd.readouterr().err == ""
