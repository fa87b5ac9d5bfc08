"""Small real cohorts through the files source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matrices import stored

from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.errors import UserError


@pytest.mark.shared
def test_real_zscores(shared: Path, tmp_path: Path) -> None:
    folder = shared / "real" / "porpoise"
    paths = sorted((folder / "expression").glob("*.parquet"))
    source = read_lab_expression(paths, "zscore", genes=folder / "genes.tsv.gz")
    store = stored(tmp_path, source)
    naive = [pd.read_parquet(path).set_index("gene").T for path in paths]
    assert store.sample_ids == [sample for table in naive for sample in table.index]
    assert store.n_samples == 373 + 345 + 260 + 453 + 166
    shared_genes = [g for g in naive[0].columns if all(g in table for table in naive)]
    expected = pd.concat([table[shared_genes] for table in naive])
    assert (store.var["ensembl_id"] != "").mean() > 0.99
    by_symbol = pd.DataFrame(store.read(), index=store.sample_ids, columns=store.var["symbol"])
    assert len(by_symbol.columns) >= len(shared_genes) - 3
    np.testing.assert_array_equal(by_symbol["TP53"], expected["TP53"])
    with pytest.raises(UserError, match="negative value"):
        stored(tmp_path, read_lab_expression(paths, "counts"))


@pytest.mark.shared
def test_real_rsem(shared: Path, tmp_path: Path) -> None:
    folder = shared / "real" / "rtcga_rnaseqv2_small"
    source = read_lab_expression([folder / "expression.parquet"], "rsem_normalised", genes=folder / "genes.tsv.gz")
    store = stored(tmp_path, source)
    assert store.n_samples == 229
    assert source.notes["rows_without_symbol_dropped"] == 29
    naive = pd.read_parquet(folder / "expression.parquet").set_index("gene").T
    place = store.var["symbol"].tolist().index("PBRM1")
    np.testing.assert_array_equal(store.read()[:, place], naive["PBRM1|55193"])
    for wrong, message in (
        ("zscore", "no value is negative"),
        ("log2_counts_plus_1", "largest"),
        ("tpm", "largest|adds up"),
    ):
        with pytest.raises(UserError, match=message):
            stored(tmp_path, read_lab_expression([folder / "expression.parquet"], wrong))
