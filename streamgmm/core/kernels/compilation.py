"""Compile kernels, and cache their machine code.

One module owns Numba's decorators. :func:`kernel` marks the entry points that Python calls,
:func:`piece` the functions that entry points call.

Numba's own cache knows nothing of a callee in another file, and numbers the entries
of one function in an index that concurrent writers can mix up. So each entry point,
row type, CPU and text of the kernel sources has a cache folder of its own: nothing in it
can be stale, and processes that compile at once write the same content.
"""

import functools
import hashlib
import os
import platform
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
import platformdirs
from llvmlite import ir
from numba import types
from numba.core import cgutils as cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import AnnotateTypes

# Sums may be reordered and multiplications fused, but NaN and infinity are never
# assumed away: a kernel must be able to see them.
FAST_SUMS = {"reassoc", "contract", "nsz", "arcp"}

# Numba's type stubs lack these settings.
_settings: Any = numba.config
_njit: Any = numba.njit
_OPTIONS = {"nogil": True, "fastmath": FAST_SUMS, "error_model": "numpy"}
_SOURCES = Path(__file__).parent


class _OwnPieces(JITCodeLibrary):
    """Machine code of an entry point that has its own copies of all pieces.

    By default pieces are weak symbols. A process uses the first copy that it loads, which may be
    that of another entry point. Each copy is optimised in its own context, so copies may order sums
    differently, and results would depend on the code that was compiled or loaded before.
    """

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self._pieces: dict[_PieceLibrary, None] = {}

    def add_linking_library(self, library: Any) -> None:
        """Link the code of a function that is called, and of all functions that it calls."""
        if not isinstance(library, _PieceLibrary):
            super().add_linking_library(library)
        elif library not in self._pieces:
            self._pieces[library] = None
            for callee in library.callees:
                self.add_linking_library(callee)

    def finalize(self) -> None:
        """Link, optimise and translate, and free the copies of pieces that were made for this."""
        for piece_library in self._pieces:
            self._final_module.link_in(piece_library.own_module(), preserve=True)
        super().finalize()
        for piece_library in self._pieces:
            piece_library.free_copy()

    def _optimize_final_module(self) -> None:
        linkage = llvmlite.binding.Linkage
        defined = [f for f in self._final_module.functions if not f.is_declaration]
        entry = "".join(f.name for f in defined if f.linkage == linkage.external)
        prefix = hashlib.sha256(entry.encode()).hexdigest()[:16]
        for function in defined:
            if function.linkage == linkage.linkonce_odr:
                # The loader finds internal functions by name too. Calls from other libraries
                # must not find these.
                function.name = f"{prefix}.{function.name}"
                function.linkage = linkage.internal
        super()._optimize_final_module()


def _declare_readable(argument: Any) -> None:
    """Tell LLVM that all words of a struct may be read, if a function's argument is one.

    Loops in which a field is not read for each row then read its address once all the same.
    """
    if isinstance(argument.type, ir.PointerType):
        words = argument.type.pointee
        if isinstance(words, ir.ArrayType):
            argument.attributes.align = 8
            argument.attributes.dereferenceable = 8 * words.count


class _PieceLibrary(JITCodeLibrary):
    """Code of a piece, as Numba wrote it, without that of the pieces that it calls.

    Entry points link all pieces, optimise them with the rest of their code, and translate them to
    machine code. Nobody calls a piece by itself, so that none of this is done here.
    """

    @property
    def callees(self) -> list[Any]:
        """Libraries of the functions that the piece calls."""
        libraries: list[Any] = self._linking_libraries
        return libraries

    def own_module(self) -> Any:
        """Return a copy of the code of the piece alone."""
        return super()._get_module_for_linking()

    def free_copy(self) -> None:
        """Free the copy that :meth:`own_module` has returned."""
        self._shared_module = None

    def _get_module_for_linking(self) -> Any:
        """Return the code of the piece and of all that it calls, for functions of other modules."""
        whole = self.own_module().clone()
        for callee in self.callees:
            whole.link_in(callee._get_module_for_linking(), preserve=True)
        return whole

    def add_ir_module(self, ir_module: Any) -> None:
        """Add the code of the piece, as a function that stays one unless LLVM must inline it."""
        for function in ir_module.functions:
            if not function.is_declaration and "alwaysinline" not in function.attributes:
                function.attributes.add("noinline")
            for argument in function.args:
                _declare_readable(argument)
        super().add_ir_module(ir_module)

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        """Leave the code as it is."""
        self._finalized = True

    # What Numba asks of code that Python can call.

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing: without Python's exceptions there is no environment."""

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0, for a function that has no address."""
        return 0


def _with_library(library: type[JITCodeLibrary]) -> type[Compiler]:
    """Return a compiler that puts the code of a function into a library of a class."""

    @register_pass(mutates_CFG=False, analysis_only=True)
    class LibraryPass(AnalysisPass):
        _name = f"streamgmm{library.__name__}"

        def __init__(self) -> None:
            super().__init__()

        def run_pass(self, state: Any) -> bool:
            state.library = library(state.targetctx.codegen(), state.func_id.func_qualname)
            state.library.enable_object_caching()
            return False

    class LibraryCompiler(Compiler):
        def define_pipelines(self) -> list[Any]:
            pipelines: list[Any] = super().define_pipelines()
            for pipeline in pipelines:
                pipeline.add_pass_after(LibraryPass, AnnotateTypes)
                pipeline.finalize()
            return pipelines

    return LibraryCompiler


# Only compiled code calls pieces. Wrappers for calls from Python would double the compiled code.
# Entry points own the arrays, and pieces borrow them. Pieces are compiled without the runtime that
# counts references: they cannot allocate arrays, and do not wait for counters that threads share.
_PIECE = {
    **_OPTIONS,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
    "pipeline_class": _with_library(_PieceLibrary),
}
# A function of its own in the machine code, because LLVM needs much longer for one large function
# than for its parts. Each is called once for a block of rows, or for a line of it.
piece = _njit(**_PIECE)
# For pieces that are called in inner loops.
inlined_piece = _njit(**_PIECE, forceinline=True)
# For the same, where the order of operations carries the result (splitting a number into exponent
# and remainder); fused multiply-adds are still welcome.
ordered_piece = _njit(**{**_PIECE, "fastmath": {"contract"}}, forceinline=True)
# For pieces that return a view of an array, which only Numba itself can inline.
view_piece = _njit(**_PIECE, inline="always")


@functools.cache
def cpu_features() -> dict[str, bool]:
    """Return the features of the processor that Numba compiles for, by LLVM's names."""
    if _settings.CPU_FEATURES is not None:
        named = filter(None, _settings.CPU_FEATURES.split(","))
        return {name[1:]: name[0] == "+" for name in named}
    if _settings.CPU_NAME is not None:
        return {}
    features: dict[str, bool] = llvmlite.binding.get_host_cpu_features()
    return features


