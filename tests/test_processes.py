"""Many processes give what one gives, bit by bit, and so do shards that share only a disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from families import dataset, model

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.engine.checkpoints import Journal, Shard
from circuitkit.engine.dealing import Block, Task, dealt
from circuitkit.engine.processes import Failure, agreed, alone, attempted, team
from circuitkit.errors import MetricError, UnfinishedError
from circuitkit.graph.scores import ScoresWarning
from circuitkit.models.transformer_lens import Transformer
from circuitkit.workflows.track.files import to_json

TINY = ["--examples", "6", "--batch-size", "2", "--threads", "1", "--quiet"]
DISCOVER = ["discover", "ioi", "--method", "exact", "--edges", "30", *TINY]
WORK = """
import os, sys
from pathlib import Path
import torch
from torch import distributed
from test_processes import BROKEN, DISCOVER, digests, raised
from circuitkit.cli.main import main

torch.set_num_threads(1)
place, ports = Path(sys.argv[1]), sys.argv[2:]
codes = []
for arguments in ([*DISCOVER, "-o", str(place / "run")], BROKEN, ["list", "metrics"]):
    os.environ["MASTER_PORT"] = ports[len(codes)]
    codes.append(main(arguments))
distributed.init_process_group("gloo", init_method=f"file://{place}/store",
                               rank=int(os.environ["RANK"]), world_size=2)
(place / f"digests{os.environ['RANK']}").write_text(digests())
(place / f"raised{os.environ['RANK']}").write_text(raised())
distributed.barrier()
distributed.destroy_process_group()  # else its threads may abort the end of the process
(place / f"codes{os.environ['RANK']}").write_text(str(codes))
"""
METRIC = """
import os
from circuitkit.metrics import logit_diff

def broken(logits, reference, batch):
    values = logit_diff(logits, reference, batch)
    return values * float("nan") if os.environ.get("RANK") == "1" else values
"""
BROKEN = ["discover", "ioi", "--method", "eap", "--metric", "mine.py:broken", "--force",
          "-o", "broken", *TINY]  # fmt: skip


def digests() -> str:
    """A hash of what each verb finds."""
    own = model("gpt2")
    data = dataset(batch_size=2)
    eap = ck.discovery.eap(own, data, groups="examples")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScoresWarning)  # one step is too few for the path
        path = ck.discovery.mask_gradient(own, data, steps=1)
    found = {
        "eap": eap.values,
        "examples": eap.groups,
        "eap_ig": ck.discovery.eap_ig(own, data, corruption="mean", steps=2).values,
        "path": np.array([path.about["path"]["gap"]]),
        "nodes": ck.discovery.exact(own, data, level="node").values,
        "learned": ck.discovery.nested(own, data, runs=8, size=4).values,
        "patched": ck.patch_nodes(own, "z", data).values,
        "tracked": np.frombuffer(tracked(own, data).encode(), np.uint8),
        "evaluated": ck.evaluate(own, [eap.top(5), eap.top(20)], data)[1].circuit,
    }
    return "\n".join(
        f"{name} {hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()}"
        for name, x in found.items()
    )


def tracked(own: Transformer, data: ck.Dataset) -> str:
    """A track, of which each process does a model."""
    models = {"one": own, "two": model("opt"), "again": own}
    found = ck.track(models, data, method="eap", edges=5, force=True)
    return to_json(found.about, [vars(one) for one in found.steps])


def raised() -> str:
    """The error of a block of the second process, which all raise."""

    def work(number: int) -> Block:
        if number == 3:
            raise MetricError(f"block {number} fails in process {os.environ.get('RANK')}")
        return {}

    try:
        [*dealt(Task(str(i), partial(work, i)) for i in range(9))]
    except MetricError as error:
        return str(error)
    return "nothing"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def free_ports(n: int) -> list[str]:
    """Ports that nobody listens to."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)


