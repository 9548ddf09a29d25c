"""LoRA of convolutions: a convolution to few channels, and one of single points back to many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from adapter_export.composition import CompositionRule
from adapter_export.errors import CannotMerge
from adapter_export.methods.contract import IN, OUT, TensorSpec
from adapter_export.modelinfo import Kernel
from adapter_export.sites import Port

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoRAConvolutionOperator:
    """Two convolutions beside a convolution: out = y + B * (A * u), with y = W * u + bias.

    A has the kernel, the stride and the padding of W, and is neither dilated nor in groups. B has a kernel of one point
    and the groups of W: its output reads those of A's channels that are of its group.
    Merged (one group): W'[o, i, k] = W[o, i, k] + sum over r of B[o, r] A[r, i, k].
    Shapes, for two axes: u (B, in, H, W), y (B, out, H', W'), A (groups, rank, in, kh, kw), B (out, rank, 1, 1),
    W (out, in, kh, kw), with as many channels of A for each group as `rank` says. Identity: A = 0, B = 0. PEFT's scale
    (alpha / rank) is part of B.

    Attributes:
        kernel: How W moves. Only its sizes are known if the operator is made for `merge` alone.
    """

    kernel: Kernel

    method: ClassVar[str] = "lora"
    reads: ClassVar[tuple[str, ...]] = ("u", "y")
    unbankable: ClassVar[str | None] = "a convolution has one kernel for all rows of a batch"

    @property
    def op_type(self) -> str:
        kernel = self.kernel
        sizes = (kernel.size, kernel.stride, kernel.padding)
        size, stride, padding = ("x".join(map(str, numbers)) for numbers in sizes)
        return f"LoRAConv_{size}_by_{stride}_padded_{padding}_in_{kernel.groups}"

    @property
    def op_name(self) -> str:
        return f"lora_conv{len(self.kernel.size)}d"

    @property
    def specs(self) -> dict[str, TensorSpec]:
        size, points = self.kernel.size, (1,) * len(self.kernel.size)
        return {
            "a": TensorSpec((self.kernel.groups, "rank", IN, *size), 0.0, CompositionRule.JOINED),
            "b": TensorSpec((OUT, "rank", *points), 0.0, CompositionRule.JOINED_SCALED),
        }

    @property
    def body(self) -> str:
        kernel = self.kernel
        return f"""
            per_channel = Shape <start: int = 2> (a)
            channels = Constant <value_ints: ints = [-1]> ()
            shape = Concat <axis: int = 0> (channels, per_channel)
            weight = Reshape (a, shape)
            narrow = Conv <strides: ints = {list(kernel.stride)}, pads: ints = {list(kernel.padding)}> (u, weight)
            wide = Conv <group: int = {kernel.groups}> (narrow, b)
            out = Add (y, wide)
        """

    def forward(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        from torch.nn import functional

        axes = len(self.kernel.size)
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
        before, after = self.kernel.padding[:axes], self.kernel.padding[axes:]
        # PyTorch wants the last axis first.
        zeros = [count for pair in zip(before[::-1], after[::-1], strict=True) for count in pair]
        narrow = convolve(functional.pad(values["u"], zeros), tensors["a"].flatten(0, 1), stride=self.kernel.stride)
        return values["y"] + convolve(narrow, tensors["b"], groups=self.kernel.groups)

    def unmergeable(self, port: Port) -> str | None:
        if port is not Port.BRANCH:
            return "LoRA reads the input of a convolution and changes its output"
        if self.kernel.groups > 1:
            return (
                f"an output of a convolution in {self.kernel.groups} groups reads the channels of its group only, and "
                "LoRA reads all channels; export it with --mode swappable or embedded instead"
            )
        if not self.kernel.plain:
            return (
                "the convolution is dilated or does not pad with zeros, and LoRA beside it is not; export it with "
                "--mode swappable or embedded instead"
            )
        return None

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if (reason := self.unmergeable(port)) is not None:
            raise CannotMerge(reason)
        a, b = tensors["a"][0].astype(np.float64), tensors["b"].astype(np.float64)
        return weight + np.tensordot(b.reshape(b.shape[:2]), a, axes=1), bias
