"""Tiny models of every architecture, their inputs and adapters, all random and seeded; `conftest` has the fixtures."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.checkpoints.adapter import Adapter, HeadLayer
from adapter_export.methods import registry
from adapter_export.methods.placement import placed
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.quiet import quiet

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


def random_adapter(
    info: ModelInfo,
    method: str,
    seed: int = 0,
    *,
    labels: tuple[str, ...] | None = None,
    target: str | None = None,
    **options: Any,
) -> Adapter:
    """See the fixture of that name."""
    rng = np.random.default_rng(seed)
    chosen = registry.get(method)
    settings = chosen.Options(**options)
    sites = {}
    for site, operator in placed(chosen, info, settings, target).items():
        initial = chosen.initial(operator, info.features(site), settings, rng)
        specs = operator.specs
        tensors = {name: _random(rng, tensor.shape, specs[name].identity) for name, tensor in initial.tensors.items()}
        sites[site] = replace(initial, tensors=tensors)
    head = {}
    for name in info.head:
        rows = (len(labels) if labels else LABELS) if name == info.head[-1] else info.hidden_size
        # CLIP's head reads its images' width; DINOv2's the class token beside the mean of the patches.
        features = info.inputs.get(name, info.hidden_size * (2 if info.model_type == "dinov2" else 1))
        bias = None if name in ("score", "head.dense") else _random(rng, (rows,))
        head[name] = HeadLayer(_random(rng, (rows, features)), bias)
    task = tasks.of_architecture(info.architecture)
    return Adapter(method, sites, head, labels if head else None, task)


def inputs_for(
    model_type: str, rows: int = 3, length: int = 7, padding: str = "right", seed: int = 0
) -> dict[str, np.ndarray]:
    """See the fixture of that name."""
    rng = np.random.default_rng(seed + 1)
    pixels = {"pixel_values": rng.standard_normal((rows, 3, IMAGE, IMAGE)).astype(np.float32)}
    if model_type in _VISION:
        return pixels
    batch = text_batch(rows, length, padding, seed)
    if model_type == "whisper":
        batch = {"input_features": rng.standard_normal((rows, MEL, FRAMES)).astype(np.float32)}
    elif model_type in _SEQ2SEQ:
        # Their classifiers look for the one end of each text.
        last = batch["attention_mask"].sum(1) - 1 if padding != "left" else np.full(rows, length - 1)
        batch["input_ids"][np.arange(rows), last] = SEP
    if model_type in _SEQ2SEQ:
        batch["decoder_input_ids"] = rng.integers(len(SPECIAL), VOCABULARY, (rows, max(1, length - 2)))
    return {**batch, **pixels} if model_type == "clip" else batch


def _random(rng: np.random.Generator, shape: tuple[int, ...], mean: float = 0.0) -> np.ndarray:
    return rng.normal(mean, 0.3, shape).astype(np.float32)


def text_batch(rows: int = 3, length: int = 7, padding: str = "right", seed: int = 0) -> dict[str, np.ndarray]:
    """See the fixture of that name."""
    if padding not in ("right", "left", "none"):
        raise ValueError(padding)
    rng = np.random.default_rng(seed)
    ids = rng.integers(len(SPECIAL), VOCABULARY, (rows, length))
    kept = np.array([length if padding == "none" else max(1, length - row) for row in range(rows)])
    mask = np.arange(length)[None, :] < kept[:, None]
    mask = mask[:, ::-1] if padding == "left" else mask
    return {"input_ids": np.where(mask, ids, PAD), "attention_mask": mask.astype(np.int64)}


def save_model(folder: Path, model_type: str, task: str, num_labels: int, overrides: Mapping[str, Any]) -> None:
    """See the fixture `tiny_model`."""
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
    if model_type not in _VISION:
        _save_tokenizer(folder, model_type)


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