def test_two_processes_give_what_one_gives(tmp_path: Path, one_thread: None) -> None:
    ports = free_ports(3)
    (tmp_path / "mine.py").write_text(METRIC)
    paths = [str(Path(__file__).parent), str(Path(ck.__file__).parents[1])]
    processes = []
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
               "MASTER_ADDR": "127.0.0.1",
               "PYTHONPATH": os.pathsep.join(paths)}  # fmt: skip
        arguments = [sys.executable, "-c", WORK, str(tmp_path), *ports]
        processes.append(subprocess.Popen(
            arguments, cwd=tmp_path, env={**os.environ, **own},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ))  # fmt: skip
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert main([*DISCOVER, "-o", str(tmp_path / "alone")]) == 0
    assert files(tmp_path / "run") == files(tmp_path / "alone")
    own_digests = digests()
    for rank in range(2):  # what is dealt comes back to all
        assert (tmp_path / f"digests{rank}").read_text() == own_digests
        assert (tmp_path / f"raised{rank}").read_text() == "block 3 fails in process 1"
    codes = [(tmp_path / f"codes{rank}").read_text() for rank in range(2)]
    assert codes == ["[0, 2, 0]", "[0, 2, 0]"]
    (out, one), (silence, other) = said
    assert "faithfulness" in out
    assert "logit_diff" in out
    assert not silence
    nothing, error = sorted([one, other])  # said once, by the one that ends first
    assert not nothing
    assert error.startswith("circuitkit: broken returned nan")
    assert error.count("\n") == 1


# -- shards ----------------------------------------------------------------------------------------
def test_shards_merge_to_what_one_run_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*DISCOVER[:2], "--method", "eap", "--edges", "30", *TINY]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*arguments, "-o", str(whole)]) == 0
    assert main([*arguments, "-o", str(parts), "--shard", "1/2"]) == 0
    assert "shard 1/2 has made 1 of 3 blocks" in capsys.readouterr().err
    assert main(["merge", str(parts)]) == 2
    said = capsys.readouterr().err
    assert "2 of 3 blocks" in said
    assert "batch-0000, batch-0002" in said
    assert "run again --shard 0/2" in said
    assert [path.name for path in parts.iterdir()] == [".unfinished"]
    assert main([*arguments, "-o", str(parts), "--shard", "0/2"]) == 0
    assert main(["merge", str(parts)]) == 0
    assert files(parts) == files(whole)
    assert main(["merge", str(parts)]) == 2
    assert "no unfinished run" in capsys.readouterr().err


@pytest.mark.weekly
def test_shards_of_tests_merge_to_what_one_run_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    circuit = ck.discovery.eap(ck.load("mini"), ck.make_task("ioi", ck.load("mini"), 4)).top(20)
    circuit.graph |= {"task": "ioi", "metric": "logit_diff", "corruption": "counterfactual"}
    circuit.save(tmp_path / "c.json")
    asked = ["test", str(tmp_path / "c.json"), "--only", "minimality", "--only", "sufficiency",
             "--random", "3", "--inflations", "3", "--edges", "2", "--sizes", "60", "--model",
             "mini", "--examples", "4", "--batch-size", "2", "--quiet"]  # fmt: skip
    capsys.readouterr()
    assert main(asked) == 0
    whole = capsys.readouterr().out
    parts = ["--resume", str(tmp_path / "parts")]
    for index in (0, 1):
        assert main([*asked, *parts, "--shard", f"{index}/2"]) == 0
    capsys.readouterr()
    assert main(["merge", str(tmp_path / "parts"), "--quiet"]) == 0
    assert capsys.readouterr().out == whole


@pytest.mark.weekly
def test_shards_of_clusters_merge_to_what_one_run_gives(tmp_path: Path) -> None:
    arguments = ["clusters", "ioi", "--method", "eap", "--edges", "20", "--number", "2", *TINY]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*arguments, "-o", str(whole)]) == 0
    for index in (0, 1):
        assert main([*arguments, "-o", str(parts), "--shard", f"{index}/2"]) == 0
    assert main(["merge", str(parts)]) == 0
    assert files(parts) == files(whole)


