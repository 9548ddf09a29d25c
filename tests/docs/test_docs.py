"""Every fenced block of the pages runs as it stands, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from adapter_export.errors import AdapterExportError
from tests.docs.blocks import Block, blocks_of, pages, run
from tests.docs.folders import Shared, make_shared, prepare

BLOCKS = [block for page in pages() for block in blocks_of(page)]
RUN = [block for block in BLOCKS if block.reason is None]
# How a reason may begin, and how many blocks have one: a block more that is not run is a decision, made here.
REASONS = ("hardware", "over five minutes")
NOT_RUN = 7


class Page:
    """A page's blocks, run in order in one folder, each once. A block that is asked for runs those before it."""

    def __init__(self, page: str, folder: Path) -> None:
        self._waiting = [block for block in RUN if block.page == page]
        self._failed: Block | None = None
        self._folder = folder

    def run(self, wanted: Block) -> None:
        assert wanted != self._failed, f"{wanted} failed when a later block was asked for"
        while wanted in self._waiting:
            assert self._failed is None, f"{self._failed}, which is before it, failed"
            block = self._waiting.pop(0)
            try:
                run(block, self._folder)
            except pytest.skip.Exception:  # of what cannot be had here; nothing later needs it
                if block == wanted:
                    raise
            except BaseException:
                self._failed = block
                raise


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return make_shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def page(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Page]:
    @cache
    def make(name: str) -> Page:
        folder = tmp_path_factory.mktemp(Path(name).stem)
        prepare(name, folder, shared)
        return Page(name, folder)

    return make


@pytest.mark.parametrize("block", RUN, ids=str)
def test_it_runs_as_it_stands(block: Block, page: Callable[[str], Page]) -> None:
    page(block.page).run(block)


def test_every_block_has_a_language() -> None:
    assert not [str(block) for block in BLOCKS if not block.language]


def test_what_is_not_run_says_why() -> None:
    left_out = [block for block in BLOCKS if block.reason is not None]
    print("\nNot run:", *(f"{block}: {block.reason}" for block in left_out), sep="\n  ")
    assert not [str(block) for block in left_out if not str(block.reason).startswith(REASONS)]
    assert len(left_out) <= NOT_RUN


SAMPLE = """
<!-- not run: hardware -->
```bash
nvidia-smi
```
- an item
  ```python
  if True:
      raise SystemExit(3)
  ```
<!-- not run: hardware -->

between
```
nothing
```
"""


def test_blocks_are_found_with_their_reasons_and_without_their_indent() -> None:
    first, second, third = blocks_of("sample", SAMPLE)
    assert (first.line, first.language, first.text, first.reason) == (3, "bash", "nvidia-smi\n", "hardware")
    assert (second.line, second.language, second.reason) == (7, "python", None)
    assert second.text == "if True:\n    raise SystemExit(3)\n"
    assert (third.language, third.reason) == ("", None)
    with pytest.raises(ValueError, match="sample:2: a block without an end"):
        blocks_of("sample", "text\n```bash\nls\n")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("bash", "false\ntrue\n"),
        ("bash", "false | true\n"),
        ("bash", 'echo "$missing"\n'),
        ("bash", "adapter-export inspect missing\n"),
        ("python", "import warnings\nwarnings.warn('old')\n"),
        ("json", "{1}"),
        ("jsonl", '{"prompt": 1, "completion": " 2"}\n'),
        ("", "text"),
        ("console", "$ ls\n"),
    ],
)
def test_what_goes_wrong_fails(language: str, text: str, tmp_path: Path) -> None:
    with pytest.raises((pytest.fail.Exception, ValueError, AdapterExportError)):
        run(Block("sample", 1, language, text, None), tmp_path)
