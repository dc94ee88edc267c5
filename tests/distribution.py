"""Which tests share a process where pytest-xdist runs several: `pytest -n 2`, as `make test` does.

What is dear to start is started once, so the tests that need it stay together. Every other file may run in any process.
"""

from fnmatch import fnmatchcase

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

APART = (
    "tests/contract/test_bench_definitions.py",
    "tests/contract/test_encoder*.py",
    "tests/contract/test_export*.py",
    "tests/contract/test_gguf.py",
    "tests/contract/test_gguf_respelling.py",
    "tests/contract/test_onnx_export.py",
    "tests/contract/test_prefixes.py",
    "tests/contract/test_responsiveness.py",
    "tests/contract/test_smollm2.py",
    "tests/contract/test_speculation.py",
    "tests/contract/test_training_processes.py",
)
"""Files that need nothing of what follows."""
TOGETHER = {
    "the running application": ("tests/serve/*",),
    "the real model's files": (
        "tests/real/*",
        "tests/contract/test_hub_cache.py",
        "tests/contract/test_gguf_converter.py",
    ),
    "a folder of the builder": (
        "tests/contract/test_builder_folder.py",
        "tests/contract/test_graph_forms.py",
        "tests/contract/test_damaged_graphs.py",
    ),
    "the engines": ("tests/contract/*",),
    "a browser": ("tests/pages/*",),
}
"""What is started once, and the files that need it; a file belongs to the first that names it."""
FIRST = ("the running application", "the engines", "the real model's files")
"""What takes longest must not be the last to begin."""


def unit_of(file: str) -> str:
    """Return what the file's tests stay together with: something that is started once, or each other only."""
    if any(fnmatchcase(file, pattern) for pattern in APART):
        return file
    return next((name for name, patterns in TOGETHER.items() if any(fnmatchcase(file, each) for each in patterns)), file)


class BySharing(LoadScopeScheduling):
    """Gives a process tests that share something; whoever is done takes the next, the longest first."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid.partition("::")[0])

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_turn), last=False)
        super()._assign_work_unit(node)


def _turn(unit: str) -> int:
    return FIRST.index(unit) if unit in FIRST else len(FIRST) + unit.startswith("tests/unit/")