def test_shards_of_an_evaluation_need_a_folder_and_merge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    circuit = ck.discovery.eap(ck.load("mini"), "ioi").top(30)
    circuit.graph |= {"task": "ioi", "metric": "logit_diff", "corruption": "counterfactual"}
    circuit.save(tmp_path / "c.json")
    arguments = ["evaluate", str(tmp_path / "c.json"), "--json", "--corruption", "zero", *TINY]
    assert main(arguments) == 0
    whole = capsys.readouterr().out
    assert main([*arguments, "--shard", "0/2"]) == 2
    for index in (0, 1):
        shard = ["--resume", str(tmp_path / "kept"), "--shard", f"{index}/2"]
        assert main([*arguments, *shard]) == 0
    capsys.readouterr()
    assert main(["merge", str(tmp_path / "kept")]) == 0
    assert capsys.readouterr().out == whole


@pytest.mark.weekly
def test_shards_of_a_transfer_merge_to_what_one_run_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = ck.discovery.eap(ck.load("mini"), ck.make_task("ioi", ck.load("mini"), n=4))
    a, b = (str(scores.top(n).save(tmp_path / f"{n}.json")) for n in (20, 25))
    arguments = ["compare", a, b, "--transfer", "--json", *TINY, "--examples", "4"]
    assert main(arguments) == 0
    whole = capsys.readouterr().out
    assert main([*arguments, "--shard", "0/2"]) == 2
    assert "name it (--resume DIR)" in capsys.readouterr().err
    for index in (0, 1):
        shard = ["--resume", str(tmp_path / "kept"), "--shard", f"{index}/2"]
        assert main([*arguments, *shard]) == 0
        said = capsys.readouterr()
        assert said.out == ""
        assert f"shard {index}/2 has made" in said.err
    assert main(["merge", str(tmp_path / "kept")]) == 0
    assert capsys.readouterr().out == whole


@pytest.mark.parametrize("text", ["2/2", "-1/2", "1", "a/b", "0/0"])
def test_what_is_no_shard_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DISCOVER, f"--shard={text}"]) == 2
    assert "is not a part" in capsys.readouterr().err


# -- blocks ----------------------------------------------------------------------------------------
def blocks(journal: Journal, n: int = 5) -> list[int]:
    """The numbers of blocks that each hold their own."""

    def work(number: int) -> Block:
        return {"number": np.array(number)}

    tasks = [Task(f"block-{i}", lambda i=i: work(i)) for i in range(n)]
    return [int(block["number"]) for block in dealt(tasks, journal)]


def test_what_comes_after_the_shards_is_done_by_the_merge(tmp_path: Path) -> None:
    first, later = {"format": "first"}, {"format": "later"}
    for index in range(2):
        with pytest.raises(UnfinishedError):
            blocks(Journal(Shard(tmp_path, index, 2), first))
    merge = Shard(tmp_path)
    assert blocks(Journal(merge, first)) == blocks(Journal(merge, later)) == [*range(5)]
    with pytest.raises(UnfinishedError, match="5 of 5 blocks of later"):
        blocks(Journal(Shard(tmp_path), later))
    shard = Shard(tmp_path, 1, 2)
    assert blocks(Journal(shard, first)) == [*range(5)]
    with pytest.raises(UnfinishedError, match="made 2 of 5 blocks of later, and 3 are"):
        blocks(Journal(shard, later))
    with pytest.raises(UnfinishedError, match="block-0, block-2, block-4"):
        blocks(Journal(merge, later))


def test_a_process_by_itself_agrees_with_itself() -> None:
    with alone():
        assert team() == (0, 1)
    assert agreed(lambda: 3) == 3
    failure = attempted(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, ZeroDivisionError)


def test_an_error_travels_as_itself_or_in_words() -> None:
    import pickle

    class Own(MetricError):
        pass

    again = pickle.loads(pickle.dumps(Failure(MetricError("kl is nan"))))
    assert isinstance(again.error, MetricError)
    again = pickle.loads(pickle.dumps(Failure(Own("kl is nan"))))
    assert str(again.error) == "Own: kl is nan"