@functools.cache
def _content_key() -> str:
    """Return a digest of everything that decides the machine code: sources, versions and CPU."""
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.glob("*.py")):
        digest.update(path.read_bytes())
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    cpu = _settings.CPU_NAME or llvmlite.binding.get_host_cpu_name(), sorted(cpu_features().items())
    digest.update(repr((versions, platform.platform(), _settings.OPT, cpu)).encode())
    return digest.hexdigest()[:20]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@functools.cache
def cache_folder() -> Path | None:
    """Return the folder that keeps machine code between processes.

    Returns
    -------
    Path or None
        ``NUMBA_CACHE_DIR`` if set, else the package's ``__pycache__``, else the user's
        cache folder: the first of these that can be written. None if none can be written;
        each process then compiles the kernels again.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    user = platformdirs.user_cache_path("streamgmm", appauthor=False)
    candidates = [Path(chosen)] if chosen else [_SOURCES / "__pycache__", user]
    return next((folder for folder in candidates if _writable(folder)), None)


_ENTRY_POINT = {**_OPTIONS, "pipeline_class": _with_library(_OwnPieces)}
_compiling = threading.Lock()

#: A function that takes the name of a kernel, the type of its rows, and whether it will be kept.
Watcher = Callable[[str, str, bool], None]
_watchers: list[Watcher] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Call a function before each compilation in this process, in the thread that compiles."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


class Kernel:
    """An entry point, compiled at its first call for each type of its first argument.

    The first argument is the array of rows, of any memory layout; all further arrays
    are C-contiguous. Exactly one signature is compiled for each type of rows.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._compiled: dict[np.dtype[Any], Callable[..., Any]] = {}

    def __call__(self, rows: np.ndarray, *arguments: Any) -> Any:
        """Call the machine code for rows of this type."""
        compiled = self._compiled.get(rows.dtype)
        if compiled is None:
            compiled = self._compile(rows, arguments)
        try:
            return compiled(rows, *arguments)
        except SystemError as error:
            # Numba continues for a while when the handler of a signal, such as Ctrl-C, raises.
            first: BaseException = error
            while isinstance(first, SystemError) and first.__cause__ is not None:
                first = first.__cause__
            raise first from None

    def _compile(self, rows: np.ndarray, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        with _compiling:
            if rows.dtype in self._compiled:
                return self._compiled[rows.dtype]
            row_type = types.Array(
                numba.from_dtype(rows.dtype), rows.ndim, "A", readonly=True, aligned=True
            )
            signature = (row_type, *(numba.typeof(argument) for argument in arguments))
            folder = cache_folder()
            # One folder for each release and type of rows.
            own = None if folder is None else folder / f"{_content_key()}-{rows.dtype.name}"
            if own is None or not _holds(own, self._function):
                for watcher in tuple(_watchers):
                    watcher(self._function.__name__, rows.dtype.name, own is not None)
            compiled = None
            if own is not None:
                compiled = _compile_cached(self._function, signature, own)
            if compiled is None:
                compiled = _njit(signature, **_ENTRY_POINT)(self._function)
            self._compiled[rows.dtype] = compiled
            return compiled


def _holds(folder: Path, function: Callable[..., Any]) -> bool:
    """Return whether a cache folder has an index of a function, by Numba's names of files."""
    return any(folder.glob(f"*/*.{function.__name__}-*.nbi"))


def _compile_cached(
    function: Callable[..., Any], signature: Any, folder: Path
) -> Callable[..., Any] | None:
    """Compile with a cache folder, or load from it; None if the folder cannot be used."""
    # Numba asks for the folder when it makes the function's cache.
    given = _settings.CACHE_DIR
    _settings.CACHE_DIR = str(folder)
    try:
        compiled: Callable[..., Any] = _njit(signature, cache=True, **_ENTRY_POINT)(function)
    except Exception:  # noqa: BLE001 - a damaged file can fail in any way
        # Errors that the cache did not cause are raised again by compiling without it. The next
        # process finds an empty folder.
        shutil.rmtree(folder, ignore_errors=True)
        return None
    finally:
        _settings.CACHE_DIR = given
    return compiled


def kernel(function: Callable[..., Any]) -> Kernel:
    """Mark a function as an entry point that Python calls with an array of rows first."""
    return Kernel(function)
