"""Supernets on Ray: trained by a group of workers that may be struck, with weights that travel once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray]

PREAMBLE = """
import json, logging, os, sys, time
from pathlib import Path
import ray
from nasplat.artifact import Handle
from nasplat.executors import ray as module, worker_pool
from nasplat.executors.executor import perform
from nasplat.config import Workload
from nasplat.executors.ray import RayExecutor
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.storage.artifact_store import ArtifactStore
from nasplat.task import encode_incident, encode_outcome
import torch

class CountingShelf(ArtifactStore):
    reads = 0
    def get(self, handle):
        self.reads += 1
        return super().get(handle)

for folder in ("notes", "other notes"):
    Path(folder).mkdir()
store = CountingShelf(Path("artifacts"))

def workload(**options):
    return Workload("demo_perceptron", "demo_supernet", {}, {"notes": os.path.abspath("notes"), **options})

def start(workers=2, *, up=None, of=None, retries=2, trial_seconds=None, **options):
    made = RayExecutor(
        of or workload(**options), store, workers=workers, retries=retries, trial_seconds=trial_seconds,
        address=None if ray.is_initialized() else sys.argv[1],
    )
    while len(made._pool.idle) < (workers if up is None else up):
        made.wait(0.1)
    return made

alone = workload(shares=1, notes=os.path.abspath("other notes")).make()
problem = Problem(alone.space, Goal((Objective("accuracy", True),)), io=alone.io)
incidents = []

def training(epochs=20, **named):
    return problem.train_supernet((problem.sample(),), epochs=epochs, **named)

def done(executor, *tasks):
    for task in tasks:
        executor.submit(task)
    return gather(executor, len(tasks))

def gather(executor, number):
    outcomes = []
    while len(outcomes) < number:
        outcomes += executor.wait(0.5)
        incidents.extend(executor.incidents())
    return outcomes

def notes(task):
    # Rank, size and process of every member that began with the task.
    found = [list(map(int, path.name.split())) for path in Path("notes").iterdir() if path.is_file()]
    return sorted(note[1:] for note in found if note[0] == task.id)

def error(trained):
    # How far the weights are from those of one process.
    folder = ArtifactStore(Path("oracle"))
    expected = perform(trained.task, alone, device="cpu", artifacts=folder)
    difference = store.get_tensors(trained.weights)["weight"] - folder.get_tensors(expected.weights)["weight"]
    return float(difference.abs().max())

def say(**said):
    Path("said.json").write_text(json.dumps({"incidents": list(map(encode_incident, incidents)), **said}))
"""


def _run(cluster: Any, folder: Path, script: str) -> Any:
    """What a script says that drives the executor itself, with the address of a cluster as its argument."""
    return _said(folder, cluster.scripts.run(PREAMBLE + script, cluster.address, folder=folder))


def _said(folder: Path, done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "said.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two workers say that nothing strikes: of trainings, of evaluations with many weights, of both in a queue."""
    said: dict[str, Any] = _run(
        cluster,
        tmp_path_factory.mktemp("undisturbed"),
        """
reads, wrong = [], 0
with start(sleep=0.05) as made:
    (first,) = done(made, training())
    (second,) = done(made, training(weights=first.weights))
    (warmup,) = done(made, problem.train_supernet((), epochs=2))
    measured = done(made, *(problem.evaluate(problem.sample(), weights=second.weights) for _ in range(6)))
    left = [path.read_text() for path in Path("artifacts").glob("*/*") if path.stat().st_size < 50]

    handles = [store.put_tensors({"weight": torch.full((8,), float(number))}) for number in range(1, 8)]
    for number, handle in enumerate(handles, 1):
        store.reads = 0
        found = done(made, *(problem.evaluate(problem.sample(), weights=handle) for _ in range(100)))
        reads.append(store.reads)
        wrong += sum(outcome.metrics["accuracy"] != number for outcome in found)
    held = len(made._objects._references)

    def evaluation():
        return problem.evaluate(problem.sample(), weights=handles[6])
    queue = [evaluation(), training(epochs=4), *(evaluation() for _ in range(5))]
    ends = done(made, *queue)

    store.path(handles[0]).unlink()
    (lost,) = done(made, problem.evaluate(problem.sample(), weights=handles[0]))
say(
    notes=[notes(first.task), notes(second.task)],
    warmup=notes(warmup.task),
    errors=[error(first)],
    progress=[float(store.get_tensors(o.weights)["weight"].sum()) for o in (first, second)],
    spent=[first.spent.seconds, first.spent.images, first.spent.worker.rpartition(":")[2]],
    groups=[[outcome.spent.worker, outcome.metrics["groups"]] for outcome in measured],
    left=left,
    reads=reads,
    wrong=wrong,
    held=held,
    order=[[task.id for task in queue], [outcome.id for outcome in ends]],
    queued=notes(queue[1]),
    lost=lost.kind,
)
""",
    )
    return said


