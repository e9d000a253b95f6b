"""A run as a study of Optuna has the same trials, objectives and front, also in optuna-dashboard."""

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import handmade
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import nasplat
from nasplat.errors import InputError
from nasplat.results import study
from nasplat.results.study import export_study
from nasplat.task import Evaluate, Measurement
from nasplat.testing import ToySpace

CommandLine = Callable[..., CompletedProcess[str]]
MEASURED = {outcome.id: outcome.metrics for outcome in handmade.OUTCOMES if isinstance(outcome, Measurement)}


def storage(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))


def opened(journal: Path, name: str = "run") -> Any:
    return optuna.load_study(study_name=name, storage=storage(journal))


def trials(journal: Path) -> dict[int, Any]:
    """The trials of the study by the number that the run gave them."""
    return {trial.user_attrs["trial"]: trial for trial in opened(journal).trials}


def test_trials_objectives_and_front_are_those_of_the_run(tmp_path: Path) -> None:
    run, journal = handmade.handmade(tmp_path / "run", unfinished=[handmade.task(8, "000000")]), tmp_path / "journal"
    said = export_study(run, journal)
    assert (said.name, said.trials, said.unfinished) == ("run", 7, 1)
    found = opened(journal)
    assert [each.name for each in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert found.metric_names == ["accuracy", "params"]
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    states = {number: trial.state for number, trial in trials(journal).items()}
    assert states == {0: complete, 1: TrialState.FAIL, 2: complete, 4: pruned, 5: pruned, 6: complete, 7: complete}
    for number, trial in trials(journal).items():
        if trial.state == complete:
            assert trial.values == [MEASURED[number]["accuracy"], MEASURED[number]["params"]]
            assert trial.user_attrs["macs"] == MEASURED[number]["macs"]
    front = {member.architecture.code for member in run.history().front}
    assert {trial.user_attrs["code"] for trial in found.best_trials} == front == {"000001", "432101"}


def test_a_trial_keeps_genes_constraints_times_and_why_it_failed(tmp_path: Path) -> None:
    export_study(handmade.handmade(tmp_path / "run"), tmp_path / "journal")
    found = trials(tmp_path / "journal")
    assert found[6].params["1<-0"] == "avg_pool_3x3" and len(found[6].distributions["1<-0"].choices) == 5
    assert (found[6].datetime_complete - found[6].datetime_start).total_seconds() == handmade.FAR.seconds
    assert found[2].system_attrs["constraints"] == [pytest.approx(0.2)]
    assert found[6].system_attrs["constraints"] == [0.0]
    assert found[1].user_attrs["failure"] == "=diverged\\x1b[2J"
    assert found[5].user_attrs["cached_from"] == 0
    assert found[5].datetime_start == found[5].datetime_complete == found[4].datetime_complete
    assert found[4].intermediate_values == {12: 0.95} and found[0].intermediate_values == {200: 0.1 + 0.2}


def test_curves_are_intermediate_values(tmp_path: Path) -> None:
    found = nasplat.search(space=ToySpace(), benchmark=handmade.reporting, objectives=["accuracy:max"], evaluations=2,
                           strategy="random_search", out=tmp_path / "run")  # fmt: skip
    found.export_study(tmp_path / "journal")
    assert [trial.intermediate_values for trial in opened(tmp_path / "journal").trials] == [{1: 0.25}] * 2


def test_values_that_json_lacks_are_text(tmp_path: Path) -> None:
    odd = handmade.measured(handmade.task(0, "000001"), 0.5, 1.0)
    run = handmade.handmade(tmp_path / "run", [replace(odd, metrics={**odd.metrics, "loss": float("inf")})])
    export_study(run, tmp_path / "journal")
    assert "Infinity" not in (tmp_path / "journal").read_text()
    assert trials(tmp_path / "journal")[0].user_attrs["loss"] == "inf"


@pytest.mark.slow
def test_a_taken_name_is_refused_unless_asked_and_other_studies_stay(tmp_path: Path) -> None:
    run, journal = handmade.handmade(tmp_path / "run"), tmp_path / "journal"
    export_study(run, journal, name="other")
    export_study(run, journal)
    before = journal.read_bytes()
    with pytest.raises(InputError, match="has a study named 'run'; replace it"):
        export_study(run, journal)
    assert journal.read_bytes() == before
    smaller = handmade.handmade(tmp_path / "smaller", handmade.OUTCOMES[:2])
    export_study(smaller, journal, name="run", replace=True)
    assert sorted(optuna.get_all_study_names(storage(journal))) == ["other", "run"]
    assert (len(opened(journal).trials), len(opened(journal, "other").trials)) == (2, 7)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "smaller", "journal"}  # no lock, no draft


