"""`nasplat recover`: from a damaged run, everything that can be read, and a run that goes on from it."""

import csv
import gzip
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import nasplat.driver.loop
from nasplat.cli.app import main
from nasplat.config import SearchConfig
from nasplat.errors import RunError
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import CONFIG, DATA, ENVIRONMENT, LOG
from nasplat.run.recovery import BEYOND, NOTE, _Replay, salvage
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.storage.event_log import Event, EventLog
from nasplat.strategies.successive_halving import ASHA
from nasplat.task import STATE, Incident, Measurement, Outcome, Spent, encode_incident
from nasplat.testing.strategies import drive, toy_problem

Done: TypeAlias = subprocess.CompletedProcess[str]
CommandLine: TypeAlias = Callable[..., Done]

SEARCH = [
    "search", "--space", "nasbench201", "--benchmark", "nasbench201", "--strategy", "regularized_evolution",
    "--set", "strategy.population=10", "--set", "strategy.sample=3",
    "--objective", "accuracy:max", "--objective", "params:min",
]  # fmt: skip
EVALUATIONS = 120
INCIDENT = Incident(kind="worker died", message="its process ended", action="tried again", trial=3, worker="host:12")


def call(*arguments: str) -> int:
    """Run `nasplat ARGUMENTS` in this process; the exit code."""
    before, sys.argv = sys.argv, ["nasplat", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a table of made-up figures."""
    folder, space = tmp_path_factory.mktemp("data"), NASBench201()
    (folder / "nasbench201").mkdir()
    with gzip.open(folder / "nasbench201" / "cifar10.csv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch_str", "c10_valid_200", "c10_test_200", "c10_train_time_12ep_s"])
        for index in range(0, 15625, 5):
            code = "".join(str(index // 5**gene % 5) for gene in range(6))
            writer.writerow([space.official(space.parse(code)), 10 + 7 * index % 80, 10 + 7 * index % 83, 100])
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, table_folder: Path) -> Path:
    """A finished run whose log has an event that is longer than a page in its middle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASPLAT_DATA", str(table_folder))
        run = tmp_path_factory.mktemp("template") / "run"
        assert call(*SEARCH, "--evaluations", str(EVALUATIONS // 2), "--out", str(run)) == 0
        with closing(EventLog.open(run / LOG, write=True)) as log:
            log.append("session", {"note": "é" * 9000}, elapsed=1.0)
            log.append("incident", encode_incident(INCIDENT), elapsed=1.0)
        assert call("resume", str(run), "--evaluations", str(EVALUATIONS)) == 0
    return run


@pytest.fixture
def run(template: Path, tmp_path: Path, table_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, in the directory where commands run."""
    monkeypatch.setenv("NASPLAT_DATA", str(table_folder))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(template, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `nasplat ARGUMENTS` in this process."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = call(*arguments)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def events_of(run: Path) -> list[Event]:
    with closing(EventLog.open(run / LOG)) as log:
        return list(log.events())


def trials(run: Path) -> list[Outcome]:
    """The outcomes of a run without what they took."""
    return [replace(outcome, spent=Spent()) for outcome in RunDirectory(run).history().outcomes]


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# What is whole


@pytest.mark.slow
def test_a_healthy_run_says_so_and_is_copied_if_asked(run: Path, command: CommandLine) -> None:
    before = content(run)
    done = command("recover", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing to recover: run is whole")
    summary = json.loads(command("recover", "run", "--json").stdout)
    assert (summary["healthy"], summary["gap"], summary["events_lost"]) == (True, None, 0)
    assert command("recover", "run", "--out", "copy").returncode == 0
    assert events_of(run.with_name("copy")) == events_of(run)
    assert not (run.with_name("copy") / BEYOND).exists()
    assert content(run) == before


# Damage


def header_version(path: Path) -> None:
    run_sql(path, "PRAGMA user_version = 9")


def header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:100] = random.Random(0).randbytes(100)
    path.write_bytes(content)


def root_page(path: Path) -> None:
    """The inner page that leads to all others."""
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)


def page_headers(path: Path) -> None:
    """What says of every page what it is, the schema's included."""
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        if content[start] in (5, 13):  # pages of a table; others go on with a text that is longer than a page
            content[start : start + 8] = b"\xff" * 8
    content[100:108] = b"\xff" * 8
    path.write_bytes(content)


def foreign_schema(path: Path) -> None:
    run_sql(path, "ALTER TABLE events RENAME TO those", "CREATE VIEW events AS SELECT * FROM those")


@pytest.mark.parametrize("damage", [header_version, header, root_page, page_headers, foreign_schema])
def test_damage_that_leaves_the_rows_loses_nothing(
    damage: Callable[[Path], None], run: Path, template: Path, command: CommandLine
) -> None:
    damage(run / LOG)
    before = content(run)
    for name in ("show", "report", "resume"):
        done = command(name, "run")
        assert done.returncode == 1
        assert "nasplat recover run --out NEW" in done.stderr
    done = command("recover", "run", "--out", "new")
    assert done.returncode == 0, done.stderr
    assert content(run) == before
    new = run.with_name("new")
    assert events_of(new) == events_of(template)
    assert (new / CONFIG).read_bytes() == (run / CONFIG).read_bytes()
    assert (new / ENVIRONMENT).read_bytes() == (run / ENVIRONMENT).read_bytes()


def body_of_event(path: Path) -> None:
    run_sql(path, "UPDATE events SET body = '{' WHERE seq = 100")


def no_event(path: Path) -> None:
    run_sql(path, "PRAGMA secure_delete = ON", "DELETE FROM events WHERE seq = 100")


def text_that_is_none(path: Path) -> None:
    run_sql(path, "UPDATE events SET body = CAST(x'7b22ff227d' AS TEXT) WHERE seq = 100")


def other_seed(path: Path) -> None:
    run_sql(
        path,
        """UPDATE events SET body = replace(body, '"seed":', '"seed":1') WHERE seq =
        (SELECT min(seq) FROM events WHERE seq >= 100 AND kind = 'ask')""",
    )


def other_architecture(path: Path) -> None:
    run_sql(
        path,
        """UPDATE events SET body = replace(body, '"evaluate":"', '"evaluate":"0000000') WHERE seq =
        (SELECT min(seq) FROM events WHERE seq >= 100 AND kind = 'ask')""",
    )


def told_twice(path: Path) -> None:
    run_sql(
        path,
        """UPDATE events SET kind = 'outcome', body = (SELECT body FROM events WHERE kind = 'outcome' AND seq > 80
        ORDER BY seq LIMIT 1) WHERE seq = 100""",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [body_of_event, no_event, text_that_is_none, other_seed, other_architecture, told_twice]
)
def test_the_log_is_saved_up_to_the_gap_and_goes_on_to_the_same_trials(
    damage: Callable[[Path], None], run: Path, template: Path, command: CommandLine
) -> None:
    damage(run / LOG)
    before = content(run)
    done = command("recover", "run", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert not said["healthy"]
    assert said["gap"]["event"] in (100, 101)
    assert said["beyond_the_gap"] > 50
    text = command("recover", "run").stdout
    assert f"before event {said['gap']['event']}" in text
    assert "nasplat recover run --out NEW" in text
    assert content(run) == before
    assert json.loads(command("recover", "run", "--out", "new", "--json").stdout)["saved"] == said["saved"]
    assert content(run) == before
    new = run.with_name("new")
    kept = events_of(new)
    assert kept == events_of(template)[: said["gap"]["event"] - 1]
    lines = [json.loads(line) for line in (new / BEYOND).read_text().splitlines()]
    assert len(lines) == said["beyond_the_gap"]
    bodies = {event.body["id"]: event.body for event in events_of(template) if event.kind == "outcome"}
    assert all(line["outcome"] == bodies[line["outcome"]["id"]] for line in lines)
    assert json.loads((new / NOTE).read_text())["gap"] == said["gap"]
    assert command("resume", "new").returncode == 0
    assert trials(new) == trials(template)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_pages_of_noise_cost_what_was_in_them_and_no_more(
    seed: int, run: Path, template: Path, command: CommandLine
) -> None:
    chance = random.Random(seed)
    content = bytearray((run / LOG).read_bytes())
    for _ in range(chance.randrange(1, 4)):
        start = chance.randrange(len(content) // 4096) * 4096
        content[start : start + 4096] = chance.randbytes(4096)
    (run / LOG).write_bytes(content)
    original = {event.seq: event for event in events_of(template)}
    found = salvage(run)
    assert all(original[seq] in readings for seq, readings in found.events.items())
    assert len(found.events) > len(original) // 2
    first_lost = min(set(original) - set(found.events), default=len(original) + 1)
    assert [event.seq for event in found.prefix] == list(range(1, first_lost))
    assert command("recover", "run", "--out", "new").returncode == 0
    assert command("resume", "new").returncode == 0
    assert trials(run.with_name("new")) == trials(template)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_log_cut_short_is_saved_as_far_as_it_goes(kept: float, run: Path, template: Path) -> None:
    whole = (run / LOG).read_bytes()
    (run / LOG).write_bytes(whole[: int(kept * len(whole))])
    found = salvage(run)
    assert not found.healthy
    original = events_of(template)
    assert found.prefix == original[: len(found.prefix)]
    assert len(found.prefix) > kept * 0.7 * len(original)


def killed(run: Path) -> tuple[list[Event], bytes]:
    """Leave a run as a killed writer does, with its last events in the side file; all events, and that file."""
    events = events_of(run)
    (run / LOG).unlink()
    EventLog.create(run / LOG).close()
    log = EventLog.open(run / LOG, write=True)
    for event in events[:150]:
        log.append(event.kind, event.body, elapsed=event.elapsed)
    log.close()
    log = EventLog.open(run / LOG, write=True)
    log._connection.execute("PRAGMA wal_autocheckpoint = 0")
    for event in events[150:]:
        log._unsynced = False
        log.append(event.kind, event.body, elapsed=event.elapsed)
    main, side = (run / LOG).read_bytes(), run.joinpath(f"{LOG}-wal").read_bytes()
    log.close()
    (run / LOG).write_bytes(main)
    run.joinpath(f"{LOG}-wal").write_bytes(side)
    return events, side


@pytest.mark.parametrize("at", [0.0, 0.3, 0.7])
def test_events_behind_damage_in_the_side_file_are_saved(at: float, run: Path, command: CommandLine) -> None:
    events, side = killed(run)
    assert events_of(run) == events
    hurt = bytearray(side)
    start = int(at * len(hurt))
    hurt[start : start + 24] = random.Random(1).randbytes(24)
    (run / f"{LOG}-wal").write_bytes(hurt)
    before = {name: data for name, data in content(run).items() if not name.endswith("-shm")}
    command("show", "run")  # which reads as far as SQLite does, and takes nothing away
    assert command("recover", "run", "--out", "new").returncode == 0
    assert {name: data for name, data in content(run).items() if not name.endswith("-shm")} == before
    assert events_of(run.with_name("new")) == events


@pytest.mark.slow
def test_a_damaged_side_file_is_told_and_not_written_over(run: Path, command: CommandLine) -> None:
    _, side = killed(run)
    hurt = bytearray(side)
    hurt[len(hurt) // 2] ^= 1
    (run / f"{LOG}-wal").write_bytes(hurt)
    before = {name: data for name, data in content(run).items() if not name.endswith("-shm")}
    for arguments in (["show", "run", "--json"], ["runs", ".", "--json"], ["test", "run", "--json"]):
        done = command(*arguments)
        assert done.stderr.count("warning: ") == 1, done.stderr
        assert "nasplat recover" in done.stderr
        if arguments[0] == "test":  # which records what it measures
            assert (done.returncode, done.stderr.count("error: ")) == (1, 1)
        else:
            assert json.loads(done.stdout)
    done = command("resume", "run")
    assert done.returncode == 1
    assert "error: the event log run/events.sqlite is damaged: frame " in done.stderr
    assert "nasplat recover run --out NEW" in done.stderr
    assert {name: data for name, data in content(run).items() if not name.endswith("-shm")} == before


@pytest.mark.slow
def test_a_flipped_bit_never_makes_a_run_shorter_without_a_word(run: Path) -> None:
    killed(run)
    files = [run / LOG, run / f"{LOG}-wal"]
    whole = [file.read_bytes() for file in files]
    outcomes, chance = len(RunDirectory(run).history().outcomes), random.Random(0)
    told = 0
    for _ in range(60):
        which = chance.randrange(2)
        hurt = bytearray(whole[which])
        bit = chance.randrange(8 * len(hurt))
        hurt[bit // 8] ^= 1 << bit % 8
        for file, data in zip(files, whole, strict=True):
            file.write_bytes(data)
        files[which].write_bytes(hurt)
        (run / f"{LOG}-shm").unlink(missing_ok=True)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                read = len(RunDirectory(run).history().outcomes)
        except RunError:
            told += 1
            continue
        assert warned or read == outcomes, (files[which].name, bit)
        if warned:
            told += 1
            with pytest.raises(RunError, match="nasplat recover"), RunDirectory(run).writing():
                pass
    assert told > 30


@pytest.mark.parametrize("kind", ["outcgme", "Outcome", ""])
def test_an_event_of_an_unknown_kind_is_damage_and_not_left_out(kind: str, run: Path, command: CommandLine) -> None:
    run_sql(
        run / LOG, f"UPDATE events SET kind = '{kind}' WHERE seq = (SELECT max(seq) FROM events WHERE kind = 'outcome')"
    )
    assert "unknown kind" in command("show", "run").stderr
    assert not salvage(run).healthy


def test_a_reader_of_a_killed_run_leaves_the_side_file(run: Path, command: CommandLine) -> None:
    killed(run)
    before = {name: data for name, data in content(run).items() if not name.endswith("-shm")}
    assert command("show", "run").returncode == 0
    assert {name: data for name, data in content(run).items() if not name.endswith("-shm")} == before


def test_a_side_file_alone_gives_what_it_has(run: Path) -> None:
    events, _ = killed(run)
    (run / LOG).unlink()
    found = salvage(run)
    assert set(range(152, len(events) + 1)) <= set(found.events)
    assert found.beyond


# Other files


def test_a_lost_environment_is_remade(run: Path, command: CommandLine) -> None:
    (run / ENVIRONMENT).write_text('{"versions": 3}')
    assert "nasplat recover run --out NEW" in command("report", "run").stderr
    done = command("recover", "run", "--out", "new")
    assert done.returncode == 0
    assert "environment    cannot be read" in done.stdout
    assert "python" in RunDirectory(run.with_name("new")).environment["versions"]


def test_a_lost_configuration_is_asked_for(run: Path, command: CommandLine) -> None:
    (run / CONFIG).replace(run.parent / "kept.yaml")
    for text in (None, "seed: ["):
        if text is not None:
            (run / CONFIG).write_text(text)
        before = content(run.parent)
        done = command("recover", "run", "--out", "new")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "--config FILE" in done.stderr
        assert content(run.parent) == before
    assert command("recover", "run", "--out", "new", "--config", "kept.yaml").returncode == 0
    assert events_of(run.with_name("new")) == events_of(run)


@pytest.mark.slow
def test_whole_artifacts_are_kept_and_damaged_ones_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: CommandLine
) -> None:
    monkeypatch.chdir(tmp_path)
    training = [
        "search", "--space", "nasbench201", "--set", "space.channels=1", "--set", "space.cells=1", "--benchmark",
        "classification", "--set", "benchmark.epochs=1", "--strategy", "random_search",
        "--objective", "accuracy:max", "--evaluations", "3", "--out", "run",
    ]  # fmt: skip
    assert command(*training).returncode == 0
    run = RunDirectory(tmp_path / "run")
    handles = [m.artifacts["weights"] for m in run.history().measurements]
    path = run.artifacts.path(handles[1])
    path.write_bytes(path.read_bytes()[:-1])
    done = command("recover", "run", "--out", "new", "--json")
    said: dict[str, Any] = json.loads(done.stdout)
    assert not said["healthy"]
    assert (said["saved"]["artifacts"], said["artifacts_damaged"]) == (2, 1)
    assert said["artifacts_missing"] == {handles[1].digest: [1]}
    new = RunDirectory(tmp_path / "new")
    assert [new.artifacts.path(handle).exists() for handle in handles] == [True, False, True]
    assert new.artifacts.get(handles[0]) == run.artifacts.get(handles[0])


@pytest.mark.slow
def test_a_damaged_snapshot_is_left_out(run: Path, command: CommandLine) -> None:
    with closing(EventLog.open(run / LOG, write=True)) as log:
        log.save_snapshot({"at": 1})
    assert "snapshot does not fit" in command("resume", "run", "--evaluations", str(EVALUATIONS + 5)).stderr
    run_sql(run / LOG, "UPDATE snapshots SET arrays = x'00'")
    assert "nasplat recover" in command("resume", "run", "--evaluations", str(EVALUATIONS + 5)).stderr
    assert command("recover", "run", "--out", "new").returncode == 0
    assert command("resume", "new", "--evaluations", str(EVALUATIONS + 5)).returncode == 0
    assert (
        len([m for m in RunDirectory(run.with_name("new")).history().outcomes if isinstance(m, Measurement)])
        > EVALUATIONS
    )


@pytest.fixture
def with_snapshot(tmp_path: Path, table_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with a snapshot in the middle of its log."""
    monkeypatch.setenv("NASPLAT_DATA", str(table_folder))
    monkeypatch.setattr(nasplat.driver.loop, "SNAPSHOT_EVENTS", 30)
    monkeypatch.chdir(tmp_path)
    assert call(*SEARCH, "--evaluations", "20", "--out", "run") == 0
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ('UPDATE snapshots SET body = replace(body, \'"split":"validation"\', \'"split":"x"\')', "does not fit"),
        ("UPDATE snapshots SET seq = 3", "other tasks than the log has"),
        ("UPDATE snapshots SET seq = 9000", "its snapshot follows event 9000"),
    ],
)
def test_a_snapshot_that_resuming_refuses_is_no_whole_run_and_has_one_remedy(
    damage: str, said: str, with_snapshot: Path, command: CommandLine
) -> None:
    assert salvage(with_snapshot).healthy
    events = events_of(with_snapshot)
    run_sql(with_snapshot / LOG, damage)
    refused = command("resume", "run", "--evaluations", "25")
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "nasplat recover" in refused.stderr
    assert "nasplat resume" not in refused.stderr
    assert events_of(with_snapshot)[: len(events)] == events
    looked = command("recover", "run")
    assert looked.stdout.startswith("damaged: run (")
    assert said in looked.stdout
    assert command("recover", "run", "--out", "new").returncode == 0
    assert command("resume", "new", "--evaluations", "25").returncode == 0


@pytest.mark.parametrize("record", ["", "[]", '{"training": {"format": 1}}', '{"table": 3}'])
def test_a_damaged_record_of_data_is_damage_with_one_remedy(
    record: str, with_snapshot: Path, command: CommandLine
) -> None:
    (with_snapshot / DATA).write_text(record)
    refused = command("resume", "run", "--evaluations", "25")
    assert refused.returncode == 1
    assert "data.json is damaged" in refused.stderr or "data.json, is damaged" in refused.stderr
    assert "nasplat recover" in refused.stderr
    assert "copy it again" not in refused.stderr
    looked = json.loads(command("recover", "run", "--json", "--out", "new").stdout)
    assert (looked["healthy"], looked["data"]) == (False, "to be left out")
    assert not (with_snapshot.with_name("new") / DATA).exists()
    assert command("resume", "new", "--evaluations", "25").returncode == 0


def test_what_could_not_be_checked_is_said(with_snapshot: Path, command: CommandLine) -> None:
    config = (with_snapshot / CONFIG).read_text()
    (with_snapshot / CONFIG).write_text(config.replace("  dataset: ", "  datasett: "))
    assert "no option of benchmark is named 'datasett'" in command("resume", "run").stderr
    assert "not checked    what the strategy asks for" in command("recover", "run").stdout


# What is refused


@pytest.mark.slow
def test_what_cannot_be_recovered_is_refused_and_nothing_is_created(run: Path, command: CommandLine) -> None:
    (run.parent / "file").write_text("mine")
    (run.parent / "empty").mkdir()
    before = content(run.parent)
    for arguments, code, said in (
        (["nowhere"], 2, "is not a directory"),
        (["x" * 300], 2, "is not a directory"),
        (["file"], 2, "is not a directory"),
        (["empty"], 2, "nothing can be recovered"),
        (["run", "--out", "run"], 2, "run exists"),
        (["run", "--out", "empty"], 2, "empty exists"),
        (["run", "--out", "file/new"], 2, "cannot be created"),
        (["run", "--out", "new", "--config", "nowhere"], 2, "cannot be read"),
    ):
        done = command("recover", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
        assert said in done.stderr
        assert content(run.parent) == before
    (run / LOG).write_bytes(random.Random(0).randbytes(9000))
    done = command("recover", "run", "--out", "new/deep")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was saved" in done.stderr
    assert not (run.parent / "new").exists()


@pytest.mark.slow
def test_a_run_that_is_being_written_is_not_recovered(run: Path, command: CommandLine) -> None:
    held = "import sys; from pathlib import Path; from nasplat.run.directory import RunDirectory\n"
    held += "with RunDirectory(Path('run')).writing(): print(flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        done = command("recover", "run", "--out", "new")
    finally:
        writer.communicate()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "being written by another process" in done.stderr
    assert not run.with_name("new").exists()


def test_incidents_are_recovered_with_the_rest(run: Path) -> None:
    assert RunDirectory(run).history().incidents == [INCIDENT]
    damaged = bytearray((run / LOG).read_bytes())
    damaged[:100] = bytes(100)  # without its header SQLite reaches nothing, and every event is found in the bytes
    (run / LOG).write_bytes(damaged)
    assert call("recover", str(run), "--out", "saved") == 0
    assert RunDirectory(Path("saved")).history().incidents == [INCIDENT]


def test_a_state_that_was_collected_is_not_missing(run: Path) -> None:
    with closing(EventLog.open(run / LOG, write=True)) as log:
        (trial,) = [e for e in log.events("outcome") if e.body["id"] == 0]
        log._connection.execute(
            "UPDATE events SET body = ? WHERE seq = ?",
            (json.dumps(trial.body | {"artifacts": {STATE: "ab" * 32}}), trial.seq),
        )
    found = salvage(run)
    assert found.healthy and not found.missing_artifacts


@pytest.mark.slow
def test_states_that_were_collected_beyond_the_gap_fail_their_trials_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A halving that lost an outcome goes on, though what some trials would continue from is gone."""
    monkeypatch.chdir(tmp_path)
    search = [
        "search", "--space", "nasbench201", "--set", "space.channels=2", "--set", "space.cells=1",
        "--benchmark", "classification", "--set", "benchmark.epochs=4", "--set", "benchmark.subset=400",
        "--strategy", "asha", "--set", "strategy.eta=2", "--objective", "accuracy:max",
    ]  # fmt: skip
    assert call(*search, "--evaluations", "24", "--out", "run") == 0
    with closing(sqlite3.connect("run/events.sqlite")) as connection, connection:
        bodies = connection.execute("SELECT seq, body FROM events WHERE kind = 'ask' ORDER BY seq").fetchall()
        continued = [task["id"] for _, body in bodies for task in json.loads(body)["tasks"] if "continues" in task]
        lost = continued[len(continued) // 2]
        outcomes = connection.execute("SELECT seq, body FROM events WHERE kind = 'outcome'").fetchall()
        connection.execute(
            "DELETE FROM events WHERE seq = ?", next((seq,) for seq, body in outcomes if json.loads(body)["id"] == lost)
        )
    found = salvage(Path("run"))
    assert not found.healthy and found.states_gone
    assert call("recover", "run", "--out", "saved") == 0
    assert call("resume", "saved") == 0
    history = RunDirectory(Path("saved")).history()
    assert len(history.outcomes) == 24
    assert {failure.kind for failure in history.failures} == {"artifact lost"}
    assert lost in {failure.id for failure in history.failures}
    assert len(history.failures) <= len(found.states_gone)


@pytest.fixture
def shared(shared_plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run whose strategy trained shared weights, and left those of its last generations."""
    monkeypatch.chdir(tmp_path)
    assert call(
        "search", "--space", "demo_perceptron", "--benchmark", "demo_shared", "--strategy", "demo_shared",
        "--objective", "accuracy:max", "--evaluations", "40", "--out", "run",
    ) == 0  # fmt: skip
    return tmp_path / "run"


def test_weights_that_later_ones_replaced_are_not_missing(shared: Path) -> None:
    run = RunDirectory(shared)
    measured = run.history().measured
    assert not all(run.artifacts.path(handle).exists() for m in measured for handle in m.artifacts.values())
    found = salvage(shared)
    assert found.healthy and not found.missing_artifacts and not found.states_gone


def test_shared_weights_that_are_lost_are_missing_with_all_their_trials(shared: Path) -> None:
    run = RunDirectory(shared)
    last = run.history().measured[-1]
    generation = [m.id for m in run.history().measured if m.task.weights == last.task.weights]
    assert last.task.weights is not None
    run.artifacts.path(last.task.weights).unlink()
    run.artifacts.path(last.artifacts["statistics"]).unlink()
    found = salvage(shared)
    assert not found.healthy
    assert found.missing_artifacts[last.task.weights.digest] == generation
    assert last.id in found.missing_artifacts[last.artifacts["statistics"].digest]
    assert last.task.weights.digest in found.states_gone, "the next training would go on from them"


def test_recovery_wants_what_a_strategy_without_handles_names_in_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {
        "space": "nasbench201",
        "benchmark": "zero_cost",
        "objectives": ["synflow:max"],
        "strategy": "random_search",
    }
    replay = _Replay(SearchConfig.read(tree | {"budget": {"evaluations": 1}}), None)
    strategy = ASHA(toy_problem())
    drive(strategy, trials=9)
    replay._strategy = strategy
    named = replay.wanted()
    monkeypatch.delattr(ASHA, "handles")
    assert named and replay.wanted() >= named


def test_what_an_answered_task_continued_from_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished halving is whole, also where its very last task went on from a state that was deleted since."""
    monkeypatch.chdir(tmp_path)
    search = [
        "search", "--space", "nasbench201", "--set", "space.channels=1", "--set", "space.cells=1",
        "--benchmark", "classification", "--set", "benchmark.epochs=2", "--set", "benchmark.subset=100",
        "--strategy", "asha", "--set", "strategy.eta=2", "--objective", "accuracy:max",
    ]  # fmt: skip
    assert call(*search, "--evaluations", "3", "--out", "run") == 0
    last = RunDirectory(Path("run")).history().measured[-1]
    assert (
        last.task.continues is not None and not RunDirectory(Path("run")).artifacts.path(last.task.continues).exists()
    )
    assert salvage(Path("run")).healthy


@pytest.mark.parametrize("place", ["n", "id", "seed", "fidelity"])
def test_an_absurd_number_in_an_ask_is_damage(place: str, run: Path, command: CommandLine) -> None:
    """An ask that is repeated makes as many proposals as it says."""
    with closing(sqlite3.connect(run / LOG)) as log, log:
        ((seq, text),) = log.execute("SELECT seq, body FROM events WHERE kind = 'ask' LIMIT 1")
        body = json.loads(text)
        (body if place == "n" else body["tasks"][0])[place] = 10**20
        log.execute("UPDATE events SET body = ? WHERE seq = ?", (json.dumps(body), seq))
    for words in (("show", str(run)), ("resume", str(run))):
        done = command(*words)
        assert done.returncode == 1
        assert f"event {seq} {place!r} must be from 0 to" in done.stderr
