"""What all tests share: tiny random models, adapters, checkpoints and batches, all made by factories.

Every fixture here is one per run and every made model is cached, so a test asks for what it needs and pays once.
    tiny_model("bert", "text-classification") -> folder of a saved model, with a tokenizer
    tiny_base("bert", "features", dtype=...)  -> the same, loaded afresh by `load_base`: yours to change
    tiny_info("bert")                         -> its ModelInfo
    random_adapter(info, "ia3", seed=1)       -> an Adapter, every tensor of it random
    save_checkpoint(adapter, info)            -> a new folder with that adapter in its own format
    inputs_for("t5", rows=3, length=7)        -> numpy inputs of that architecture, with padding
    minilm                                    -> folder of the real all-MiniLM-L6-v2 (marks the test as `real`)
All is seeded: the same call gives the same numbers in every run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export import tasks
from adapter_export.basemodel import BaseModel, load_base, quiet
from adapter_export.checkpoints.adapter import Adapter, HeadLayer
from adapter_export.checkpoints.folder import save_adapter
from adapter_export.methods import registry
from adapter_export.methods.contract import Block
from adapter_export.modelinfo import ModelInfo
from adapter_export.placement.tables import placement_for

# Exported bundles.
pytest_plugins = ["tests.bundles"]

# Sizes of the tiny models: d features in h heads, LAYERS layers, at most POSITIONS tokens; classes without num_labels.
HIDDEN, HEADS, LAYERS, FFN, POSITIONS, LABELS = 32, 4, 2, 64, 64, 3

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD, UNK, CLS, SEP = range(len(SPECIAL))
_WORDS = """
a an and are as at awful bad best better big boring bright but by cat clear cold dark day dog dull easy fast fine food
for from fun funny good great green had happy has have he her his home hot house i in is it just kind light little long
lovely man me more movie my never new nice night no not of old on one or poor red right sad she slow small so some
story sweet terrible that the they this time to very was we weak well what with woman work you
"""
WORDS = tuple(_WORDS.split())
VOCABULARY = len(SPECIAL) + len(WORDS)

# Models that read from left to right, whose texts are padded on the left; that take images; and with two stacks.
_DECODERS = (
    "gpt2", "opt", "gpt_neox", "gpt_neo", "gptj", "falcon", "bloom", "phi", "phi3", "llama", "mistral", "mixtral",
    "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text",
)  # fmt: skip
_VISION = ("vit", "dinov2", "clip_vision_model")
_SEQ2SEQ = ("t5", "mt5", "bart", "mbart", "whisper")

# Settings in the spelling most configurations share.
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": PAD,
    "bos_token_id": CLS,
    "eos_token_id": SEP,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": HEADS // 2}
_GEMMA: dict[str, Any] = {**_GROUPED, "head_dim": HIDDEN // HEADS}
_T5: dict[str, Any] = {
    "d_model": HIDDEN,
    "d_kv": HIDDEN // HEADS,
    "d_ff": FFN,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "decoder_start_token_id": PAD,
}
_BART: dict[str, Any] = {
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": FFN,
    "decoder_ffn_dim": FFN,
    "decoder_start_token_id": SEP,
}
# Images of 2 x 2 patches; sounds of MEL bins and FRAMES frames, which make FRAMES / 2 positions.
IMAGE, PATCH, MEL, FRAMES = 16, 8, 8, 20
_IMAGES: dict[str, Any] = {"image_size": IMAGE, "patch_size": PATCH, "num_channels": 3}
# What an architecture has besides, or instead.
_CONFIGS: Mapping[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16, "num_hidden_groups": 1},
    "bart": _BART,
    "bloom": {"n_head": HEADS, "n_layer": LAYERS},
    "clip": {
        "text_config": {**_COMMON, "projection_dim": HIDDEN},
        # Another width than the text's, as in the published models.
        "vision_config": {**_COMMON, **_IMAGES, "hidden_size": 24, "projection_dim": HIDDEN},
        "projection_dim": HIDDEN,
    },
    "clip_text_model": {"projection_dim": HIDDEN},
    "clip_vision_model": {**_IMAGES, "projection_dim": HIDDEN},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "dinov2": {**_IMAGES, "mlp_ratio": FFN // HIDDEN},
    "distilbert": {"dim": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": FFN},
    "electra": {"embedding_size": 16},
    "falcon": {"num_kv_heads": HEADS // 2, "new_decoder_architecture": True, "ffn_hidden_size": FFN},
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "gemma3_text": {**_GEMMA, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "gpt2": {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS},
    "gpt_neo": {
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "attention_types": [[["global", "local"], LAYERS // 2]],
        "window_size": 4,
    },
    "gptj": {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS, "n_inner": FFN,
             "rotary_dim": 4},
    "llama": _GROUPED,
    "mbart": _BART,
    "mistral": {**_GROUPED, "sliding_window": None, "head_dim": HIDDEN // HEADS},
    "mixtral": {**_GROUPED, "sliding_window": None, "num_local_experts": 4, "num_experts_per_tok": 2},
    "modernbert": {"cls_token_id": CLS, "sep_token_id": SEP, "local_attention": 4},
    "mt5": _T5,
    "opt": {"ffn_dim": FFN, "word_embed_proj_dim": HIDDEN},
    "phi": _GROUPED,
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": HIDDEN // HEADS},
    "t5": _T5,
    "vit": _IMAGES,
    "whisper": {
        **_BART,
        "max_source_positions": FRAMES // 2,
        "max_target_positions": POSITIONS,
        "num_mel_bins": MEL,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    },
}  # fmt: skip


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """A test that uses the real model needs the package index: it carries the `real` marker by itself."""
    for item in items:
        if "minilm" in getattr(item, "fixturenames", ()):
            item.add_marker("real")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Called as (model_type, task="features", num_labels=None, **config) -> folder, as `load_base` takes it.

    A model of 2 layers and 32 features with every weight random, norms and biases included (their usual initial values,
    ones and zeros, would hide mistakes). The weights of one architecture are the same for every task. Labelled tasks
    get a trained head of num_labels (default 3); config overrides settings of the architecture. A word-level tokenizer
    over WORDS lies beside (none for images; transformers insists on its own kind for qwen2, which knows few of them).
    """
    made: dict[Any, Path] = {}

    def make(model_type: str, task: str = "features", num_labels: int | None = None, **config: Any) -> Path:
        key = (model_type, task, num_labels, tuple(sorted(config.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{model_type}-{task}")
            _save_model(folder, model_type, task, num_labels or LABELS, config)
            if model_type not in _VISION:
                _save_tokenizer(folder, model_type)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_base(tiny_model: Callable[..., Path]) -> Callable[..., BaseModel]:
    """Called as (model_type, task="features", num_labels=None, dtype=None, **config) -> BaseModel, newly loaded."""

    def make(model_type: str, task: str = "features", num_labels: int | None = None, dtype: Any = None, **config: Any):
        return load_base(tiny_model(model_type, task, num_labels, **config), task, dtype=dtype)

    return make


@pytest.fixture(scope="session")
def tiny_info(tiny_base: Callable[..., BaseModel]) -> Callable[..., ModelInfo]:
    """Called as (model_type, task="features", num_labels=None, **config) -> ModelInfo of that tiny model."""
    made: dict[Any, ModelInfo] = {}

    def make(model_type: str, task: str = "features", num_labels: int | None = None, **config: Any) -> ModelInfo:
        key = (model_type, task, num_labels, tuple(sorted(config.items())))
        if key not in made:
            made[key] = tiny_base(model_type, task, num_labels, **config).info
        return made[key]

    return make


@pytest.fixture(scope="session")
def random_adapter() -> Callable[..., Adapter]:
    """Called as (info, method, seed=0, *, labels=None, target=None, feedforward=None, **options) -> Adapter.

    Every tensor differs from its identity by random numbers of standard deviation 0.3: IA3 vectors scatter around 1,
    bottleneck matrices and biases around 0. options: the method's own (`placement="pfeiffer"`, `reduction_factor=4`).
    target, feedforward: regular expressions for a custom placement. labels: names of the classes of a random task head;
    None gives one with placeholder names, of 3 classes, where the model described has a head.
    """

    def make(
        info: ModelInfo,
        method: str,
        seed: int = 0,
        *,
        labels: tuple[str, ...] | None = None,
        target: str | None = None,
        feedforward: str | None = None,
        **options: Any,
    ) -> Adapter:
        rng = np.random.default_rng(seed)
        chosen = registry.get(method)
        settings = chosen.Options(**options)
        blocks = {}
        placement = placement_for(info.model_type, info.modules, target, feedforward)
        for site, operator in chosen.place(placement, info.modules, settings).items():
            shapes = chosen.initial(operator, info.features(site), settings, rng)
            specs = operator.specs(info.features(site))
            blocks[site] = Block(
                operator, {name: _random(rng, tensor.shape, specs[name].identity) for name, tensor in shapes.items()}
            )
        head = {}
        for name in info.head:
            rows = (len(labels) if labels else LABELS) if name == info.head[-1] else info.hidden_size
            bias = None if name == "score" else _random(rng, (rows,))
            head[name] = HeadLayer(_random(rng, (rows, info.hidden_size)), bias)
        task = tasks.of_architecture(info.architecture)
        return Adapter(method, blocks, head, labels if head else None, task)

    return make


@pytest.fixture(scope="session")
def save_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Called as (adapter, info, base_name="base") -> a new folder with the adapter as `save_adapter` writes it."""

    def make(adapter: Adapter, info: ModelInfo, base_name: str = "base") -> Path:
        folder = tmp_path_factory.mktemp(f"adapter-{adapter.method}")
        save_adapter(folder, adapter, info, base_name)
        return folder

    return make


@pytest.fixture(scope="session")
def text_batch() -> Callable[..., dict[str, np.ndarray]]:
    """Called as (rows=3, length=7, padding="right", seed=0) -> int64 input_ids and attention_mask, [rows, length].

    The first row is full; each later one has one token less (but at least one), the rest being padding on that side
    ("right", "left", or "none").
    """
    return _text_batch


@pytest.fixture(scope="session")
def inputs_for() -> Callable[..., dict[str, np.ndarray]]:
    """Called as (model_type, rows=3, length=7, padding="right", seed=0) -> all inputs of that architecture, as numpy.

    Text as in text_batch; models with an encoder and a decoder get decoder_input_ids of two tokens less as well; vision
    models get pixel_values and Whisper input_features (length means nothing there); CLIP gets texts and images. For
    PyTorch: `{name: torch.from_numpy(value) for name, value in inputs.items()}`.
    """

    def make(model_type: str, rows: int = 3, length: int = 7, padding: str = "right", seed: int = 0):
        rng = np.random.default_rng(seed + 1)
        pixels = {"pixel_values": rng.standard_normal((rows, 3, IMAGE, IMAGE)).astype(np.float32)}
        if model_type in _VISION:
            return pixels
        batch = _text_batch(rows, length, padding, seed)
        if model_type == "whisper":
            batch = {"input_features": rng.standard_normal((rows, MEL, FRAMES)).astype(np.float32)}
        if model_type in _SEQ2SEQ:
            batch["decoder_input_ids"] = rng.integers(len(SPECIAL), VOCABULARY, (rows, max(1, length - 2)))
        return {**batch, **pixels} if model_type == "clip" else batch

    return make


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of the real all-MiniLM-L6-v2, fetched on first use."""
    from samples import assets

    return assets.minilm()


def _random(rng: np.random.Generator, shape: tuple[int, ...], mean: float = 0.0) -> np.ndarray:
    return rng.normal(mean, 0.3, shape).astype(np.float32)


def _text_batch(rows: int = 3, length: int = 7, padding: str = "right", seed: int = 0) -> dict[str, np.ndarray]:
    if padding not in ("right", "left", "none"):
        raise ValueError(padding)
    rng = np.random.default_rng(seed)
    ids = rng.integers(len(SPECIAL), VOCABULARY, (rows, length))
    kept = np.array([length if padding == "none" else max(1, length - row) for row in range(rows)])
    mask = np.arange(length)[None, :] < kept[:, None]
    mask = mask[:, ::-1] if padding == "left" else mask
    return {"input_ids": np.where(mask, ids, PAD), "attention_mask": mask.astype(np.int64)}


def _save_model(folder: Path, model_type: str, task: str, num_labels: int, overrides: Mapping[str, Any]) -> None:
    import torch
    import transformers

    settings = {**_COMMON, **_CONFIGS.get(model_type, {}), **overrides}
    spec = tasks.get(task)
    if spec.labelled:
        settings["num_labels"] = num_labels
    config = transformers.AutoConfig.for_model(model_type, **settings)
    model = getattr(transformers, tasks.auto_class(spec, model_type)).from_config(config)
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Seeded by the name within the base model: the order of parameters and the task class do not matter.
            generator = torch.Generator().manual_seed(zlib.crc32(name.removeprefix(prefix).encode()))
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2 and "bias" not in name:
                parameter.add_(0.2 * noise)  # a norm's weight, whose neutral value is 1 (0 in Gemma), or a scale
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name or "shared" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
    with quiet():
        model.save_pretrained(folder)


def _save_tokenizer(folder: Path, model_type: str) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token=SPECIAL[UNK])
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if model_type not in _DECODERS:
        first = () if model_type in ("t5", "mt5") else ((SPECIAL[CLS], CLS),)
        template = " ".join([*(token for token, _ in first), "$A", SPECIAL[SEP]])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[*first, (SPECIAL[SEP], SEP)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[PAD],
        unk_token=SPECIAL[UNK],
        cls_token=SPECIAL[CLS],
        sep_token=SPECIAL[SEP],
        eos_token=SPECIAL[SEP],
        model_max_length=POSITIONS,
        padding_side="left" if model_type in _DECODERS else "right",
    ).save_pretrained(folder)
