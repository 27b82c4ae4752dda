"""Tables with a log of their own: overwritten ones, whose folders hold more rows than they do."""

import base64
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

FORMER = pyarrow.table({"a": np.arange(300.0), "b": np.arange(300.0) + 0.5})
CURRENT = FORMER.slice(0, 100)

_B85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def write_delta(folder: Path, partition_by: str | None = None) -> None:
    """A Delta table of 300 rows that 100 rows replaced."""
    import deltalake

    deltalake.write_deltalake(str(folder), FORMER, partition_by=partition_by)
    deltalake.write_deltalake(str(folder), CURRENT, mode="overwrite", partition_by=partition_by)


def delete_rows_of_delta(folder: Path, rows: list[int]) -> None:
    """Delete rows of the only file of a Delta table by a deletion vector, as Spark does."""
    import deltalake

    deltalake.write_deltalake(str(folder), CURRENT)
    first = folder / "_delta_log" / "00000000000000000000.json"
    actions = [json.loads(line) for line in first.read_text().splitlines()]
    file = next(action["add"] for action in actions if "add" in action)
    # A bitmap of 64 bits that holds one of 32 bits, with one container of 16 bits.
    bitmap = struct.pack("<IQIIIHHI", 1681511377, 1, 0, 12346, 1, 0, len(rows) - 1, 16)
    bitmap += struct.pack(f"<{len(rows)}H", *rows)
    bitmap += bytes(-len(bitmap) % 4)
    vector = {
        "storageType": "i",
        "pathOrInlineDv": base64.b85encode(bitmap).decode().translate(str.maketrans(_B85, _Z85)),
        "sizeInBytes": len(bitmap),
        "cardinality": len(rows),
    }
    features = ["deletionVectors"]
    later = [
        {
            "protocol": {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": features,
                "writerFeatures": features,
            }
        },
        {"remove": {"path": file["path"], "deletionTimestamp": 1, "dataChange": True}},
        {"add": {**file, "deletionVector": vector}},
    ]
    (first.parent / "00000000000000000001.json").write_text("\n".join(map(json.dumps, later)))


def write_iceberg(folder: Path) -> None:
    """An Iceberg table of 300 rows that 100 rows replaced."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("test", uri="sqlite://", warehouse=str(folder.parent))
    try:
        catalog.create_namespace("n")
        table = catalog.create_table("n.t", FORMER.schema, location=str(folder))
        table.append(FORMER)
        table.overwrite(CURRENT)
    finally:
        catalog.close()


def write_hudi(folder: Path) -> None:
    """A folder that is laid out as Hudi lays out a table whose one file was written again."""
    log = folder / ".hoodie"
    log.mkdir(parents=True)
    settings = {
        "hoodie.table.name": "t",
        "hoodie.table.type": "COPY_ON_WRITE",
        "hoodie.table.version": "6",
        "hoodie.timeline.layout.version": "1",
        "hoodie.table.base.file.format": "PARQUET",
        "hoodie.populate.meta.fields": "false",
        "hoodie.table.keygenerator.class": "org.apache.hudi.keygen.NonpartitionedKeyGenerator",
    }
    (log / "hoodie.properties").write_text("\n".join(f"{k}={v}" for k, v in settings.items()))
    (folder / ".hoodie_partition_metadata").write_text("commitTime=1\npartitionDepth=0\n")
    fields = [{"name": name, "type": ["null", "double"], "default": None} for name in "ab"]
    schema = json.dumps({"type": "record", "name": "r", "fields": fields})
    file_id, former = "5f6e0f3b-0000-4000-8000-000000000000-0", "null"
    for i, table in enumerate((FORMER, CURRENT), 1):
        instant = f"2024010{i}000000000"
        name = f"{file_id}_0-{i}-0_{instant}.parquet"
        pyarrow.parquet.write_table(table, folder / name)
        written = {
            "fileId": file_id,
            "path": name,
            "prevCommit": former,
            "numWrites": table.num_rows,
            "partitionPath": "",
            "fileSizeInBytes": (folder / name).stat().st_size,
            "baseFile": name,
        }
        commit = {
            "partitionToWriteStats": {"": [written]},
            "compacted": False,
            "extraMetadata": {"schema": schema},
            "operationType": "UPSERT",
        }
        (log / f"{instant}.commit.requested").touch()
        (log / f"{instant}.inflight").touch()
        (log / f"{instant}.commit").write_text(json.dumps(commit))
        former = instant


def write_lance(folder: Path) -> None:
    """A Lance dataset of 300 rows that 100 rows replaced."""
    import lance

    lance.write_dataset(FORMER, str(folder))
    lance.write_dataset(CURRENT, str(folder), mode="overwrite")


def lay_out_lance(folder: Path) -> None:
    """A folder with the names of a Lance dataset."""
    for name in ("_versions/1.manifest", "data/x.lance"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
