"""Tasks of Dask's graphs: the one module that uses this private interface of Dask."""

from dask._task_spec import Task as Task
from dask._task_spec import TaskRef as TaskRef
