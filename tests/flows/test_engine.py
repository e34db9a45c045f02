"""The engine: every shard is made, and failures are retried alone and named, wherever the work is done."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from pydantic import ValidationError

from flows import engine, footer, speaking
from flows.engine import Engine
from tasks.device import PLACE, prepare
from tasks.errors import PassingError, UserError
from tasks.params import Machine
from tasks.recipe import Recipe
from tasks.shards import shard_name
from tests.house import ROOT

pytestmark = pytest.mark.usefixtures("prefect")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(footer, "RETRY_SECONDS", 0)


def work(folder, function, shards=4, **machine):
    given = Machine(device="cpu", threads=1, **{"workers": 1, **machine})
    Engine(given, prepare(given, "fp32"), Recipe("generate", {})).each(
        function, list(range(shards)), folder=folder
    )
    return made(folder)


def made(folder):
    return sorted(p.name for p in folder.glob("shard-*"))


def test_a_worker_ends_with_its_parent_before_it_imports_torch(prefect):
    """Which takes a second or two."""
    code = (
        "import sys; from multiprocessing import Value; from flows import engine; "
        "engine.die_with_parent = lambda wish: print(wish.name, 'torch' in sys.modules); "
        "engine._begin(Value('i', 0)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["SIGKILL", "False", "True"]


def tries(folder, shard):
    """Count, and tell, how often a shard was tried."""
    with (folder / f"tries-{shard}").open("a+") as file:
        file.write("x")
        return file.tell()


def write(shard, folder, device):
    tries(folder, shard)
    (folder / shard_name(shard)).write_text(f"{os.getpid()} {os.environ.get(PLACE, '-')}")


def stumble(shard, folder, device):
    if shard == 2 and tries(folder, "stumbled") == 1:
        raise RuntimeError("once")
    write(shard, folder, device)


def fall(shard, folder, device):
    if shard == 1:
        tries(folder, shard)
        raise RuntimeError("a bad row\nand more")
    write(shard, folder, device)


def always(shard, folder, device):
    tries(folder, shard)
    raise RuntimeError("a bug")


def full(shard, folder, device):
    tries(folder, shard)
    raise OSError(errno.ENOSPC, "No space left on device", str(folder / shard_name(shard)))


def short(shard, folder, device):
    if tries(folder, shard) == 1:
        raise PassingError("memory ran short")
    (folder / shard_name(shard)).touch()


def shy(shard, folder, device):
    if shard == 1:
        tries(folder, shard)
        raise PassingError("memory is short\nand more")
    write(shard, folder, device)


def die(shard, folder, device):
    if shard == 0 and tries(folder, "death") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    write(shard, folder, device)


def counted(folder):
    return {p.name: p.stat().st_size for p in folder.glob("tries-*")}


def test_one_that_fails_is_tried_again_alone(tmp_path):
    assert len(work(tmp_path, stumble)) == 4
    assert counted(tmp_path) == {**{f"tries-{n}": 1 for n in range(4)}, "tries-stumbled": 2}


def test_one_that_fails_for_good_is_named_and_the_others_stay(tmp_path):
    with pytest.raises(
        UserError, match=r"shard-00001.parquet failed 3 times.*RuntimeError: a bad row\."
    ) as e:
        work(tmp_path, fall, max_retries=2)
    assert "and more" not in str(e.value)
    assert counted(tmp_path)["tries-1"] == 3
    assert made(tmp_path) == [shard_name(n) for n in (0, 2, 3)]


def test_a_bug_is_not_tried_on_every_shard(tmp_path):
    with pytest.raises(UserError, match=r"shard-00000\.parquet failed 1 times.*So did shard-00001"):
        work(tmp_path, always, shards=40, max_retries=0)
    assert len(counted(tmp_path)) <= engine.MOST_FAILED + engine.AHEAD


def test_what_the_user_must_mend_is_not_tried_again(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught:
        work(tmp_path, full)
    assert speaking.denied(caught.value)
    assert counted(tmp_path)["tries-0"] == 1


def test_what_may_pass_is_tried_again(tmp_path):
    assert len(work(tmp_path, short, shards=1)) == 1


def test_what_might_pass_and_does_not_is_named_and_the_others_stay(tmp_path):
    with pytest.raises(UserError, match=r"shard-00001.* failed 2 times.*PassingError: memory is short\."):
        work(tmp_path, shy, max_retries=1)
    assert counted(tmp_path)["tries-1"] == 2
    assert made(tmp_path) == [shard_name(n) for n in (0, 2, 3)]


def test_nothing_to_do_starts_nothing(tmp_path):
    assert work(tmp_path, write, shards=0, engine="dask", scheduler="tcp://127.0.0.1:1") == []


def test_processes_share_the_work_and_one_that_dies_is_replaced(tmp_path):
    assert len(work(tmp_path, die, shards=6, workers=2)) == 6
    told = [(tmp_path / name).read_text().split() for name in made(tmp_path)]
    assert {place for _, place in told} <= {"0", "1"}
    assert str(os.getpid()) not in {pid for pid, _ in told}


def test_a_worker_with_other_code_or_libraries_is_refused(tmp_path):
    machine = Machine(device="cpu", threads=1)
    on = prepare(machine, "fp32")
    same = {"folder": tmp_path, "device": on}
    with pytest.raises(UserError, match=r"has torch .* where this run has '1\.0'"):
        engine.settled("x", 0, write, same, Recipe("generate", {**on.facts, "torch": "1.0"}))
    with pytest.raises(UserError, match=r"another tasks/shards\.py"):
        engine.settled("x", 0, write, same, Recipe("generate", {**on.facts, "tasks/shards.py": "0"}))
    assert made(tmp_path) == []


def test_a_cluster_gives_what_processes_give(tmp_path):
    pytest.importorskip("prefect_dask")
    from distributed import LocalCluster

    here = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": None, "processes": False}
    with LocalCluster(n_workers=1, threads_per_worker=1, **here) as cluster:
        there = {"engine": "dask", "scheduler": cluster.scheduler_address, "max_retries": 0}
        assert len(work(tmp_path, write, **there)) == 4
        with pytest.raises(UserError, match=r"shard-00001\.parquet failed 1 times"):
            work(tmp_path, fall, **there)
        cluster.scale(0)
        with pytest.raises(UserError, match="has no workers"):
            work(tmp_path, write, **there)


def test_an_engine_and_its_scheduler_go_together():
    with pytest.raises(ValidationError, match="go together"):
        Machine(engine="dask")
    with pytest.raises(ValidationError, match="go together"):
        Machine(scheduler="tcp://127.0.0.1:1")


def test_a_cluster_that_is_not_there_is_told(tmp_path, monkeypatch):
    pytest.importorskip("prefect_dask")
    monkeypatch.setattr(engine, "CONNECT", "200ms")
    with pytest.raises(UserError, match=r"machine\.scheduler: no Dask scheduler answers"):
        work(tmp_path, write, engine="dask", scheduler="tcp://127.0.0.1:1")


def test_a_cluster_without_its_extra_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(UserError, match="pip install prefect-dask"):
        work(tmp_path, write, engine="dask", scheduler="tcp://127.0.0.1:1")
