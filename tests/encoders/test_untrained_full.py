"""A stand-in that finds no room for a file."""

import resource
from pathlib import Path

import pytest

from bulkprobe.untrained import write_untrained
from encoders.made import made_genes


@pytest.mark.parametrize("model", ["scgpt", "geneformer", "scbert", "scfoundation", "bulkformer", "cellfm", "sclong"])
def test_no_room_is_an_error_of_the_file_system(model: str, tmp_path: Path) -> None:
    genes = made_genes(250, seed=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # of a file; Python takes no signal for it
    try:
        with pytest.raises(OSError, match=r"File too large|written whole"):
            write_untrained(model, tmp_path / "made", genes, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
