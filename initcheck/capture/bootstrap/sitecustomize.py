"""First on the path of a captured command: has initcheck watch torch from its import on.

Every Python that the command starts (a launcher's workers too) reads this at its start; it costs nothing where torch is
not imported.
"""

import importlib
import importlib.abc
import importlib.util
import os
import sys

FOLDER = "INITCHECK_CAPTURE"
HOME = "INITCHECK_CAPTURE_HOME"


class _AfterTorch(importlib.abc.MetaPathFinder):
    """Activates the hook as soon as torch is imported."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        """torch's own spec, with a loader that calls us afterwards."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):  # type: ignore[no-untyped-def]
            execute(module)
            _activate()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _activate() -> None:
    folder = os.environ[FOLDER]
    try:
        try:
            import initcheck.capture.hook
        except ImportError:
            home, _, version = os.environ.get(HOME, "").rpartition("@")
            if version != "{}.{}".format(*sys.version_info):
                raise
            sys.path.append(home)  # last, so that nothing of the command's own environment is hidden
            import initcheck.capture.hook
        initcheck.capture.hook.activate(folder)
    except Exception as error:
        import traceback

        with open(os.path.join(folder, "defect"), "w", encoding="utf-8") as file:
            file.write(f"{sys.executable}: {type(error).__name__}: {error}\n{traceback.format_exc()}")


def _make_way() -> None:
    """Let the sitecustomize that this one hides run, too."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or os.curdir) != here]
    this = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ImportError:
        if this is not None:
            sys.modules["sitecustomize"] = this


if os.path.isdir(os.environ.get(FOLDER, "")):
    sys.meta_path.insert(0, _AfterTorch())
_make_way()
