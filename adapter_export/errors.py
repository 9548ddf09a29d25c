"""Every error a caller can act on.

AdapterExportError
├── InputError          bad usage or bad input: names the file, the field, what was expected and what was found
│   ├── OutputExists    the output folder already holds something
│   ├── OutputBusy      another command is writing the output
│   └── CannotMerge     the maths does not allow this merge
├── ProviderError       the execution provider asked for is not the one that runs
├── WrongProcess        made before a fork, and used after it
└── Unavailable         a batcher's queue stayed full, or it was closed: try again later, or elsewhere
"""

from __future__ import annotations


class AdapterExportError(Exception):
    """Base of all errors raised on purpose; the command line prints it in one line."""


class InputError(AdapterExportError):
    """Bad usage or bad input."""


class OutputExists(InputError):
    """The output already holds something and was not to be replaced."""


class OutputBusy(InputError):
    """Another command is writing the output."""


class CannotMerge(InputError):
    """The adapter cannot be folded into these weights exactly."""


class ProviderError(AdapterExportError):
    """The execution provider asked for is not the one that would run."""


class WrongProcess(AdapterExportError):
    """A session, a batcher or a watch of another process, of which this one is a fork."""


class Unavailable(AdapterExportError):
    """A batcher takes no more requests, or gave up those it had: its queue stayed full, or it was closed."""