def test_two_members_train_what_one_would(undisturbed: dict[str, Any]) -> None:
    said = undisturbed
    for members in said["notes"]:
        assert [member[:2] for member in members] == [[0, 2], [1, 2]]
        assert members[0][2] != members[1][2], "both members were one process"
    assert [member[:2] for member in said["warmup"]] == [[0, 1]], "a training of the whole space was divided"
    assert said["errors"][0] < 1e-5
    assert said["progress"][0] < said["progress"][1] <= 28.5, "the second training did not go on from the first"
    seconds, images, worker = said["spent"]
    assert 2.0 < seconds < 600 and images == 1280, "the time of both members counts, their images once"
    assert int(worker) == said["notes"][0][0][2]
    assert {groups for _, groups in said["groups"]} == {0.0}, "a process group was left behind"
    assert len({worker for worker, _ in said["groups"]}) == 2
    assert said["left"] == ["left by member 0"], "what other members put away is to be forgotten"
    assert said["incidents"] == []


def test_weights_are_read_and_put_once_for_all_that_are_measured_with_them(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["reads"] == [1] * 7
    assert undisturbed["wrong"] == 0
    assert 1 <= undisturbed["held"] <= 4, "weights of generations long gone are still held"
    assert undisturbed["lost"] == "artifact lost"


def test_a_training_is_not_overtaken_and_what_waits_behind_it_is_done(undisturbed: dict[str, Any]) -> None:
    asked, ended = undisturbed["order"]
    assert ended[:2] == asked[:2] and sorted(ended) == asked
    assert [member[:2] for member in undisturbed["queued"]] == [[0, 2], [1, 2]]


GONE = """
def gone(task):
    # What Ray kills hard may take it a few seconds.
    deadline = time.monotonic() + 300
    while any(Path("/proc", str(note[2])).exists() for note in notes(task)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [not Path("/proc", str(note[2])).exists() for note in notes(task)]
"""


@pytest.fixture(scope="module")
def struck(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of trainings that were struck one after another, by what struck them."""
    said: dict[str, Any] = _run(
        cluster,
        tmp_path_factory.mktemp("struck"),
        GONE
        + """
mischief = {"0.0": "die", "1.1": "die", "2.1": "starve", "3.1": "diverge", "4.0": "hang", "4.1": "diverge"}
found = {}
with start(mischief={**mischief, "5.1": "hang"}) as made:
    for name in ("first dies", "second dies", "starving", "diverging", "hanging", "overdue", "sound"):
        module.GRACE_SECONDS = 1.5 if name == "hanging" else 300.0
        while name == "overdue" and len(made._pool.idle) < 2:
            made.wait(0.1)  # or the start of a worker would count
        made._trial_seconds = 4.0 if name == "overdue" else None
        incidents.clear()
        (outcome,) = done(made, training())
        found[name] = {
            "seconds": outcome.spent.seconds,
            "gone": gone(outcome.task) if name == "overdue" else None,
            "failure": getattr(outcome, "kind", None),
            "message": getattr(outcome, "message", None),
            "error": error(outcome) if hasattr(outcome, "weights") else None,
            "notes": notes(outcome.task),
            "incidents": list(map(encode_incident, incidents)),
        }
say(**found)
""",
    )
    return said


@pytest.mark.parametrize("rank", [0, 1])
def test_a_member_that_dies_ends_the_try_for_all(rank: int, struck: dict[str, Any]) -> None:
    said = struck[("first dies", "second dies")[rank]]
    (incident,) = said["incidents"]
    assert (incident["kind"], incident["action"], incident["trial"]) == ("worker died", "tried again", rank)
    died = int(incident["worker"].rpartition(":")[2])
    assert died in [member[2] for member in said["notes"] if member[0] == rank], "another is blamed"
    assert {member[1] for member in said["notes"]} == {2}, "the second try did not wait for its workers"
    assert len({member[2] for member in said["notes"]}) == 3, "the other member's process was lost as well"
    assert said["error"] < 1e-5


def test_memory_that_ran_out_for_one_member_is_tried_again(struck: dict[str, Any]) -> None:
    said = struck["starving"]
    assert [(i["kind"], i["action"]) for i in said["incidents"]] == [("out of memory", "tried again")]
    assert said["error"] < 1e-5


def test_what_one_member_fails_of_is_told_and_all_live_on(struck: dict[str, Any]) -> None:
    said = struck["diverging"]
    assert (said["failure"], said["message"]) == ("diverged", "as member 3.1 was told to")
    assert said["incidents"] == []
    assert {member[2] for member in said["notes"]} == {member[2] for member in struck["hanging"]["notes"]}


def test_a_member_that_does_not_come_free_is_killed(struck: dict[str, Any]) -> None:
    said = struck["hanging"]
    assert said["failure"] == "diverged"
    (incident,) = said["incidents"]
    assert (incident["kind"], incident["action"]) == ("time limit", "replaced")
    assert incident["worker"].endswith(f":{said['notes'][0][2]}")
    assert struck["sound"]["error"] < 1e-5 and struck["sound"]["incidents"] == []


def test_the_time_limit_ends_all_members(struck: dict[str, Any]) -> None:
    said = struck["overdue"]
    assert said["failure"] == "time limit"
    assert [(i["kind"], i["action"]) for i in said["incidents"]] == [("time limit", "failed")]
    assert said["gone"] == [True, True]
    assert [member[:2] for member in struck["sound"]["notes"]] == [[0, 2], [1, 2]]
    assert said["seconds"] > 8, "both members' time was lost"


def test_a_place_that_is_given_up_makes_the_group_smaller(cluster: Any, tmp_path: Path) -> None:
    said = _run(
        cluster,
        tmp_path,
        """
worker_pool.FIRST_PAUSE = 0.05
class OnlyOnce(Workload):
    # The first worker finds its data at once, all others look for it in vain.
    def make(self):
        try:
            os.mkdir(os.path.join(self.benchmark_options["notes"], "once"))
        except FileExistsError:
            raise RuntimeError("the data is not there") from None
        return Workload(self.space, self.benchmark, {}, self.benchmark_options).make()
whole = workload()
with start(up=1, of=OnlyOnce(whole.space, whole.benchmark, {}, whole.benchmark_options)) as made:
    (trained,) = done(made, training())
    capacity = made.capacity
say(notes=notes(trained.task), capacity=capacity, error=error(trained))
""",
    )
    assert said["capacity"] == 1 and said["incidents"][-1]["action"] == "given up"
    assert [member[:2] for member in said["notes"]] == [[0, 1]]
    assert said["error"] == 0.0


@pytest.fixture(scope="module")
def two_nodes(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of two losses of a node: one with a member of a group, and another one with an artifact."""
    folder, script = (
        tmp_path_factory.mktemp("two_nodes"),
        """
import numpy as np
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
far = nodes.add_node(num_cpus=1, resources={"far": 1})
ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.CRITICAL)

def group():
    worker_pool.GATHER_SECONDS = 3.0
    with start(sleep=0.1) as made:
        (first,) = done(made, training())
        task = training(epochs=40)
        made.submit(task)
        while len(notes(task)) < 2:
            made.wait(0.1)
        time.sleep(1)
        nodes.remove_node(far)
        (second,) = gather(made, 1)
    return {
        "workers": len({member[2] for member in notes(first.task)}),
        "sizes": [member[1] for member in notes(task)],
        "errors": [error(first), error(second)],
        "incidents": list(map(encode_incident, incidents)),
    }

class Holder:
    # Its result lies on its own node alone, as weights do that were put there.
    def weights(self, data):
        return np.frombuffer(data, np.uint8).copy()

def artifact():
    far = nodes.add_node(num_cpus=1, resources={"far": 1})
    handle = store.put_tensors({"weight": torch.ones(8), "ballast": torch.zeros(10**6)})
    holder = ray.remote(Holder).options(num_cpus=0, resources={"far": 1}).remote()
    incidents.clear()
    with start(workers=1) as made:
        reference = holder.weights.remote(store.get(handle))
        ray.wait([reference], fetch_local=False)
        made._objects._references[handle.digest] = reference
        store.reads = 0
        nodes.remove_node(far)
        outcomes = done(made, *[problem.evaluate(problem.sample(), weights=handle) for _ in range(3)])
    return {
        "accuracies": [outcome.metrics["accuracy"] for outcome in outcomes],
        "reads": store.reads,
        "incidents": list(map(encode_incident, incidents)),
    }

say(group=group(), artifact=artifact())
ray.shutdown()
nodes.shutdown()
""",
    )
    environment = {**cluster.scripts.environment, "RAY_AUTH_MODE": "disabled"}
    words = [sys.executable, "-c", PREAMBLE + script]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    said: dict[str, Any] = _said(folder, done)
    return said


def test_a_group_on_two_nodes_survives_the_loss_of_one(two_nodes: dict[str, Any]) -> None:
    """No node takes the place of the one that is lost: in the end one worker trains alone."""
    said = two_nodes["group"]
    assert said["workers"] == 2
    lost = [incident for incident in said["incidents"] if incident["trial"] is not None]
    assert [(i["kind"], i["action"]) for i in lost] == [("node lost", "tried again")], said["incidents"]
    assert sorted(said["sizes"]) == [1, 2, 2]
    assert max(said["errors"]) < 1e-5


def test_an_artifact_that_the_object_store_lost_is_put_there_afresh(two_nodes: dict[str, Any]) -> None:
    said = two_nodes["artifact"]
    assert said["accuracies"] == [1.0] * 3 and said["reads"] == 1
    assert ("object lost", "tried again") in [(i["kind"], i["action"]) for i in said["incidents"]], said["incidents"]
