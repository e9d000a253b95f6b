"""Retraining: given networks are trained to the end, as what a search found is before it is shipped."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from nasplat.architecture import Architecture
from nasplat.artifact import Handle
from nasplat.errors import InputError
from nasplat.problem import Problem
from nasplat.strategy import Strategy
from nasplat.task import STATE, Evaluate, Measurement, Outcome, Task, Teacher

DRAWN = 5
"""How many members are drawn where none are given."""
WEIGHTS = "weights"
"""The role under which a measurement leaves the network that it trained."""


@dataclass
class _Training:
    """One member trained with one seed, and how far it has come.

    Args:
        architecture: The member.
        seed: Which of the seeds.
        replicate: What its tasks call that: members whose networks compute the same have different ones.
        done: The fidelity that is behind it.
        state: What its next part continues from, until that is asked for.
        over: Whether no further part is to come.
    """

    architecture: Architecture
    seed: int
    replicate: int
    done: int = 0
    state: Handle | None = None
    over: bool = False


class Retraining(Strategy):
    """Trains given architectures to the end, with several seeds and checkpoints.

    A training is done in parts, each a task that continues from the state of the one before; so what is killed
    loses one part. The first parts of all trainings come first, in a fixed order, and so their seeds are fixed.
    Later parts take their randomness from the state, which makes their own seeds, and with them the order of tells
    and the number of workers, matter to no result. A benchmark that leaves no state on the way is asked for the whole
    afresh, with a seed that does depend on the order; one part for each training avoids that.

    With a teacher, the largest member is trained first, with all seeds, before the others begin; each learns in all
    of its parts from the one of its own seed (Hinton et al., 2015, "Distilling the knowledge in a neural network").

    A failure ends that training alone. Without a teacher to learn from, the trainings of its seed are left out.

    Args:
        problem: Where the members are from; its fidelity is the whole training.
        members: Their codes; by default five drawn at random, the baseline that picks are compared with.
        seeds: How often each is trained.
        checkpoints: In how many parts; no more than the benchmark has fidelities.
        teacher: Whether the others learn from the largest.

    Raises:
        InputError: A code names no member, or one that is not feasible.
    """

    replaces_parts = True

    def __init__(
        self,
        problem: Problem,
        *,
        members: Annotated[list[str], Field(min_length=1)] | None = None,
        seeds: Annotated[int, Field(ge=1)] = 1,
        checkpoints: Annotated[int, Field(ge=1)] = 10,
        teacher: bool = False,
    ) -> None:
        super().__init__(problem)
        self.members = members
        self.seeds = seeds
        self.checkpoints = checkpoints
        self.teacher = teacher
        self.teaches = teacher
        fidelities = list(problem.fidelities)
        parts = min(checkpoints, len(fidelities))
        self._fidelities = [fidelities[len(fidelities) * part // parts - 1] for part in range(1, parts + 1)]
        self._begin(_drawn(problem) if members is None else _given(problem, members))

    @property
    def progress(self) -> float:
        whole = self.problem.fidelity
        done = sum(whole if training.over else training.done for training in self._trainings)
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
        """Lay out all trainings, of which none has begun."""
        largest = max(members, key=lambda member: self.problem.cost(member).params)
        self._members = [largest, *(member for member in members if member != largest)] if self.teacher else members
        alike: Counter[str] = Counter()
        self._trainings: list[_Training] = []
        for member in self._members:
            key = self.problem.key(member)
            first = self.seeds * alike[key]
            alike[key] += 1
            self._trainings += [_Training(member, seed, first + seed) for seed in range(self.seeds)]
        # By seed, so that a retraining that is cut short has had all members.
        order = sorted(range(len(self._trainings)), key=lambda number: self._trainings[number].seed)
        self._teaching = self.teacher
        self._teachers: dict[int, Teacher] = {}
        self._waiting = deque(
            number for number in order if not self.teacher or self._is_teacher(self._trainings[number])
        )
        self._learners = [number for number in order if number not in self._waiting]
        self._outstanding: dict[int, int] = {}

    def _begin_learning(self) -> None:
        """Let all begin whose teacher has come to its end; only now, so that the order of tells changes no seed."""
        self._teaching = False
        for number in self._learners:
            if self._trainings[number].seed in self._teachers:
                self._waiting.append(number)
            else:
                self._trainings[number].over = True

    def _is_teacher(self, training: _Training) -> bool:
        return self.teacher and training.architecture == self._members[0]

    def _part(self, number: int) -> Evaluate:
        """The next part of a training, or the whole of one that cannot be continued."""
        training = self._trainings[number]
        state, training.state = training.state, None
        fidelity = next(each for each in self._fidelities if each > training.done)
        if training.done and state is None:
            fidelity = self.problem.fidelity
        task = self.problem.evaluate(
            training.architecture,
            fidelity=fidelity,
            replicate=training.replicate,
            continues=state,
            teacher=None if self._is_teacher(training) else self._teachers.get(training.seed),
        )
        self._outstanding[task.id] = number
        return task

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
    """The members of these codes, each once.

    Raises:
        InputError: One is no member, or is not feasible.
    """
    members = [problem.space.parse(code) for code in dict.fromkeys(codes)]
    for member in members:
        if not problem.feasible(member):
            limits = ", ".join(map(str, problem.limits)) or "membership in the benchmark"
            raise InputError(
                f"a member to be retrained is to be feasible, but {member} is not, under {limits}; leave it out"
            )
    return members


def _drawn(problem: Problem) -> list[Architecture]:
    """Random feasible members that differ; fewer than `DRAWN` where the candidates hold no more.

    Raises:
        InputError: There is none.
    """
    first = problem.sample()
    found = {problem.deduplication_key(first): first}
    for architecture in problem.candidates():
        if len(found) == DRAWN:
            break
        if problem.feasible(architecture):
            found.setdefault(problem.deduplication_key(architecture), architecture)
    return list(found.values())
