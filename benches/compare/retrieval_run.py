#!/usr/bin/env python3
"""Processor time of a query at equal recall, on one thread: rissole beside usearch, hnswlib, faiss, ScaNN.

    cargo bench --bench retrieval -- 50000 500 --hnsw-rs --dump /tmp/retrieval
    python benches/compare/retrieval_run.py /tmp/retrieval

The first command measures rissole (and hnsw_rs) and leaves vectors, queries and the distance of each query's 20th true
neighbour; this script gives the same to the other systems. Each but ScaNN, which has none, builds its graph with M 16 and 200 candidates, then
searches with ever more candidates until its recall@20 is at least rissole's; of that setting the median of the rounds
is printed. They keep the vectors themselves (512 floats a picture), rissole keeps 64 codes of 2 bytes and answers from
a memory map: bytes on disk and growth of the resident memory are printed beside the time.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

for name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS":
    os.environ[name] = "1"
import numpy as np  # noqa: E402: it reads the number of threads when it is loaded

K, CONNECTIONS, EF_CONSTRUCTION = 20, 16, 200
EF_SEARCH = [20, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]


def resident():
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def usearch_side(vectors, folder, dtype):
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="l2sq", dtype=dtype, connectivity=CONNECTIONS,
                  expansion_add=EF_CONSTRUCTION)
    index.add(np.arange(len(vectors)), vectors, threads=1)
    path = folder / f"usearch-{dtype}"
    index.save(str(path))
    del index
    before = resident()
    viewed = Index.restore(str(path), view=True)

    def search(query, ef):
        viewed.expansion_search = ef
        return viewed.search(query, K, threads=1).keys

    return search, path.stat().st_size, lambda: resident() - before


def hnswlib_side(vectors, folder):
    import hnswlib

    before = resident()
    index = hnswlib.Index(space="l2", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), M=CONNECTIONS, ef_construction=EF_CONSTRUCTION)
    index.set_num_threads(1)
    index.add_items(vectors)
    path = folder / "hnswlib"
    index.save_index(str(path))

    def search(query, ef):
        index.set_ef(ef)
        return index.knn_query(query, k=K, num_threads=1)[0][0]

    return search, path.stat().st_size, lambda: resident() - before


def faiss_side(vectors, folder):
    import faiss

    faiss.omp_set_num_threads(1)
    before = resident()
    index = faiss.IndexHNSWFlat(vectors.shape[1], CONNECTIONS)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.add(vectors)
    path = folder / "faiss"
    faiss.write_index(index, str(path))

    def search(query, ef):
        index.hnsw.efSearch = ef
        return index.search(query[None], K)[1][0]

    return search, path.stat().st_size, lambda: resident() - before


def scann_side(vectors, folder):
    from scann.scann_ops.py import scann_ops_pybind

    before = resident()
    leaves = int(len(vectors) ** 0.5)
    builder = scann_ops_pybind.builder(vectors, K, "squared_l2").set_n_training_threads(1)
    builder = builder.tree(num_leaves=leaves, num_leaves_to_search=leaves, training_sample_size=len(vectors))
    index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()
    path = folder / "scann"
    path.mkdir()
    index.serialize(str(path))

    def search(query, ef):
        # No graph: `ef` candidates are compared exactly, out of a share of the leaves that grows with them.
        return index.search(query, final_num_neighbors=K, pre_reorder_num_neighbors=ef,
                            leaves_to_search=min(leaves, max(1, ef // 4)))[0]

    return search, sum(file.stat().st_size for file in path.iterdir()), lambda: resident() - before


SIDES = {
    "usearch f32, view": ("usearch", lambda v, f: usearch_side(v, f, "f32")),
    "usearch f16, view": ("usearch", lambda v, f: usearch_side(v, f, "f16")),
    "hnswlib": ("hnswlib", hnswlib_side),
    "faiss HNSW": ("faiss-cpu", faiss_side),
    "ScaNN": ("scann", scann_side),
}


def recall(found, vectors, queries, bounds):
    """Share of the true neighbours: those no farther than the bound. A sum in another order may be a hair beyond."""
    right = 0
    for ids, query, bound in zip(found, queries, bounds):
        distances = ((vectors[np.asarray(ids, dtype=np.int64)] - query) ** 2).sum(axis=1)
        right += int((distances <= bound * 1.00001).sum())
    return right / (K * len(bounds))


def at_recall(search, wanted, vectors, queries, bounds, rounds):
    """Least ef that reaches the recall, or the largest; the recall, and seconds a query."""
    for ef in EF_SEARCH:
        reached = recall([search(query, ef) for query in queries[: len(bounds)]], vectors, queries, bounds)
        if reached >= wanted:
            break
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        for query in queries:
            search(query, ef)
        seconds.append((time.process_time() - start) / len(queries))
    return ef, reached, statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path, help="folder that the benchmark dumped to")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    ours = json.loads((args.dump / "rissole.json").read_text())
    bounds = np.fromfile(args.dump / "bounds.f32", dtype="<f4")
    queries = np.fromfile(args.dump / "queries.f32", dtype="<f4").reshape(-1, 512)
    vectors = np.fromfile(args.dump / "vectors.f32", dtype="<f4").reshape(-1, 512)
    print(f"{len(vectors)} vectors, {len(queries)} queries; microseconds of processor time a query")
    print(f"  {'rissole':36} recall {ours['recall']:.4f}  {ours['microseconds']:7.0f}  "
          f"{ours['file_bytes'] / 2**20:7.1f} MiB on disk")
    for name, (package, make) in SIDES.items():
        with tempfile.TemporaryDirectory() as folder:
            search, file_bytes, grown = make(vectors, Path(folder))
            ef, reached, seconds = at_recall(search, ours["recall"], vectors, queries, bounds, args.rounds)
            title = f"{name} ({importlib.metadata.version(package)}), ef {ef}"
            print(f"  {title:36} recall {reached:.4f}  {1e6 * seconds:7.0f}  {file_bytes / 2**20:7.1f} MiB on disk, "
                  f"{grown() / 2**20:.1f} MiB resident; {seconds * 1e6 / ours['microseconds']:.2f}× rissole's time")


if __name__ == "__main__":
    main()
