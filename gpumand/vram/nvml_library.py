"""nvidia-ml-py's calls with errors of our own: what failed, and whether it concerns one call or the whole library.

Everything here blocks and is called in one thread only.
"""

from __future__ import annotations

import contextlib
import importlib
from _ctypes import dlclose
from enum import IntEnum
from types import ModuleType
from typing import Any

from gpumand.vram.library_file import LibraryFile, is_mapped, loaded_file


class Code(IntEnum):
    """Those return codes of NVML (fixed by its ABI) that are told apart here."""

    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NOT_FOUND = 6
    INSUFFICIENT_SIZE = 7
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    LIB_RM_VERSION_MISMATCH = 18
    ARGUMENT_VERSION_MISMATCH = 25
    UNKNOWN = 999


WORDS = {
    Code.LIBRARY_NOT_FOUND: ("nvml-library-missing", "libnvidia-ml.so.1 is not installed"),
    Code.DRIVER_NOT_LOADED: ("driver-not-loaded", "the NVIDIA kernel module is not loaded"),
    Code.LIB_RM_VERSION_MISMATCH: (
        "driver-mismatch",
        "the NVML library and the loaded kernel module are of different driver versions",
    ),
}
WHOLE_LIBRARY = frozenset({Code.UNINITIALIZED, *WORDS})
"""Codes that say nothing about one device: the library must be initialised again."""


class CallFailed(Exception):
    """One call failed.

    Attributes:
        code: NVML's return code; Code.UNKNOWN where the failure has none.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


class LibraryFailed(Exception):
    """The library as a whole cannot be used; the message is ``word: one line``."""

    def __init__(self, word: str, line: str) -> None:
        super().__init__(f"{word}: {' '.join(line.split())}")


class NvmlLibrary:
    """The module ``pynvml``, imported when first needed, and its state."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._initialised = False
        self._file: LibraryFile | None = None
        self.outlived = False

    def start(self) -> None:
        """Import and initialise; ``outlived`` says then whether only another process could. Raises LibraryFailed."""
        self._module = self._module or _import()
        try:
            self.call("nvmlInit")
        except CallFailed as failure:
            self._note_file()
            self._unload()
            self.outlived = failure.code == Code.LIB_RM_VERSION_MISMATCH and self._is_stuck()
            raise _library_failed(failure) from failure
        self._note_file()
        self.outlived = False
        self._initialised = True

    def _note_file(self) -> None:
        """Remember which file was loaded, when it was."""
        self._file = self._file or loaded_file()

    def _is_stuck(self) -> bool:
        """Whether a library that is no longer the installed one stays in this process though it was closed."""
        if not is_mapped():
            self._file = None
        return self._file is not None and self._file.is_replaced

    def stop(self) -> None:
        """Shut down where it was initialised; a failure to do so changes nothing."""
        if not self._initialised:
            return
        self._initialised = False
        with contextlib.suppress(CallFailed, LibraryFailed):  # unusable already, which is why it is stopped
            self.call("nvmlShutdown")

    def call(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call one function of the module.

        Raises:
            LibraryFailed: initialised before, but unusable now.
            CallFailed: this call failed.
        """
        try:
            return getattr(self._module, function)(*args, **kwargs)
        except Exception as error:  # pynvml raises two unrelated families, and UnicodeDecodeError for odd names
            failure = self._translated(error)
        if self._initialised and failure.code in WHOLE_LIBRARY:
            raise _library_failed(failure) from failure
        raise failure

    def constant(self, name: str) -> int:
        """A constant of the module. Raises CallFailed where this version has none of that name."""
        value = getattr(self._module, name, None)
        if not isinstance(value, int):
            raise CallFailed(Code.FUNCTION_NOT_FOUND, f"pynvml has no {name}")
        return value

    def _translated(self, error: Exception) -> CallFailed:
        value = getattr(error, "value", None)
        if isinstance(error, self._class("NVMLError")) and isinstance(value, int):
            return CallFailed(value, f"{error} (NVML error {value})")
        if isinstance(error, (self._class("NVMLLibraryMismatchError"), AttributeError, TypeError)):
            # The library or this version of pynvml lacks the function or the argument.
            return CallFailed(Code.FUNCTION_NOT_FOUND, str(error))
        return CallFailed(Code.UNKNOWN, f"{type(error).__name__}: {error}")

    def _class(self, name: str) -> Any:
        return getattr(self._module, name, ())

    def _unload(self) -> None:
        """Forget a library that would not start, so that the next try loads the one that is installed then.

        Without this, a daemon that outlives a driver upgrade would keep the old file's code for ever. pynvml has no
        call for it: its ``nvmlLib`` is what it loaded, and its cache holds that one's functions.
        """
        module: Any = self._module
        library = getattr(module, "nvmlLib", None)
        cache = getattr(module, "_nvmlGetFunctionPointer_cache", None)
        if library is None or not isinstance(cache, dict):
            return
        cache.clear()
        module.nvmlLib = None
        dlclose(library._handle)


def _import() -> ModuleType:
    importlib.invalidate_caches()  # it may have been installed since the last try
    try:
        return importlib.import_module("pynvml")
    except ModuleNotFoundError as error:
        line = "there is no Python module pynvml (Debian: python3-pynvml in contrib; PyPI: nvidia-ml-py)"
        raise LibraryFailed("nvml-module-missing", line) from error
    except ImportError as error:
        line = f"the Python module pynvml (nvidia-ml-py) cannot be imported: {error}"
        raise LibraryFailed("nvml-module-missing", line) from error
    except Exception as error:
        raise LibraryFailed("nvml-module-missing", f"importing pynvml failed: {error}") from error


def _library_failed(failure: CallFailed) -> LibraryFailed:
    for code, (word, line) in WORDS.items():
        if failure.code == code:
            return LibraryFailed(word, line)
    return LibraryFailed("nvml-error", str(failure))
