"""Optional packages, and the commands that install them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires

from streamgmm.errors import MissingPackageError

# The extra of streamgmm that installs a package, by the name that is imported.
_EXTRAS = {
    "aiohttp": "remote",
    "distributed": "distributed",
    "fsspec": "remote",
    "h5netcdf": "xarray",
    "h5py": "hdf5",
    "matplotlib": "plot",
    "pyarrow": "parquet",
    "redis": "redis",
    "tenacity": "remote",
    "xarray": "xarray",
}
# Packages whose name on PyPI is not the name that is imported.
_DISTRIBUTIONS = {"libarchive": "libarchive-c", "smbclient": "smbprotocol"}


@contextmanager
def needed_by(user: str) -> Iterator[None]:
    """Replace the error of an import that fails by one that says how to install the package.

    Parameters
    ----------
    user : str
        What needs the package: a file, a URL or a task. It is the subject of the message.

    Raises
    ------
    MissingPackageError
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ModuleNotFoundError as error:
        raise missing_package(user, error.name or str(error)) from error


def missing_module(error: BaseException) -> str | None:
    """Return the module that could not be imported, if that led to an error.

    fsspec replaces the error of an import by a sentence, and keeps it as the cause.
    """
    for candidate in (error, error.__cause__):
        if isinstance(candidate, ModuleNotFoundError) and candidate.name:
            return candidate.name
    return None


def missing_package(user: str, module: str) -> MissingPackageError:
    """Return the error that says which package is missing and how to install it.

    Parameters
    ----------
    user : str
        What needs the package.
    module : str
        The module that cannot be imported.
    """
    package = module.partition(".")[0]
    extra = _EXTRAS.get(package)
    needed = [_DISTRIBUTIONS.get(package, package)] if extra is None else _requirements(extra)
    return MissingPackageError(
        f"{user} needs {package}; install it with: pip install {' '.join(needed)}", name=package
    )


def _requirements(extra: str) -> list[str]:
    """Return the requirements of an extra, quoted for a shell.

    They are named one by one because pip finds the extra only where it finds this package.
    """
    condition = re.compile(rf"\bextra == ['\"]{extra}['\"]")
    lines = [line.partition(";") for line in requires("streamgmm") or ()]
    return [f"'{name.strip()}'" for name, _, marker in lines if condition.search(marker)]
