"""The errors that a caller can handle.

AdapterExportError
├── InputError          bad usage or bad input: names the file, the field, what was expected and what was found
│   ├── OutputExists    the output folder is not empty
│   ├── OutputBusy      another command is writing the output
│   └── CannotMerge     this adapter cannot be merged exactly
├── ProviderError       another execution provider than the requested one would run
├── WrongProcess        an object was made before a fork, and used after it
└── Unavailable         a batcher's queue stayed full, or it was closed: try again later, or elsewhere
"""

from __future__ import annotations


class AdapterExportError(Exception):
    """Base class of all errors that are raised on purpose. The command line prints them in one line."""


class InputError(AdapterExportError):
    """Bad usage or bad input."""


class OutputExists(InputError):
    """The output is not empty, and was not to be replaced."""


class OutputBusy(InputError):
    """Another command is writing the output."""


class CannotMerge(InputError):
    """The adapter cannot be folded into these weights exactly."""


class ProviderError(AdapterExportError):
    """Another execution provider than the requested one would run."""


class WrongProcess(AdapterExportError):
    """A session, a batcher or a watch is used in a fork of the process that made it."""


class Unavailable(AdapterExportError):
    """A batcher takes no more requests, or gave up those that it had: its queue stayed full, or it was closed."""
