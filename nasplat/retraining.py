"""The schedule of a retraining: given networks are trained to the end, such as the results of a search."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from nasplat.architecture import Architecture
from nasplat.artifact import Handle
from nasplat.errors import InputError
from nasplat.problem import Problem
from nasplat.strategy import Strategy
from nasplat.task import STATE, Evaluate, FineTuning, Measurement, Outcome, Task, Teacher
from nasplat.transform import Transforming

RETRAINING = "retraining"
"""The kind of such a run, and what its configuration has in place of the name of a strategy."""
DRAWN = 5
"""Number of members that are drawn if none are given."""
WEIGHTS = "weights"
"""The role of the artifact with the network that a measurement trained."""


@dataclass
class _Training:
    """One member trained with one seed, and its progress.

    Args:
        architecture: The member.
        seed: The index of the seed.
        replicate: The replicate of its tasks; isomorphic members have different ones.
        done: The fidelity reached so far; -1 before a fit to an original.
        state: The state that its next part continues from, until that part is asked for.
        over: Whether there is no further part.
    """

    architecture: Architecture
    seed: int
    replicate: int
    done: int = 0
    state: Handle | None = None
    over: bool = False


class Retraining(Strategy):
    """Trains given architectures to the end, with several seeds and checkpoints.

    It proposes nothing, so it is no search strategy, and no plug-in: it makes a run of its own kind. The search loop
    runs it as it runs a strategy.

    A training is done in parts; each part is a task that continues from the state of the one before. So a kill loses
    at most one part. The first parts of all trainings come first, in a fixed order, so their seeds are fixed. Later
    parts take their randomness from the state. So the results do not depend on the seeds of these tasks, on the order
    of tells, or on the number of workers. If a benchmark leaves no state at a checkpoint, the whole training is asked
    for again, with a seed that does depend on the order; one part for each training avoids that.

    With a teacher, the largest member is trained first, with all seeds, before the others begin. Each of the others
    learns in all of its parts from the teacher with the same seed (Hinton et al., 2015, "Distilling the knowledge in a
    neural network").

    With originals, members are transformed networks. Their weights are first fitted to those of the original, which is
    measured as fidelity 0, and then fine-tuned; they learn from the original too if the benchmark distills.

    A failure ends only that training. If a teacher fails, the trainings with its seed are left out.

    Args:
        problem: The problem that the members belong to; its fidelity is the whole training.
        members: The codes of the members; by default five drawn at random, the baseline that picks are compared with.
        seeds: Number of trainings of each member.
        checkpoints: Number of checkpoints; a kill loses at most the part since the last one. At most the number of the
            benchmark's fidelities.
        teacher: Whether the others learn from the largest member.
        originals: The artifacts with the weights of the original networks, by the codes of the members.

    Raises:
        InputError: A code is not a member, or the member is not feasible; or the members have originals, but are not
            transformed.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        members: Annotated[list[str], Field(min_length=1)] | None = None,
        seeds: Annotated[int, Field(ge=1)] = 1,
        checkpoints: Annotated[int, Field(ge=1)] = 10,
        teacher: bool = False,
        originals: dict[str, str] | None = None,
    ) -> None:
        super().__init__(problem)
        if originals and not isinstance(problem.space, Transforming):
            raise InputError(
                f"originals are the networks of a transformed space, but {problem.space.name} has no transform; leave "
                "strategy.originals out"
            )
        if missing := [code for code in members or () if originals and code not in originals]:
            raise InputError(f"every member needs an original, but {missing[0]} has none; add it to strategy.originals")
        self.originals = originals
        self.members = members
        self.seeds = seeds
        self.checkpoints = checkpoints
        self.teacher = teacher
        fidelities = list(problem.fidelities)
        parts = min(checkpoints, len(fidelities))
        self._fidelities = [fidelities[len(fidelities) * part // parts - 1] for part in range(1, parts + 1)]
        if originals:
            self._fidelities = [0, *self._fidelities]  # as fitted
        self._begin(_drawn(problem) if members is None else _given(problem, members))

    @property
    def progress(self) -> float:
        whole = self.problem.fidelity
        done = sum(whole if training.over else max(training.done, 0) for training in self._trainings)
        return done / (whole * len(self._trainings))

    def ask(self, n: int) -> list[Task]:
        return [self._part(self._waiting.popleft()) for _ in range(min(n, len(self._waiting)))]

    def tell(self, outcome: Outcome) -> None:
        number = self._outstanding.pop(outcome.id)
        training = self._trainings[number]
        if not isinstance(outcome, Measurement):
            training.over = True
        elif outcome.task.fidelity < self.problem.fidelity:
            training.done, training.state = outcome.task.fidelity, outcome.artifacts.get(STATE)
            self._waiting.append(number)
        else:
            training.over = True
            if self._is_teacher(training) and WEIGHTS in outcome.artifacts:
                weights = outcome.artifacts[WEIGHTS]
                self._teachers[training.seed] = Teacher(architecture=training.architecture, weights=weights)
        if self._teaching and all(training.over for training in self._trainings if self._is_teacher(training)):
            self._begin_learning()

    def _begin(self, members: list[Architecture]) -> None:
        """Make the list of all trainings; none has begun."""
        largest = max(members, key=lambda member: self.problem.cost(member).params)
        self._members = [largest, *(member for member in members if member != largest)] if self.teacher else members
        alike: Counter[str] = Counter()
        self._trainings: list[_Training] = []
        for member in self._members:
            key = self.problem.key(member)
            first = self.seeds * alike[key]
            alike[key] += 1
            begun = -1 if self.originals else 0
            self._trainings += [_Training(member, seed, first + seed, begun) for seed in range(self.seeds)]
        # Ordered by seed, so that a retraining that stops early has trained all members.
        order = sorted(range(len(self._trainings)), key=lambda number: self._trainings[number].seed)
        self._teaching = self.teacher
        self._teachers: dict[int, Teacher] = {}
        self._waiting = deque(
            number for number in order if not self.teacher or self._is_teacher(self._trainings[number])
        )
        self._learners = [number for number in order if number not in self._waiting]
        self._outstanding: dict[int, int] = {}

    def _begin_learning(self) -> None:
        """Start the trainings whose teachers are complete; not earlier, so that the order of tells changes no seed."""
        self._teaching = False
        for number in self._learners:
            if self._trainings[number].seed in self._teachers:
                self._waiting.append(number)
            else:
                self._trainings[number].over = True

    def _is_teacher(self, training: _Training) -> bool:
        return self.teacher and training.architecture == self._members[0]

    def _part(self, number: int) -> Evaluate:
        """The next part of a training, or the whole training if it cannot be continued."""
        training = self._trainings[number]
        state, training.state = training.state, None
        fidelity = next(each for each in self._fidelities if each > training.done)
        if training.done > 0 and state is None:
            fidelity = self.problem.fidelity
        original = self._original(training.architecture)
        tuning = None
        if original is not None:
            whole = self.problem.fidelity
            tuning = FineTuning(weights=original.weights, begun=0, epochs=whole, original=original.architecture)
        task = self.problem.evaluate(
            training.architecture,
            fidelity=fidelity,
            replicate=training.replicate,
            continues=state,
            teacher=(original if self.problem.distills else None)
            or (None if self._is_teacher(training) else self._teachers.get(training.seed)),
            tuning=tuning,
        )
        self._outstanding[task.id] = number
        return task

    def _original(self, architecture: Architecture) -> Teacher | None:
        """The network that an architecture's weights are fitted to, if there is one."""
        space = self.problem.space
        if not self.originals or not isinstance(space, Transforming):
            return None
        return Teacher(architecture=space.base(architecture), weights=Handle(self.originals[architecture.code]))

    def handles(self) -> set[Handle]:
        """The states that trainings continue from, and the weights of teachers and originals."""
        states = {training.state for training in self._trainings if training.state}
        originals = {Handle(digest) for digest in (self.originals or {}).values()}
        return states | originals | {teacher.weights for teacher in self._teachers.values()}

    def get_state(self) -> dict[str, Any]:
        return {
            "members": [member.code for member in self._members],
            "trainings": [
                [training.done, training.state and training.state.digest, training.over] for training in self._trainings
            ],
            "teaching": self._teaching,
            "teachers": [[seed, teacher.weights.digest] for seed, teacher in self._teachers.items()],
            "waiting": list(self._waiting),
            "outstanding": [[task, number] for task, number in self._outstanding.items()],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._begin([self.problem.space.parse(code) for code in state["members"]])
        for training, (done, digest, over) in zip(self._trainings, state["trainings"], strict=True):
            training.done, training.state, training.over = done, digest and Handle(digest), over
        self._teaching = state["teaching"]
        self._teachers = {
            seed: Teacher(architecture=self._members[0], weights=Handle(digest)) for seed, digest in state["teachers"]
        }
        self._waiting = deque(state["waiting"])
        self._outstanding = {task: number for task, number in state["outstanding"]}


def _given(problem: Problem, codes: list[str]) -> list[Architecture]:
    """The members with these codes, each once.

    Raises:
        InputError: A code is not a member, or the member is not feasible.
    """
    members = [problem.space.parse(code) for code in dict.fromkeys(codes)]
    for member in members:
        if not problem.feasible(member):
            limits = ", ".join(map(str, problem.limits)) or "the conditions of the benchmark"
            raise InputError(
                f"only a feasible member can be retrained, but {member} is not feasible under {limits}; leave it out"
            )
    return members


def _drawn(problem: Problem) -> list[Architecture]:
    """Different random feasible members; fewer than `DRAWN` if the candidates have no more.

    Raises:
        InputError: There is no feasible member.
    """
    first = problem.sample()
    found = {problem.deduplication_key(first): first}
    for architecture in problem.candidates():
        if len(found) == DRAWN:
            break
        if problem.feasible(architecture):
            found.setdefault(problem.deduplication_key(architecture), architecture)
    return list(found.values())
