"""The `files` source: a lab's own tables, copied under `data/raw/files/` so that the pipeline owns its input."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bulkprobe import files
from bulkprobe.cohort.schema import QUANTIFIER_ENDINGS, FilesConfig
from bulkprobe.errors import UserError
from bulkprobe.sources.schema import LAB_CONFIG, LAB_FOLDER, SOURCE_JSON

READ_BYTES = 1 << 22


def fetch_files(config: FilesConfig | Mapping[str, Any], folder: Path, base: Path | None = None) -> dict[str, Any]:
    """Copy the tables of `cohort.files` into `folder/files/`, and write files.json and source.json.

    Relative paths are read from `base` (default: the working folder). Tables of one name from different
    folders get the name of their folder in front. files.json is the section with paths relative to `folder`.
    Returns the content of source.json. Errors: `UserError` for a bad section or a table that is not there.
    """
    section = config if isinstance(config, FilesConfig) else FilesConfig.from_mapping(config)
    base = Path.cwd() if base is None else Path(base)
    folder = Path(folder)
    given = _paths(section)
    missing = [
        path for path in given if not ((base / path).is_file() or (path in section.expression and _listed(base / path)))
    ]
    if missing:
        raise UserError(
            f"cohort.files: no such file: {', '.join(missing)}; paths are relative to the project or absolute"
        )
    names = _names(given)
    recorded: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with files.atomic_folder(folder / LAB_FOLDER) as aside:
        for path, name in names.items():
            for source in _listed(base / path) if (base / path).is_dir() else [base / path]:
                place = name if source == base / path else f"{name}/{source.relative_to(base / path).as_posix()}"
                (aside / place).parent.mkdir(parents=True, exist_ok=True)
                digest, size = _copy(source, aside / place)
                recorded[f"{LAB_FOLDER}/{place}"] = {"sha256": digest, "bytes": size, "url": None}
    section_copy = section.to_mapping()
    for key in ("samples", "survival", "genes", "transcripts"):
        if section_copy[key] is not None:
            section_copy[key] = f"{LAB_FOLDER}/{names[section_copy[key]]}"
    for key in ("expression", "mutations"):
        section_copy[key] = [f"{LAB_FOLDER}/{names[path]}" for path in section_copy[key]]
    files.write_json(folder / LAB_CONFIG, section_copy)
    content = {"source": "files", "expression": None, "files": recorded}
    files.write_json(folder / SOURCE_JSON, content)
    return content


def _listed(folder: Path) -> list[Path]:
    """Return the files of an expression folder: all of a .zarr, of others what a quantifier may have written."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if folder.suffix == ".zarr":
        return found
    return [
        path
        for path in found
        if Path(path.name.removesuffix(".gz")).suffix in QUANTIFIER_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _paths(section: FilesConfig) -> list[str]:
    names = (section.samples, section.survival, section.genes, section.transcripts)
    single = [path for path in names if path is not None]
    return list(dict.fromkeys([*section.expression, *single, *section.mutations]))


def _names(paths: list[str]) -> dict[str, str]:
    """Give each path a file name of its own: its name, else with its folder's in front, else with a number."""
    plain = [Path(path).name for path in paths]
    names: dict[str, str] = {}
    taken: set[str] = set()
    for path, name in zip(paths, plain, strict=True):
        if plain.count(name) > 1:
            parent = Path(path).parent.name
            name = f"{parent}_{name}" if parent else name
        number, wanted = 2, name
        while name in taken:
            name = f"{number}_{wanted}"
            number += 1
        taken.add(name)
        names[path] = name
    return names


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy by blocks and return the sha256 and the number of bytes."""
    digest, size = hashlib.sha256(), 0
    total = source.stat().st_size
    with (
        source.open("rb") as reading,
        target.open("wb") as writing,
        tqdm(total=total, unit="B", unit_scale=True, desc=f"copying {source.name}", delay=2, leave=False) as bar,
    ):
        while block := reading.read(READ_BYTES):
            writing.write(block)
            digest.update(block)
            size += len(block)
            bar.update(len(block))
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest(), size