@pytest.mark.parametrize("text", ["hello\n", '{"op_code": 0', "[1]\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(InputError, match="is not a journal file of Optuna"):
        export_study(handmade.handmade(tmp_path / "run"), path)
    assert path.read_text() == text


def test_a_failure_midway_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, journal = handmade.handmade(tmp_path / "run"), tmp_path / "journal"
    export_study(run, journal, name="first")
    before = journal.read_bytes()
    monkeypatch.setattr(study, "_plain", lambda value: {value})  # which JSON lacks
    with pytest.raises(TypeError):
        export_study(run, journal)
    assert journal.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"run", "journal"}


def test_the_command_says_that_it_is_a_copy(tmp_path: Path, command: CommandLine) -> None:
    run = handmade.handmade(tmp_path / "run")
    done = command("export-study", run.folder, "--storage", "journal")
    assert done.returncode == 0 and "It is a copy" in done.stdout and done.stderr == ""
    again = command("export-study", run.folder, "--storage", "journal", "--json")
    assert again.returncode == 2 and "--replace" in again.stderr
    named = command("export-study", run.folder, "--storage", "journal", "--name", "two", "--json")
    assert json.loads(named.stdout) == {"storage": "journal", "name": "two", "trials": 7, "unfinished": 0}
    assert command("export-study", run.folder, "--storage", "missing/journal").returncode == 2


class Quiet(WSGIRequestHandler):
    """Says nothing of requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def dashboard(journal: Path) -> Iterator[Callable[[str], Any]]:
    """Asks optuna-dashboard, which serves a storage on a free port."""
    package = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    server = make_server("127.0.0.1", 0, package.wsgi(storage(journal)), handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/api/{path}") as answer:
            return json.load(answer)

    try:
        yield ask
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_the_dashboard_shows_the_same_trials_objectives_and_front(tmp_path: Path) -> None:
    run = handmade.handmade(tmp_path / "run", bounded=False)  # its list of best trials ignores constraints
    export_study(run, tmp_path / "journal")
    with dashboard(tmp_path / "journal") as ask:
        (shown,) = ask("studies")["study_summaries"]
        details = ask(f"studies/{shown['study_id']}?after=0")
    assert shown["study_name"] == "run"
    assert details["objective_names"] == ["accuracy", "params"] and details["directions"] == ["maximize", "minimize"]
    values, codes = {}, {}
    for trial in details["trials"]:
        attributes = {each["key"]: each["value"] for each in trial["user_attrs"]}
        codes[int(attributes["trial"])] = attributes["code"]
        if trial["state"] == "Complete":
            values[int(attributes["trial"])] = trial["values"]
    assert codes == {
        each.id: each.task.architecture.code for each in handmade.OUTCOMES if isinstance(each.task, Evaluate)
    }
    assert values == {n: [MEASURED[n]["accuracy"], MEASURED[n]["params"]] for n in (0, 2, 6, 7)}
    best = {each["value"] for trial in details["best_trials"] for each in trial["user_attrs"] if each["key"] == "code"}
    assert best == {member.architecture.code for member in run.history().front}


def test_a_run_in_python_exports_the_same_study(tmp_path: Path) -> None:
    run = handmade.handmade(tmp_path / "run")
    journal = nasplat.open_run(run.folder).export_study(tmp_path / "journal", name="mine")
    assert len(opened(journal, "mine").trials) == 7


def test_an_address_of_a_database_is_no_journal_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is an address of a database"):
        export_study(handmade.handmade(tmp_path / "run"), Path("sqlite:///studies.db"))
