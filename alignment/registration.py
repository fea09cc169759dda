"""Registration of the GPT with transformers' Auto classes, without importing transformers before anybody needs it.

Importing `alignment.models.gpt` registers the architecture. It takes seconds, since it imports torch and transformers,
and most of this package needs neither. Therefore the import waits for transformers' own: a finder on `sys.meta_path`
(https://docs.python.org/3/reference/import.html#the-meta-path) notices who imports transformers first.

The import waits for the top of transformers, not for its Auto classes: those are imported by half-loaded modules of
transformers that the GPT's modelling code imports too (modeling_layers.py), and the two would wait for each other.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

LIBRARY = "transformers"
ARCHITECTURE = "alignment.models.gpt"


def register() -> None:
    """Make the GPT known to the Auto classes: now if transformers is imported, otherwise as soon as it is."""
    if LIBRARY in sys.modules:
        importlib.import_module(ARCHITECTURE)
    elif not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport())


class AfterImport(MetaPathFinder):
    """Finds transformers as the other finders do, and has the GPT imported right after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders find, with a loader that also registers the GPT.

        A spec may be asked for without an import (`importlib.util.find_spec`), so that the finder stays until one.
        """
        if fullname != LIBRARY:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            importlib.import_module(ARCHITECTURE)

        # Of this one loader, which keeps its class: tools ask it for source text and data files.
        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec
