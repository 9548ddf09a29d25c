"""The tokenizer of a model folder as transformers loads it, for training, and written for a runtime without
transformers.

transformers applies tokenizer_config.json over tokenizer.json, and can also make a tokenizer from vocab.txt, from
vocab.json and merges.txt, or from a sentencepiece model alone. So the files in a folder do not show by themselves how
texts are tokenised, and a bundle gets the tokenizer that was loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.models.quiet import quiet
from adapter_export.outputs.files import library_writes
from adapter_export.reading.files import present
from adapter_export.reading.folders import check_folder
from adapter_export.reading.json_files import optional_json
from adapter_export.reading.panics import is_panic, unprinted
from adapter_export.runtime.text import read_tokenizer

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model", "source.spm")
# A model's folder with any of these files has a tokenizer. Without them, transformers may make an empty one.
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
# What a runtime needs to know about a tokenizer in addition to its tokenizer.json, by transformers' names.
_SETTINGS = (
    "model_max_length",
    "model_input_names",
    "truncation_side",
    "padding_side",
    "pad_token_type_id",
    "split_special_tokens",
)
# Fields about how the tokenizer was loaded, which do not describe it.
_LOADING = ("is_local", "local_files_only")

_WITHOUT = "--no-tokenizer exports a bundle that takes token ids alone"

# ruff: noqa: RUF001 (characters that look like others are the point)
# Texts of which a written or served tokenizer must make the same tokens as the one that transformers loads.
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
    """Returns whether the folder holds a tokenizer of any kind, usable or not."""
    return any(present(folder / name) for name in (*_VOCABULARIES, _CONFIG))


def load_tokenizer(folder: Path) -> Any:
    """Returns the tokenizer that transformers loads from a model's folder. Code in the folder is never run.

    Raises:
        InputError: There is none, it does not load, or it takes more time or memory than any real one.
    """
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        expected = ", ".join(_VOCABULARIES)
        raise InputError(f"model {folder}: expected a tokenizer ({expected}), found none")
    check_folder(folder)
    if present(folder / "tokenizer.json"):
        # transformers applies it in this process, without limits, so it must not get one that never ends.
        tried = read_tokenizer(folder)
        tried.decode(*tried.encode_batch(SAMPLES).ids, skip_special=True)
    try:
        with quiet(), unprinted():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BaseException as error:  # transformers passes on any error of its backends.
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        if _needs_sentencepiece(folder):
            # transformers then takes the file for another kind, and its error says what that kind lacks.
            reason = "a sentencepiece model needs the package sentencepiece to be installed"
        raise InputError(f"model {folder}: its tokenizer cannot be loaded: {reason[:300]}") from error
    # Kinds that read bytes or characters need no vocabulary. For other kinds, transformers made an empty tokenizer.
    if tokenizer.is_fast and not any(present(folder / name) for name in _VOCABULARIES):
        expected = ", ".join(_VOCABULARIES)
        raise InputError(
            f"model {folder}: expected the vocabulary of its tokenizer ({expected}), found {_CONFIG} alone"
        )
    return tokenizer


def _needs_sentencepiece(folder: Path) -> bool:
    """Returns whether the folder has only a sentencepiece model, and the package to read it is missing."""
    found = any(present(folder / name) for name in _SENTENCEPIECE)
    return found and not present(folder / "tokenizer.json") and find_spec("sentencepiece") is None


def exportable_tokenizer(model: Path) -> Any | None:
    """Returns the tokenizer of a model's folder for `write_tokenizer`; None if the folder has none.

    Raises:
        InputError: As for `load_tokenizer`; or the tokenizer has no form for the tokenizers library, as those written
            in Python (ByT5, CANINE).
    """
    if not has_tokenizer(model):
        return None
    # Without the tokenizer the folder would be wrong as well, so the error does not advise to leave it out.
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
    """Writes `tokenizer.json`, and the further files that a runtime needs, into `folder`.

    Raises:
        InputError: The tokenizer's Python code does something that its tokenizer.json does not.
    """
    kind, model = type(tokenizer).__name__, tokenizer.name_or_path
    with quiet(), library_writes(folder):
        tokenizer.save_pretrained(folder)
    path = folder / _CONFIG
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings = {name: value for name, value in settings.items() if name not in _LOADING}
    settings |= {name: getattr(tokenizer, name) for name in _SETTINGS}
    # Other runtimes know kinds by the name in the model's own file, not by the name in this version of transformers.
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
    """Returns `SAMPLES`, and texts that contain the tokenizer's own special and added tokens."""
    added = [str(token) for token in tokenizer.get_added_vocab()][:64]
    return (*SAMPLES, *(f"one{token}two {token} three" for token in added), " ".join(added))
