"""Opens ONNX Runtime sessions that run on the requested provider, or raises an error."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_export.errors import InputError, ProviderError
from adapter_export.providers import Provider
from adapter_export.reading.onnx_files import check_model
from adapter_export.runtime.process import never_freed_in_a_fork

if TYPE_CHECKING:
    import onnxruntime as ort

# Levels of ONNX Runtime's log. Errors reach the caller as exceptions; warnings name every overridable initializer.
_FATAL_ONLY, _ERRORS_ONLY = 4, 3
# Where ONNX Runtime finds the weights of a graph that is not in a file.
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# The log level of options for which none was set.
_NOT_CHOSEN = -1
# An error of CUDA or one of its libraries in a message of ONNX Runtime, which has places in its sources before it and
# the host's name behind it: "CUDA failure 100: no CUDA-capable device is detected ; GPU=0 ; hostname=...".
_DEVICE_FAILURE = re.compile(r"\bCU\w+ failure -?\d+: [^;\n]*[^;\s]")
_NEEDED = "it needs a GPU, its driver, and the CUDA and cuDNN libraries"


def quiet_log() -> None:
    """Keeps ONNX Runtime from writing log lines to stderr, in the entire process. Meant for the command line."""
    import onnxruntime as ort

    ort.set_default_logger_severity(_FATAL_ONLY)


def quiet_options() -> ort.SessionOptions:
    """Returns session options with the default values, except that nothing is logged."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    return options


def still_options(threads: int | None = None) -> ort.SessionOptions:
    """Returns options like `quiet_options`, except that waiting threads do not spin.

    Spinning threads slow down everything else that runs at the same time: other sessions that are measured, and the
    choice of tokens between two runs of a decoder.

    Args:
        threads: Number of threads for one operator; None for ONNX Runtime's default, one per core.
    """
    options = quiet_options()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or 0
    return options


def open_model(
    model: str | Path, provider: str, options: ort.SessionOptions | None = None, *, tf32: bool = False
) -> ort.InferenceSession:
    """Returns a session that runs on this provider. ONNX Runtime itself falls back to the CPU without an error.

    Args:
        model: File of the graph.
        provider: `cpu` or `cuda`.
        options: Options for ONNX Runtime; None for the defaults without log lines.
        tf32: Whether the provider may compute products of float32 matrices in TF32.

    Raises:
        InputError: An unknown provider or one without TF32, a file that does not load, or one that names files of
            weights outside of its folder.
        ProviderError: The session would run on another provider, or the provider's device failed.
    """
    chosen = Provider.parse(provider, "provider")
    if tf32 and not chosen.has_tf32:
        raise InputError(f"tf32: expected provider {Provider.CUDA!r}, which has it; found provider {provider!r}")
    _check_available(chosen)
    check_model(Path(model))
    options = options or quiet_options()
    with _profile_of(Path(model), options):
        return _opened(str(model), str(model), chosen, options, tf32)


def open_serialized(graph: bytes, folder: Path, provider: str) -> ort.InferenceSession:
    """Returns a session of a graph that is not in a file, as `open_model` does.

    Args:
        graph: The serialized graph.
        folder: Where the files of its weights are, which were checked before.
        provider: `cpu` or `cuda`.

    Raises:
        InputError: ONNX Runtime cannot load it.
        ProviderError: The session would run on another provider, or the provider's device failed.
    """
    options = quiet_options()
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(folder.resolve()))
    return _opened(graph, f"a graph of {folder}", Provider.parse(provider, "provider"), options)


def _check_available(provider: Provider) -> None:
    """Raises ProviderError if this build of ONNX Runtime does not have the provider."""
    import onnxruntime as ort

    available = ort.get_available_providers()
    if provider.execution_provider not in available:
        raise ProviderError(f"provider {provider!r}: this build of ONNX Runtime has only {', '.join(available)}")


def _opened(
    source: str | bytes, name: str, provider: Provider, options: ort.SessionOptions, tf32: bool = False
) -> ort.InferenceSession:
    import onnxruntime as ort

    try:
        with _without_warnings(options) as chosen:
            session = ort.InferenceSession(
                source, chosen, providers=provider.session_providers(tf32=tf32), enable_fallback=False
            )
    except Exception as error:  # ONNX Runtime raises a class per status code
        if failure := _DEVICE_FAILURE.search(str(error)):
            raise ProviderError(f"provider {provider!r}: {failure[0]}; {_NEEDED}") from error
        raise InputError(f"{name}: ONNX Runtime cannot load it: {reason_of(error)}") from error
    never_freed_in_a_fork(session)
    check_provider(provider, session.get_providers())
    return session


@contextlib.contextmanager
def _profile_of(model: Path, options: ort.SessionOptions) -> Iterator[None]:
    """Adds the name of the graph to that of its profile, while a session is made from the options.

    ONNX Runtime names a profile by the time at which it begins; 1.23 in seconds, so that two graphs would share a file.
    """
    prefix = options.profile_file_prefix
    options.profile_file_prefix = f"{prefix}_{model.stem}"
    try:
        yield
    finally:
        options.profile_file_prefix = prefix


@contextlib.contextmanager
def _without_warnings(options: ort.SessionOptions) -> Iterator[ort.SessionOptions]:
    """Turns off warnings in the options while a session is made from them, unless they set a log level.

    ONNX Runtime would log a warning for every overridable initializer.
    """
    if options.log_severity_level != _NOT_CHOSEN:
        yield options
        return
    options.log_severity_level = _ERRORS_ONLY
    try:
        yield options
    finally:
        options.log_severity_level = _NOT_CHOSEN


def check_provider(provider: Provider, running: Sequence[str]) -> None:
    """Raises ProviderError unless `running`, the providers of a session, starts with the requested one."""
    if running[0] != provider.execution_provider:
        raise ProviderError(
            f"provider {provider!r}: the session would run on {running[0]}, though this build of ONNX Runtime lists "
            f"{provider.execution_provider}; {_NEEDED}"
        )


@contextlib.contextmanager
def run_errors() -> Iterator[None]:
    """Turns errors of ONNX Runtime during a run into InputError, or into ProviderError if the provider failed."""
    from onnxruntime.capi import onnxruntime_pybind11_state as status

    try:
        yield
    except status.EPFail as error:
        raise ProviderError(f"the execution provider failed: {reason_of(error)}") from error
    # A run with a binding raises RuntimeError, whatever the status.
    except (status.InvalidArgument, status.Fail, status.RuntimeException, RuntimeError) as error:
        if failure := _DEVICE_FAILURE.search(str(error)):
            raise ProviderError(f"the execution provider failed: {failure[0]}") from error
        raise InputError(f"ONNX Runtime cannot run these inputs: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Returns the message of an error of ONNX Runtime, on one line and without its prefix."""
    text = " ".join(str(error).split())
    return text.removeprefix("[ONNXRuntimeError] : ").rpartition("Status Message: ")[2][:300] or type(error).__name__
