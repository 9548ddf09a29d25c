"""Parity must detect every one of these wrong bundles (mutants), and the unchanged bundles must pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapter_export.bundle.graphs import DECODER, ENCODER
from adapter_export.parity import pytorch_models as module
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.report import ParityReport
from adapter_export.parity.run import check_parity
from tests.bundles import Exported
from tests.parity.cached_references import cached_float64_reference, cached_reference
from tests.parity.localizing.page import check_page, row
from tests.parity.mutants import (
    Mutant,
    bias_unscaled,
    changed,
    dropped,
    fewer_ranks,
    function,
    initializer,
    input_through,
    make,
    merged_again,
    of_another,
    output_through,
    swapped,
    together,
    without,
)
from tests.parity.planted_sites import planted_site

SWAPPABLE, MERGED, EMBEDDED, FEATURES, HEADED, CACHED, PAIR, BANK, LORA = (
    f"{name}_bundle"
    for name in ("swappable", "merged", "embedded", "features", "headed", "llama", "t5", "bank", "lora")
)
L0, L1 = "encoder.layer.0.", "encoder.layer.1."
IA3_SITES = [
    f"{layer}{site}"
    for layer in (L0, L1)
    for site in ("attention.self.key", "attention.self.value", "output.dense.input")
]
BOTTLENECK = f"{L1}output.dense.bottleneck_silu"

# Texts of ONNX. ONES: integers of the shape of x.
ONES = "one = Constant <value_int: int = 1> ()  zeros = Sub (x, x)  ones = Add (zeros, one)"
ROW_0 = (
    "zeros = Sub (x, x)  first = Constant <value_ints: ints = [0]> ()  row = Gather (x, first)  out = Add (zeros, row)"
)
ROW_LAST = ROW_0.replace("[0]", "[-1]")
# Moves the oldest entry of a KV cache [batch, heads, past, d] to the end; an empty cache is unchanged.
ROLLED = """axis = Constant <value_ints: ints = [2]> ()  zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()  end = Constant <value_ints: ints = [1000000]> ()
    first = Slice (x, zero, one, axis)  others = Slice (x, one, end, axis)
    out = Concat <axis: int = 2> (others, first)"""


def one_percent(tensor: np.ndarray) -> np.ndarray:
    return tensor * 1.01


MUTANTS = [
    # an adapter dropped
    Mutant("IA3 dropped in one layer", SWAPPABLE, "ia3_three", without(L1, ".ia3.")),
    Mutant("IA3 dropped at one site", SWAPPABLE, "ia3_three", without(f"{L0}output.dense.input.ia3.")),
    Mutant("IA3 dropped, its head not", SWAPPABLE, "ia3_three", without(".ia3.")),
    Mutant("bottleneck dropped in one layer", SWAPPABLE, "houlsby_four", without(L0, ".bottleneck")),
    Mutant("bottleneck dropped, its head not", SWAPPABLE, "pfeiffer_five", without(".bottleneck")),
    Mutant("dropped in one layer, no task head", FEATURES, "pfeiffer", without(L0, ".bottleneck")),
    # another adapter, or in another place
    Mutant("two layers swapped, IA3", SWAPPABLE, "ia3_three", swapped(L0, L1)),
    Mutant("two layers swapped, bottleneck", SWAPPABLE, "houlsby_four", swapped(L0, L1)),
    Mutant("keys and values swapped", SWAPPABLE, "ia3_two", swapped("self.key", "self.value")),
    Mutant("stale file: another body", SWAPPABLE, "ia3_three", of_another(".ia3.")),
    Mutant("stale file: another head", SWAPPABLE, "ia3_three", of_another(".head.")),
    Mutant("stale file: fewer labels", SWAPPABLE, "ia3_three", changed(".head.", lambda tensor: tensor[:2])),
    Mutant("adapter of another base model", SWAPPABLE, "houlsby_four", of_another(".bottleneck")),
    Mutant("labels in another order", SWAPPABLE, "houlsby_four", changed(".head.", lambda tensor: tensor[::-1])),
    # LoRA
    Mutant("LoRA absent", LORA, "lora", without(".lora.")),
    Mutant("LoRA dropped in one layer", LORA, "lora", without(L1, ".lora.")),
    Mutant("LoRA: scale alpha / rank dropped", LORA, "lora", changed(".lora.b", lambda tensor: tensor / 2.5)),
    Mutant("LoRA: two layers swapped", LORA, "lora", swapped(L0, L1)),
    *(
        Mutant(f"LoRA: {part} of two layers swapped", LORA, "lora",
               swapped(f"{L0}attention.self.value.lora.{part}", f"{L1}attention.self.value.lora.{part}"))
        for part in ("a", "b")
    ),
    Mutant("LoRA: queries and values swapped", LORA, "lora", swapped("self.query", "self.value")),
    Mutant("LoRA: the last rank missing", LORA, "lora", fewer_ranks),
    Mutant("LoRA: one matrix off by 1%", LORA, "lora", changed(f"{L1}attention.self.query.lora.a", one_percent)),
    Mutant("LoRA without the layer's own output", LORA, "lora",
           graph=function("LoRA", "Add (y, wide)", "Identity (wide)")),
    # numbers slightly off
    *(
        Mutant(f"one vector off by 1%: {site}", SWAPPABLE, "ia3_three", changed(f"{site}.ia3.", one_percent))
        for site in IA3_SITES
    ),
    *(
        Mutant(f"{name} off by 1%", SWAPPABLE, "houlsby_four", changed(f"{BOTTLENECK}.{name}", one_percent))
        for name in ("down", "down_bias", "up", "up_bias")
    ),
    Mutant("vectors rounded to float16", SWAPPABLE, "ia3_three", changed(".ia3.", lambda t: t.astype(np.float16))),
    Mutant("bottleneck's scaling forgotten", SWAPPABLE, "houlsby_two", changed(".up", lambda tensor: tensor / 2)),
    # the wrong arithmetic
    Mutant(
        "IA3 applied twice",
        SWAPPABLE,
        "ia3_three",
        graph=function("IA3", "out = Mul (y, l)", "once = Mul (y, l)  out = Mul (once, l)"),
    ),
    Mutant(
        "residual dropped",
        SWAPPABLE,
        "houlsby_four",
        graph=function("BottleneckSilu", "Add (y, delta)", "Identity (delta)"),
    ),
    Mutant(
        "residual dropped, embedded",
        EMBEDDED,
        "houlsby_four",
        graph=function("BottleneckSilu", "Add (y, delta)", "Identity (delta)"),
    ),
    Mutant(
        "wrong activation: relu for silu",
        SWAPPABLE,
        "houlsby_four",
        graph=function("BottleneckSilu", "Mul (inner, sigma)", "Relu (inner)"),
    ),
    Mutant(
        "wrong activation: gelu for relu",
        SWAPPABLE,
        "pfeiffer_five",
        graph=function("BottleneckRelu", "Relu (inner)", "Gelu (inner)"),
    ),
    Mutant(
        "wrong activation: hard sigmoid in silu",
        EMBEDDED,
        "houlsby_four",
        graph=function("BottleneckSilu", "Sigmoid (inner)", "HardSigmoid <alpha: float = 0.1666667> (inner)"),
    ),
    Mutant(
        "bias of the bottleneck dropped",
        SWAPPABLE,
        "houlsby_two",
        graph=function("BottleneckSilu", "Add (projected, down_bias)", "Identity (projected)"),
    ),
    Mutant("constant of an embedded adapter off by 1%", EMBEDDED, "houlsby_four",
           graph=initializer(f"{L0}output.dense.bottleneck_silu.up", one_percent)),
    # the merge
    Mutant("bias left unscaled", MERGED, "ia3_three", graph=bias_unscaled(f"{L0}attention.self.value")),
    Mutant("merged twice", MERGED, "ia3_three", graph=merged_again(f"{L1}attention.self.value")),
    # the base model
    Mutant("a default that is not the identity", SWAPPABLE, "ia3_three",
           graph=initializer(f"{L0}attention.self.value.ia3.l", one_percent)),
    Mutant("a base weight off by 1%", SWAPPABLE, "ia3_three",
           graph=initializer(f"bert.{L1}output.LayerNorm.weight", one_percent)),
    Mutant("positions off by one", MERGED, "ia3_three",
           graph=initializer("bert.embeddings.position_embeddings.weight", lambda table: np.roll(table, 1, 0))),
    Mutant("somebody's labels without an adapter", SWAPPABLE, "ia3_three", graph=together(
           initializer("classifier.head.weight", lambda empty: np.ones((2, empty.shape[1]))),
           initializer("classifier.head.bias", lambda _: np.ones(2)))),
    Mutant("the base model's own head lost", HEADED, "ia3", graph=initializer("classifier.head.bias", np.zeros_like)),
    # inputs and shapes
    Mutant("mask ignored", SWAPPABLE, "ia3_three",
           graph=input_through("attention_mask", f"{ONES}  out = Identity (ones)")),
    Mutant("token types baked in", SWAPPABLE, "ia3_three", graph=input_through("token_type_ids", "out = Sub (x, x)")),
    Mutant("sequence baked in", MERGED, "ia3_three", graph=input_through("attention_mask", f"""{ONES}
           traced = Constant <value_int: int = 9> ()  position = CumSum (ones, one)
           near = LessOrEqual (position, traced)  kept = Cast <to: int = 7> (near)  out = Mul (x, kept)""")),
    Mutant("batch baked in", SWAPPABLE, "ia3_three", graph=output_through(
        "rows = Constant <value_ints: ints = [3, -1]> ()  out = Reshape (x, rows)")),
    Mutant("every row is the first", SWAPPABLE, "ia3_three", graph=output_through(ROW_0)),
    # outputs
    Mutant("all zero", SWAPPABLE, "ia3_three", graph=output_through("out = Sub (x, x)")),
    Mutant("constant", SWAPPABLE, "ia3_three", graph=output_through(
        "zeros = Sub (x, x)  number = Constant <value_float: float = 0.3> ()  out = Add (zeros, number)")),
    Mutant("the same for every input", SWAPPABLE, "ia3_three", graph=output_through(
        "zeros = Sub (x, x)  number = Constant <value_float: float = 0.3> ()  axis = Constant <value_int: int = 1> ()  "
        "numbers = Add (zeros, number)  out = CumSum (numbers, axis)")),
    Mutant("not a number", SWAPPABLE, "ia3_three", graph=output_through("zero = Sub (x, x)  out = Div (zero, zero)")),
    # caches, and two graphs
    Mutant("cache off by one", CACHED, "ia3", graph=input_through("past_key_values.0.key", ROLLED)),
    Mutant("one layer's past forgotten", CACHED, "houlsby",
           graph=input_through("past_key_values.1.value", "out = Sub (x, x)")),
    Mutant("cache off by one, two graphs", PAIR, "ia3", file=DECODER,
           graph=input_through("past_key_values.0.decoder.key", ROLLED)),
    Mutant("cross-attention's adapter dropped in the encoder's graph", PAIR, "ia3", file=ENCODER,
           graph=dropped("EncDecAttention")),
    Mutant("adapter dropped in the encoder's graph", PAIR, "ia3", graph=dropped("encoder.block"), file=ENCODER),
    Mutant("adapter dropped in the decoder's graph", PAIR, "ia3", graph=dropped("decoder.block"), file=DECODER),
    Mutant("the decoder's bottlenecks dropped", PAIR, "houlsby", without("decoder.block.1", ".bottleneck")),
    Mutant("the encoder's mask ignored in the decoder", PAIR, "houlsby", file=DECODER,
           graph=input_through("encoder_attention_mask", f"{ONES}  out = Identity (ones)")),
    # banks
    Mutant("every row has the first one's adapter", BANK, "ia3_three", graph=input_through("adapter_ids", ROW_0)),
    Mutant("every row has the last one's adapter", BANK, "houlsby_two", graph=input_through("adapter_ids", ROW_LAST)),
    Mutant("no row has an adapter", BANK, "houlsby_two", graph=input_through("adapter_ids", "out = Sub (x, x)")),
    Mutant("one tensor of no adapter", BANK, "houlsby_two", graph=function(
        "BottleneckSiluOfRows", "down_bias = Gather <axis: int = 0> (down_bias_bank, rows)",
        "none = Sub (rows, rows)  down_bias = Gather <axis: int = 0> (down_bias_bank, none)")),
    Mutant("one layer's vectors dropped in a bank", BANK, "ia3_three", without(L1, ".ia3.")),
]  # fmt: skip


def report_of(mutant: Mutant, request: pytest.FixtureRequest, folder: Path) -> ParityReport:
    exported: Exported = request.getfixturevalue(mutant.bundle)
    bundle = make(mutant, exported, folder / "bundle")
    return check_parity(bundle, exported.base, {mutant.adapter: exported.adapters[mutant.adapter]})


@pytest.mark.parametrize(
    ("bundle", "adapter"),
    [
        (SWAPPABLE, "ia3_three"),
        (SWAPPABLE, "pfeiffer_five"),
        (MERGED, "ia3_three"),
        (EMBEDDED, "houlsby_four"),
        (FEATURES, "pfeiffer"),
        (HEADED, "ia3"),
        (CACHED, "ia3"),
        (PAIR, "ia3"),
        (BANK, "houlsby_four"),
        (LORA, "lora"),
    ],
)
def test_unchanged_bundles_pass(bundle: str, adapter: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report = report_of(Mutant("nothing", bundle, adapter), request, tmp_path)
    assert report.verdict is Verdict.PASS, [(item.case, item.judgement.reasons) for item in report.results]


@pytest.mark.slow
def test_every_mutant_is_detected(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Reference", cached_reference({}))
    monkeypatch.setattr(module, "Float64Reference", cached_float64_reference({}))
    alive, rows, misplaced = [], [], []
    print(f"\n{'mutant':<58} verdict      cases      e(O)   cosine")
    for number, mutant in enumerate(MUTANTS):
        report = report_of(mutant, request, tmp_path / str(number))
        judged = [item.judgement for item in report.results]
        killing = [item for item in judged if item.verdict is Verdict.FAIL]
        errors = [item.error.max for item in judged if item.error]
        cosines = [item.cosine for item in judged if item.cosine is not None]
        print(
            f"{mutant.name:<58} {report.verdict.value:<12} {len(killing):>2} of {len(judged):>2} "
            f"{max(errors, default=np.nan):>9.1e} {min(cosines, default=np.nan):>8.4f}"
        )
        # A failed check of the bundle as a whole does not count: the numbers of the cases must show the mistake.
        if not killing:
            alive.append(mutant.name)
        planted = planted_site(mutant, request.getfixturevalue(mutant.bundle))
        rows.append(row(mutant.name, planted, report.departure))
        if report.departure is None or report.departure.site != planted:
            misplaced.append(mutant.name)
    print(f"killed: {len(MUTANTS) - len(alive)} of {len(MUTANTS)}")
    assert not alive
    assert not misplaced
    check_page("known", rows)
    # The mutants did not fail because of the cached references.
    for bundle, adapter in sorted({(mutant.bundle, mutant.adapter) for mutant in MUTANTS}):
        report = report_of(Mutant("nothing", bundle, adapter), request, tmp_path / f"{bundle}-{adapter}")
        assert report.verdict is Verdict.PASS, (bundle, adapter)
