"""The tokenizer of a model folder: the one that transformers loads, for training, and written for a runtime without it.

transformers applies tokenizer_config.json over tokenizer.json, and makes a tokenizer of vocab.txt, vocab.json and
merges.txt, or a sentencepiece model alone. The files in a folder therefore do not tell by themselves what its texts
become; a bundle gets what was loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapter_export.basemodel import quiet
from adapter_export.errors import InputError
from adapter_export.outputs.files import library_writes
from adapter_export.reading.files import present
from adapter_export.reading.folders import check_folder
from adapter_export.reading.json_files import optional_json
from adapter_export.reading.panics import is_panic, unprinted
from adapter_export.runtime.text import read_tokenizer

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model", "source.spm")
# Any of these in a model's folder means that it has a tokenizer: without them transformers may make up an empty one.
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "vocab.bpe",
    "tekken.json",
    *_SENTENCEPIECE,
    "bpe.codes",
)
_CONFIG = "tokenizer_config.json"
# What a runtime needs to know of a tokenizer beside its tokenizer.json, by transformers' names.
_SETTINGS = (
    "model_max_length",
    "model_input_names",
    "truncation_side",
    "padding_side",
    "pad_token_type_id",
    "split_special_tokens",
)
# How the tokenizer was loaded says nothing about it.
_LOADING = ("is_local", "local_files_only")

_WITHOUT = "--no-tokenizer exports a bundle that takes token ids alone"

# ruff: noqa: RUF001 (characters that look like others are the point)
# Texts on which a tokenizer that was written, or is served, must agree with the one that transformers loads.
SAMPLES: tuple[str, ...] = (
    "",
    " ",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "THE QUICK BROWN FOX, THE quick brown fox; iPhone McDonald",
    " leading, trailing and  double   spaces ",
    "\ttabs\tand\nline\r\nbreaks\n\nand\u2028separators\u0085of lines",
    "don't can't won't I'm you're we've they'll he'd it's",
    "naïve café Ångström Straße İstanbul ÇA VA DÉJÀ",
    "cafe\u0301 n\u0303 a\u030a \u1e9b\u0323 \ufb01ne \uff21\uff22\uff23 \u2460 \u00bd",
    "3.14159, 1,000,000.00 and -7e-12; 2026-11-26T12:34:56Z, 0xDEADBEEF",
    "user@example.com, https://example.com/a?b=c&d=%20#e, /usr/bin/env, C:\\Windows",
    "def f(x):\n    return {'a': [x ** 2, x // 3], \"b\": x != 0}\n",
    "你好，世界！今天天气很好。 漢字かな交じり文 カタカナ 한국어 문장입니다.",
    "Привет, мир! ЁЖ ёж Ελληνικά ΣΊΣΥΦΟΣ",
    "שלום עולם مرحبا بالعالم عَرَبِيّ \u200fRTL\u200e LTR",
    "नमस्ते दुनिया สวัสดีชาวโลก Tiếng Việt không dấu",
    "😀 👍🏽 👩\u200d👩\u200d👧\u200d👦 🇩🇪 ❤\ufe0f 🏴\U000e0067\U000e0062\U000e007f",
    "zero\u200bwidth soft\u00adhyphen non\u00a0breaking \ufeffmark \ufffd",
    "control \x00 \x01 \x07 \x1b[0m \x7f \x9f characters",
    "(brackets) [in] {all} <shapes> «quotes» “curly” ‘single’ — – … • § ¶ € £ ¥ ©",
    "[CLS] [SEP] [PAD] [MASK] [UNK] <s> </s> <pad> <unk> <mask> <|endoftext|> <|im_start|>user<|im_end|>",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 300,
    "a good movie, not a bad one " * 200,
)


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer of any kind, usable or not."""
    return any(present(folder / name) for name in (*_VOCABULARIES, _CONFIG))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that transformers loads from a model's folder; raises InputError where there is none, none that
    loads, or one that takes more time or memory than a real one. Code in the folder is never run."""
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        expected = ", ".join(_VOCABULARIES)
        raise InputError(f"model {folder}: expected a tokenizer ({expected}), found none")
    check_folder(folder)
    if present(folder / "tokenizer.json"):
        # transformers applies it in this process, without limits: it is to see none that never ends.
        tried = read_tokenizer(folder)
        tried.decode(*tried.encode_batch(SAMPLES).ids, skip_special=True)
    try:
        with quiet(), unprinted():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BaseException as error:  # transformers raises what its backends raise
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        if _needs_sentencepiece(folder):
            # transformers then takes the file for another kind, and says what that lacks.
            reason = "a sentencepiece model needs the package sentencepiece to be installed"
        raise InputError(f"model {folder}: its tokenizer cannot be loaded: {reason[:300]}") from error
    # Kinds that read bytes or characters need no vocabulary; of the others, transformers made this one up.
    if tokenizer.is_fast and not any(present(folder / name) for name in _VOCABULARIES):
        expected = ", ".join(_VOCABULARIES)
        raise InputError(
            f"model {folder}: expected the vocabulary of its tokenizer ({expected}), found {_CONFIG} alone"
        )
    return tokenizer


def _needs_sentencepiece(folder: Path) -> bool:
    """Whether the folder has a sentencepiece model alone, and nothing here to read it."""
    found = any(present(folder / name) for name in _SENTENCEPIECE)
    return found and not present(folder / "tokenizer.json") and find_spec("sentencepiece") is None


def exportable_tokenizer(model: Path) -> Any | None:
    """The tokenizer of a model's folder as `write_tokenizer` takes it, None where the folder has none.

    Raises InputError as `load_tokenizer`, and for kinds without a form for the tokenizers library: those written in
    Python (ByT5, CANINE).
    """
    if not has_tokenizer(model):
        return None
    # What is wrong with the folder is so without its tokenizer, too.
    check_folder(model)
    try:
        tokenizer = load_tokenizer(model)
    except InputError as error:
        raise InputError(f"{error}; {_WITHOUT}") from None
    if not tokenizer.is_fast:
        raise InputError(
            f"model {model}: its tokenizer ({type(tokenizer).__name__}) has no form for the tokenizers library "
            f"(tokenizer.json), so a bundle cannot read texts as training does; {_WITHOUT}"
        )
    return tokenizer


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write `tokenizer.json`, and what a runtime needs beside it, into `folder`.

    Raises InputError for a tokenizer that does in Python what its tokenizer.json does not.
    """
    kind, model = type(tokenizer).__name__, tokenizer.name_or_path
    with quiet(), library_writes(folder):
        tokenizer.save_pretrained(folder)
    path = folder / _CONFIG
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings = {name: value for name, value in settings.items() if name not in _LOADING}
    settings |= {name: getattr(tokenizer, name) for name in _SETTINGS}
    # Other runtimes know kinds by the name that the model's own file has, not by this version's of transformers.
    if named := optional_json(Path(model) / _CONFIG).get("tokenizer_class"):
        settings["tokenizer_class"] = named
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    written = read_tokenizer(folder)
    for text in samples_for(tokenizer):
        if written.encode(text) != tokenizer(text, verbose=False)["input_ids"]:
            raise InputError(
                f"model {model}: its tokenizer ({kind}) makes other tokens of {text[:40]!r} than its tokenizer.json "
                f"does; {_WITHOUT}"
            )


def samples_for(tokenizer: Any) -> Sequence[str]:
    """`SAMPLES`, and texts that spell the tokenizer's own special and added tokens."""
    added = [str(token) for token in tokenizer.get_added_vocab()][:64]
    return (*SAMPLES, *(f"one{token}two {token} three" for token in added), " ".join(added))
