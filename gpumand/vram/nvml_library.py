"""Calls NVML and distinguishes failures of one call from failures of the whole library.

All functions block and must be called in one thread only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import IntEnum
from typing import ParamSpec, TypeVar

from gpumand.vram.library_file import LibraryFile, is_mapped, loaded_file
from gpumand.vram.nvml_binding import Binding, NvmlError

P = ParamSpec("P")
T = TypeVar("T")


class Code(IntEnum):
    """The return codes of NVML that gpumand distinguishes; their values are fixed by NVML's ABI."""

    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NOT_FOUND = 6
    INSUFFICIENT_SIZE = 7
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    LIB_RM_VERSION_MISMATCH = 18
    ARGUMENT_VERSION_MISMATCH = 25
    GPU_NOT_FOUND = 28
    UNKNOWN = 999


LIBRARY_ERRORS = {
    Code.LIBRARY_NOT_FOUND: ("nvml-library-missing", "libnvidia-ml.so.1 is not installed"),
    Code.DRIVER_NOT_LOADED: ("driver-not-loaded", "the NVIDIA kernel module is not loaded"),
    Code.LIB_RM_VERSION_MISMATCH: (
        "driver-mismatch",
        "the NVML library and the loaded kernel module have different driver versions",
    ),
}
LOST_GPU = {
    Code.GPU_IS_LOST: "gpu-lost: the GPU has fallen off the bus",
    Code.RESET_REQUIRED: "gpu-reset-required: the GPU must be reset before it can be used again",
    Code.GPU_NOT_FOUND: "gpu-not-found: the driver does not find the GPU any more",
}
"""Codes of a GPU on which nothing can run until it is reset, or comes back; NVML names no end of that."""

WHOLE_LIBRARY = frozenset({Code.UNINITIALIZED, *LIBRARY_ERRORS})
"""Codes that concern the whole library, which must then be initialised again."""


class CallFailed(Exception):
    """One call of NVML failed; the message is one line.

    Attributes:
        code: NVML's return code; Code.UNKNOWN if the failure has none.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


class LibraryFailed(Exception):
    """The library as a whole cannot be used; the message is ``word: one line``."""

    def __init__(self, word: str, line: str) -> None:
        super().__init__(f"{word}: {' '.join(line.split())}")


class NvmlLibrary:
    """The library of NVIDIA's driver, which is loaded on first use, and its state.

    Attributes:
        nvml: its functions, to be called through ``call``.
        needs_new_process: the driver was upgraded and its new library cannot be loaded into this process.
    """

    def __init__(self) -> None:
        self.nvml = Binding()
        self._initialised = False
        self._file: LibraryFile | None = None
        self.needs_new_process = False

    def start(self) -> None:
        """Load the library and initialise it; sets ``needs_new_process``. Raises LibraryFailed."""
        try:
            self.call(self.nvml.init)
        except CallFailed as failure:
            # The file must be recorded while the library is mapped, and compared after it was unloaded.
            self._record_file()
            # Otherwise a daemon that runs across a driver upgrade would use the old library for ever.
            self.nvml.unload()
            self.needs_new_process = failure.code == Code.LIB_RM_VERSION_MISMATCH and self._is_old_library_mapped()
            raise _library_failed(failure) from failure
        self._record_file()
        self.needs_new_process = False
        self._initialised = True

    def _record_file(self) -> None:
        """Record the file of the library when it is first loaded."""
        self._file = self._file or loaded_file()

    def _is_old_library_mapped(self) -> bool:
        """Return whether the closed library is still mapped, and another file is installed in its place."""
        if not is_mapped():
            self._file = None
        return self._file is not None and self._file.is_replaced

    def stop(self) -> None:
        """Shut NVML down if it is initialised; failures are ignored."""
        if not self._initialised:
            return
        self._initialised = False
        with contextlib.suppress(CallFailed, LibraryFailed):  # often stopped because it is unusable
            self.call(self.nvml.shutdown)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of ``nvml``.

        Raises:
            LibraryFailed: the library was initialised and has become unusable.
            CallFailed: this call failed.
        """
        try:
            return function(*args, **kwargs)
        except NvmlError as error:
            failure = CallFailed(error.code, str(error))
        except UnicodeDecodeError as error:  # names of processes
            failure = CallFailed(Code.UNKNOWN, f"{type(error).__name__}: {error}")
        if self._initialised and failure.code in WHOLE_LIBRARY:
            raise _library_failed(failure) from failure
        raise failure


def _library_failed(failure: CallFailed) -> LibraryFailed:
    for code, (word, line) in LIBRARY_ERRORS.items():
        if failure.code == code:
            return LibraryFailed(word, line)
    return LibraryFailed("nvml-error", str(failure))
