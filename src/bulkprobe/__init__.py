"""bulkprobe: do gene-expression foundation models carry over to bulk RNA-seq of tumours?

What is public (`__all__`) stands in `bulkprobe.notebook` and is imported when it is first asked for, so that
`import bulkprobe` costs nothing. Its types stand in `__init__.pyi`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Store", "UserError", "build_cohort", "embed", "list_encoders", "predict", "probe", "read_store"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("bulkprobe.notebook"), name)
    raise AttributeError(f"module 'bulkprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
