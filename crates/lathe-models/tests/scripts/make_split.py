"""Writes tests/data/split/: a split GGUF set as the `gguf` package makes it; tensor `tN` holds 32 times the number N.

Run with the packages of bench/peers/requirements.txt.
"""

import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

OUT = Path(__file__).parent.parent / "data/split"
shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
w = GGUFWriter(OUT / "set.gguf", "llama", split_max_tensors=2)
w.add_block_count(7)
for n in range(5):
    w.add_tensor(f"t{n}", np.full((2, 16), n, np.float32))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
print(sorted((p.name, p.stat().st_size) for p in OUT.iterdir()))
