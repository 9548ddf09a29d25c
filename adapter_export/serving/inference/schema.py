"""The JSON part of a request of the Open Inference Protocol."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

# Largest number of inputs and of outputs; no graph has so many.
_MOST_TENSORS = 1024
Dim = Annotated[int, Field(ge=0, le=1 << 40)]


class TensorParameters(BaseModel):
    """Parameters of a tensor; other parameters than these are not read."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class RequestInput(BaseModel):
    """An input: `data`, or bytes behind the JSON part."""

    name: str
    shape: Annotated[list[Dim], Field(max_length=16)]
    datatype: str
    parameters: TensorParameters = TensorParameters()
    data: Any = None


class OutputParameters(BaseModel):
    """Parameters of an output.

    Attributes:
        binary_data: Whether the output is returned in binary form; None for what the request says.
        classification: Number of classes to return in place of the values, the largest first; 0 for the values.
    """

    binary_data: bool | None = None
    classification: Annotated[int, Field(ge=0)] = 0


class RequestOutput(BaseModel):
    """An output that the client asks for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(BaseModel):
    """Parameters of the request; other parameters than these are not read."""

    binary_data_output: bool = False


class InferenceRequest(BaseModel):
    """A request. `outputs` is empty for all outputs."""

    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[RequestInput], Field(max_length=_MOST_TENSORS)]
    outputs: Annotated[list[RequestOutput], Field(max_length=_MOST_TENSORS)] = []
