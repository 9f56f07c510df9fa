"""Every error that this project raises on purpose.

    FerError(Exception)                 what went wrong, where, and what to do
    |- InputError(ValueError)           a picture, video or argument that cannot be used
    |  |- ImageDecodeError              the file is no picture, is damaged, or is too large
    |  |- VideoOpenError                no video can be read from the file, camera or stream
    |  |- VideoDecodeError              a video that is damaged or ends early; its readable frames were given
    |- VideoWriteError                  a video that cannot be written: the disk is full, for instance
    |- ModelError
    |  |- ModelNotFoundError            no such bundled model or file
    |  |- ModelContractError            the file carries no contract, or one that does not fit it
    |  |- ModelIntegrityError           a bundled file's sha256 is not the manifest's
    |  |- ProviderUnavailableError      the device that was asked for cannot be used
    |- ConfigError(ValueError)          every problem of a recipe at once
    |- DatasetError                     a data set that is missing, incomplete or unreadable
    |- CheckpointError                  a checkpoint that is missing, damaged or does not fit
    |- DivergedError                    the loss is no longer finite
    |- MemoryShortError                 the work needs more memory than there is
    |- StoppedError                     a signal ended the work; what was done is kept
    |- ProcessLostError                 another process of the run is gone
    |- ExportError
    |  |- ParityError                   the exported file does not compute what the checkpoint does
    |  |- AccuracyLostError             the exported file scores worse than it may
    |  |- EngineBuildError              an engine cannot be built: the package, the GPU or the network stands against it
    |- MissingExtraError                a command needs packages that the base install does not bring

At the command line a `FerError` is one line on stderr and exit status 1, a `StoppedError` has a status of its own; a
traceback means a bug.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence


class FerError(Exception):
    """Base of all errors raised on purpose: the message says what went wrong, where, and what to do."""


class InputError(FerError, ValueError):
    """A picture, video or argument that cannot be used."""


class ImageDecodeError(InputError):
    """A file that is no picture, is damaged, or is larger than the limit on pixels."""


class VideoOpenError(InputError):
    """A file, camera or stream from which no video can be read."""


class VideoDecodeError(InputError):
    """A video that is damaged or ends before it should; everything that could be read was given before.

    Attributes:
        frames_read: how many frames were decoded, given or left out by the selection.
        time_s: where the last of them ends, seconds of the video.
    """

    def __init__(self, message: str, frames_read: int = 0, time_s: float = 0.0) -> None:
        super().__init__(message)
        self.frames_read = frames_read
        self.time_s = time_s


class VideoWriteError(FerError):
    """A video that cannot be written."""


class ModelError(FerError):
    """Something about a model file or the device that it should run on."""


class ModelNotFoundError(ModelError):
    """No bundled model has this name, and no file is at this path."""


class ModelContractError(ModelError):
    """A model file without a contract, or with one that does not fit its inputs and outputs."""


class ModelIntegrityError(ModelError):
    """A bundled file whose sha256 differs from the manifest's."""


class ProviderUnavailableError(ModelError):
    """The device that was asked for cannot be used on this machine."""


class ConfigError(FerError, ValueError):
    """A recipe with problems; the message lists all of them, each with its `table.key`."""


class DatasetError(FerError):
    """A data set that is missing, incomplete or unreadable.

    Attributes:
        problems: a sentence for every fault, where the message names only the first of many; else empty.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class CheckpointError(FerError):
    """A checkpoint that is missing, damaged, or does not fit the model."""


class DivergedError(FerError):
    """The training loss is no longer finite."""


class MemoryShortError(FerError):
    """Work that needs more memory, of the device or the machine, than there is."""


class StoppedError(FerError):
    """A signal ended the work, after what was done had been saved; `training.interruption` tells where a run was.

    Attributes:
        signal_number: the signal.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        """Begin the message with the signal.

        Args:
            signal_number: the signal.
            message: what comes after `stopped by SIGTERM`.
        """
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{message}")
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """What shells report of a process that the signal ended: 143 or 130."""
        return 128 + self.signal_number


class ProcessLostError(FerError):
    """Another process of the run has ended without a word, or cannot be reached."""


class ExportError(FerError):
    """An export that could not be made or did not pass its checks."""


class ParityError(ExportError):
    """An exported file whose outputs differ from the checkpoint's by more than the tolerance."""


class AccuracyLostError(ExportError):
    """An exported file whose accuracy is lower than the checkpoint's by more than it may be."""


class EngineBuildError(ExportError):
    """An engine that cannot be built: its builder is missing, there is no GPU, or the network is refused."""


class MissingExtraError(FerError):
    """A command that needs packages which the base install does not bring."""
