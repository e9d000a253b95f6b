"""Image classification, measured by training each architecture from scratch, or with the weights of a supernet."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import AfterValidator, Field

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts, Handle
from nasplat.benchmark import Preprocessing, SupernetBenchmark
from nasplat.data.dataset import Dataset
from nasplat.data.datasets import brings_teacher, dataset, located
from nasplat.data.examples import Splits
from nasplat.data.manifest import DATA, manifest_of, manifests, recorded_images
from nasplat.data.options import DataOptions
from nasplat.errors import InputError, TrialFailed
from nasplat.latency.conditions import Conditions
from nasplat.latency.known import LatencyKnown
from nasplat.latency.options import LatencyOptions
from nasplat.search_space import SearchSpace, SupernetSpace
from nasplat.task import LAYERS, STATE, Evaluate, Measurement, Spent, Trained, TrainSupernet
from nasplat.training.options import RecipeOptions, SharedWeightsOptions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

    from nasplat.nn.supernet import Supernet
    from nasplat.training.distillation import Distillation
    from nasplat.training.recipe import Recipe

    _Measurable: TypeAlias = tuple[nn.Module, dict[str, dict[str, Tensor]], int]
    """A network to measure, its tensors to keep by role, and the number of images processed in its training."""

STATISTICS = "statistics"
"""The role of batch norm's statistics. Together with the shared weights they are the measured network."""

AIDS = ("cutout", "drop_path", "auxiliary", "ema", "label_smoothing", "distillation")
"""The options that aid the training of single networks. They have no effect with shared weights."""

LATENCY = ("latency_ms", "latency_iqr_ms", "latency_batch", "latency_threads")
"""The metrics of a measured latency: its median and interquartile range, and the batch size and threads."""


class Classification(LatencyKnown, SupernetBenchmark):
    """Image classification: trains networks, measures validation accuracy.

    Networks train on the training split. The test split is used only in the final measurement.

    Fidelity is the number of epochs, at most `epochs`. The schedule of the learning rate always spans all `epochs`.
    The trained weights are kept with the measurement, so the measured network is the exported one. A measurement at a
    lower fidelity also leaves its `state`. A task that continues from this state gives the same result, to the bit on
    one CPU, as an uninterrupted one.

    With shared weights, `epochs` is the whole training of the supernet, by the same recipe, over however many tasks.
    The aids for the training of single networks, from `cutout` to `distillation`, are not used there. A single path is
    not trained: its batch norm is recalibrated, and the resulting statistics are kept. In a fine-tuning, the rate falls
    from its highest by a cosine over the epochs of that, whatever the schedule, and batch norm is recalibrated as well.

    Args:
        space: The search space of the networks.
        dataset: The data set's name; `nasplat list datasets` shows them.
        epochs: Passes over the training images in a full measurement.
        data: The location of the files, and how much of the data set is used.
        recipe: How networks are trained.
        shared_weights: How the weights of a supernet are trained and used.
        latency: Whether latency is measured or read from a table.
    """

    fine_tunes: ClassVar[bool] = True
    fits_originals: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "loss")
    former_options: ClassVar[Mapping[str, str]] = {
        "data_folder": "data.folder",
        **{name: f"data.{name}" for name in ("download", "subset", "side")},
        **{name: f"recipe.{name}" for name in RecipeOptions.model_fields},
        **{name: f"shared_weights.{name}" for name in SharedWeightsOptions.model_fields},
        **{f"latency_{name}": f"latency.{name}" for name in LatencyOptions.model_fields},
    }

    def __init__(
        self,
        space: SearchSpace,
        *,
        dataset: Annotated[str, AfterValidator(located)] = "digits",
        epochs: Annotated[int, Field(ge=1)] = 10,
        data: DataOptions = DataOptions(),
        recipe: RecipeOptions = RecipeOptions(),
        shared_weights: SharedWeightsOptions = SharedWeightsOptions(),
        latency: LatencyOptions = LatencyOptions(),
    ) -> None:
        super().__init__(space)
        self.dataset = dataset
        self.epochs = epochs
        self.data = data
        self.recipe = recipe
        self.shared_weights = shared_weights
        self.latency = latency
        self.distills, self.has_teacher = recipe.distillation > 0, brings_teacher(dataset)
        self.latency_table = latency.table
        self.measured_under = Conditions(latency.engine, latency.threads, latency.batch or 1)
        more = (*self.varying_metrics, *(LATENCY if latency.batch else ()))  # by the space, and by an option
        self.metrics = (*self.metrics, *more)  # type: ignore[misc]
        if latency.batch:
            self.code_metrics = frozenset(LATENCY)
            self.alone = True
        self._loaded: dict[str, Splits] = {}
        self._labellers: dict[str, nn.Module] = {}
        self._shared: tuple[Handle, str, Supernet, int] | None = None

    @cached_property
    def _dataset(self) -> Dataset:
        return dataset(self.dataset, self.data.source(manifest_of(self.recorded, DATA)))

    @property
    def protocol(self) -> str:
        return self.latency_protocol

    @property
    def io(self) -> IO:
        return self._dataset.io

    @property
    def fidelity(self) -> int:
        return self.epochs

    def check(self) -> None:
        if self.latency.table is not None and self.latency.batch:
            raise InputError(
                f"latency is either measured or read from a table, but got both latency.batch={self.latency.batch} and "
                f"latency.table={self.latency.table}; leave one out"
            )
        if self.latency.engine != "torch" and not self.latency.batch:
            raise InputError(
                f"latency.engine={self.latency.engine} has no effect, since latency.batch=0 measures none; add --set "
                "benchmark.latency.batch=1 (options={'benchmark.latency.batch': 1}), or leave the engine out"
            )
        self.recipe.check()
        self._dataset.check()
        self.check_table()

    def record_data(self) -> dict[str, Any]:
        return {**super().record_data(), **manifests(DATA, self._dataset.record)}

    def accept_data(self) -> dict[str, Any]:
        return {**super().accept_data(), **manifests(DATA, self._dataset.accept)}

    def data_notes(self) -> Sequence[str]:
        notes = self._dataset.survey().notes()
        images = recorded_images(self.recorded, DATA, self.data.subset)
        if self.recipe.warmup_steps is not None:
            self.prepare()  # refuses too long a warm-up before workers start
        if images is not None and (note := self.recipe.note(images)):
            notes = (*notes, note)
        return notes

    def check_supernet(self) -> None:
        if not isinstance(self.space, SupernetSpace):
            raise InputError(
                f"weights are shared in a supernet, but the search space {self.space.name} has none"
                f"{f' ({self.space.no_supernet})' * bool(self.space.no_supernet)}; take a space with "
                "a supernet, such as --space nasbench201 (space='nasbench201')"
            )
        self.shared_weights.check(self.space)
        for name in AIDS:
            if value := getattr(self.recipe, name):
                raise InputError(
                    f"recipe.{name} has no effect on shared weights, only on the training of single networks, but got "
                    f"{value}; leave out benchmark.recipe.{name} here, and give it to the retraining"
                )

    def prepare(self) -> None:
        images = len(self._splits("cpu").training)
        self.recipe.check_warmup(self.epochs * (images // min(self._recipe("cpu").batch_size, images)))

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.training.fit import evaluate

        least, most = 1, self.epochs
        if (tuning := task.tuning) is not None:
            least, most = tuning.begun + (tuning.original is None), tuning.end
        if not least <= task.fidelity <= most:
            raise TrialFailed(
                "no such fidelity", f"the fidelity must be between {least} and {most} epochs, but is {task.fidelity}"
            )
        measurable = self._fitted if task.weights is None else self._recalibrated
        network, left, processed = measurable(task, device, artifacts)
        by_batch = task.weights is not None and self.shared_weights.statistics == "batch"
        macs = self.varying_macs(task.architecture)
        metrics = evaluate(network, self._splits(device).validation, stratified=by_batch, macs=macs)
        if not math.isfinite(metrics["loss"]):  # the last steps can diverge after their own loss was computed
            raise TrialFailed("diverged", f"the validation loss is {metrics['loss']}")
        if self.latency.batch:
            metrics |= self._latency(network, device)
        kept = {role: artifacts.put_tensors(tensors) for role, tensors in left.items() if tensors or role == "weights"}
        return Measurement(task=task, metrics=metrics, artifacts=kept, spent=Spent(images=processed))

    def train(
        self, task: TrainSupernet, *, device: str, artifacts: Artifacts, group: "ProcessGroup | None" = None
    ) -> Trained:
        from nasplat.sampling.paths import path_sampler
        from nasplat.training.path_sampling import largest_and_smallest, sampler
        from nasplat.training.seeding import seeded
        from nasplat.training.states import named, named_state
        from nasplat.training.supernet import SupernetTraining

        options, given = self.shared_weights, task.architectures
        paths = options.paths_of(given)
        ends = largest_and_smallest(self.space, self.io, given) if options.sandwich else None
        with seeded(task.seed, device):
            training = SupernetTraining(
                self._fresh_supernet().to(device),
                self._splits(device).training,
                self._recipe(device),
                draw=sampler(options.sampling, self.space, given),
                paths=paths,
                epochs=self.epochs,
                seed=task.seed,
                augment=self._augmentation(device),
                group=group,
                ends=ends,
                decay=options.decay,
                sampler=path_sampler(options.sampling, self.space, given, task.seed),
            )
            if task.weights is not None:
                training.go_on_from(named_state(task.weights, self._supernets_name, artifacts))
            processed = training.further(task.epochs)
            state = named(training.state(), self._supernets_name)
        return Trained(task=task, weights=artifacts.put_tensors(state), spent=Spent(images=processed))

    @property
    def members(self) -> int:
        return self.shared_weights.paths

    def state_dict(self, measurement: Measurement, *, artifacts: Artifacts) -> "dict[str, Tensor]":
        task = measurement.task
        if task.weights is None:
            return super().state_dict(measurement, artifacts=artifacts)
        if self.shared_weights.statistics == "batch":
            raise InputError(
                f"trial {measurement.id} was measured with batch statistics, and a network with batch statistics "
                "cannot be exported; search with --set benchmark.shared_weights.statistics=recalibrated "
                "(options={'benchmark.shared_weights.statistics': 'recalibrated'})"
            )
        path = self._path(task.architecture, task.weights, task.fidelity, "cpu", artifacts)
        weights: dict[str, Tensor] = dict(path.state_dict())
        left = measurement.artifacts.get(STATISTICS)
        return weights if left is None else weights | artifacts.get_tensors(left)

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        from nasplat.training.fit import evaluate

        model = self._trained(measurement, artifacts).to(device)
        latency = {name: measurement.metrics[name] for name in LATENCY if name in measurement.metrics}
        macs = self.varying_macs(measurement.task.architecture)
        return Measurement(
            task=measurement.task,
            metrics=evaluate(model, self._splits(device).test, macs=macs) | latency,  # latency belongs to no split
            split="test",
            artifacts=measurement.artifacts,
        )

    def inputs(self, count: int) -> "Tensor | None":
        validation = self._splits("cpu").validation
        return validation.batch(validation.order[:count])[0]

    def preprocessing(self) -> Preprocessing | None:
        manifest = manifest_of(self.recorded, DATA)
        side = None if manifest is None else manifest.side and self.io.input_shape[1]
        scaling = None if manifest is None else manifest.scaling(side, self.data.subset)  # an export needs no data
        scaling = scaling or self._splits("cpu").training.scaling or self._dataset.scaling()
        if scaling is None or len(self.io.input_shape) != 3:
            return None
        channels, height, width = self.io.input_shape
        return Preprocessing(
            channels=channels,
            height=height,
            width=width,
            mean=tuple(scaling.mean.flatten().tolist()),
            std=tuple(scaling.std.flatten().tolist()),
            white=self._dataset.white,
            classes=self._dataset.classes or tuple(map(str, range(self.io.outputs))),
            most_pixels=self.data.most_pixels,
        )

    def _fitted(self, task: Evaluate, device: str, artifacts: Artifacts) -> "_Measurable":
        """The network, trained from scratch, fine-tuned from shared weights, or resumed from its checkpoint."""
        from nasplat.nn.counting import built
        from nasplat.nn.rewritten import calibrate, check
        from nasplat.training.fit import ClassifierTraining
        from nasplat.training.seeding import seeded
        from nasplat.training.states import named, train_for, transformed_network
        from nasplat.training.supernet import recalibrate_path

        recipe = self.recipe.aided(self._recipe(device))
        begun, epochs = 0, self.epochs
        if (tuning := task.tuning) is not None:
            begun, epochs = tuning.begun, tuning.epochs
            recipe = replace(recipe, schedule="cosine", warmup_steps=None)  # what is trained needs no rise
        examples = self._splits(device).training
        with seeded(task.seed, device):
            if tuning is None or task.continues is not None:  # a state has the weights
                network = built(self.space, task.architecture, self.io).to(device)
            elif tuning.original is not None:
                network = transformed_network(task, self.space, self.io, device, artifacts)
            else:
                network = self._path(task.architecture, tuning.weights, begun, device, artifacts)
            training = ClassifierTraining(
                network,
                examples,
                recipe,
                epochs=epochs,
                seed=task.seed,
                augment=self._augmentation(device, cutout=self.recipe.cutout),
                distillation=self._distillation(task, device, artifacts),
            )
            check(training.network, self.io)
            processed = train_for(task, training, artifacts, epochs=task.fidelity - begun)
            left: dict[str, dict[str, Tensor]] = {}
            if task.fidelity < begun + epochs:
                left[STATE] = named(training.state(), str(task.architecture))
            # Running statistics lag behind weights that few steps, or a fit, have changed much.
            if tuning is not None and tuning.original != task.architecture:
                recalibrate_path(training.network, "recalibrated", examples, self.shared_weights.calibration)
            left[LAYERS] = calibrate(training.network, lambda count: list(examples.sample(count)))
            left["weights"] = training.network.state_dict()
        return training.network, left, processed

    def _distillation(self, task: Evaluate, device: str, artifacts: Artifacts) -> "Distillation | None":
        """The distillation of the task's network from its teacher, else from what labelled the data, if any."""
        from nasplat.training.seeding import seeded
        from nasplat.training.states import trained_network

        if not self.recipe.distillation:
            return None
        if task.teacher is not None:
            of, weights = task.teacher.architecture, task.teacher.weights
            teacher = trained_network(self.space, of, weights, self.io, artifacts, called="the teacher's weights")
            return self.recipe.taught_by(teacher.to(device))
        if (read := self._dataset.teacher) is not None and device not in self._labellers:
            with seeded(0):  # the training's draws do not depend on whether it is read here
                self._labellers[device] = read().to(device)
        return self.recipe.taught_by(self._labellers[device]) if read is not None else None

    def _recalibrated(self, task: Evaluate, device: str, artifacts: Artifacts) -> "_Measurable":
        """The network with a copy of the shared weights, and its own batch-norm statistics."""
        from nasplat.nn.rewritten import calibrate
        from nasplat.training.supernet import recalibrate_path

        assert task.weights is not None
        network = self._path(task.architecture, task.weights, task.fidelity, device, artifacts)
        options = self.shared_weights
        examples = self._splits(device).training
        recalibrate_path(network, options.statistics, examples, options.calibration)
        layers = calibrate(network, lambda count: list(examples.sample(count)))
        statistics = dict(network.named_buffers()) if options.statistics == "recalibrated" else {}
        return network, {STATISTICS: statistics, LAYERS: layers}, 0

    def _path(
        self, architecture: Architecture, weights: Handle, epochs: int, device: str, artifacts: Artifacts
    ) -> "nn.Module":
        """The network with a copy of shared weights of an epoch. The supernet with the newest ones is cached."""
        from nasplat.nn.counting import check_params
        from nasplat.training.seeding import seeded
        from nasplat.training.states import named_state
        from nasplat.training.supernet import epochs_behind, load

        if self._shared is None or self._shared[:2] != (weights, device):
            state = named_state(weights, self._supernets_name, artifacts)
            with seeded(0):  # whatever it is made with is replaced
                supernet = self._fresh_supernet()
            try:
                load(supernet, state)
            except RuntimeError as error:  # torch refuses weights of another shape so
                raise TrialFailed(
                    "another network", f"the shared weights do not fit this supernet: {' '.join(str(error).split())}"
                ) from None
            self._shared = weights, device, supernet.to(device), epochs_behind(state)
        *_, supernet, trained = self._shared
        if epochs != trained:
            raise TrialFailed(
                "no such fidelity",
                f"the fidelity must be the number of epochs that the shared weights were trained for, {trained}, but "
                f"is {epochs}",
            )
        network = supernet.extract(architecture)
        check_params(network, self.space, architecture, self.io)
        return network

    def _fresh_supernet(self) -> "Supernet":
        if not isinstance(self.space, SupernetSpace):
            raise TrialFailed("no supernet", f"the search space {self.space.name} has no supernet")
        return self.space.supernet(self.io)

    @property
    def _supernets_name(self) -> str:
        return f"the supernet of {self.space.name}"

    def _recipe(self, device: str) -> "Recipe":
        return self.recipe.recipe(self._training_images(device), device)

    def _training_images(self, device: str) -> int:
        """The number of training images with which the run began, so that its batches stay as they are."""
        images = recorded_images(self.recorded, DATA, self.data.subset)
        return len(self._splits(device).training) if images is None else images

    def _augmentation(self, device: str, *, cutout: int = 0) -> "Callable[[Tensor], Tensor] | None":
        if not self.recipe.augment and not cutout:
            return None  # without loading torchvision, which every process that trains would wait for
        from torchvision.transforms import v2

        from nasplat.training.augmentation import CutoutEach, augmentation, mean

        training = self._splits(device).training
        changes = [augmentation(training.images, mirrored=self._dataset.mirrored)] if self.recipe.augment else []
        if cutout:
            changes.append(CutoutEach(cutout, mean(training)))
        augmented: Callable[[Tensor], Tensor] = v2.Compose(changes)
        return augmented

    def _latency(self, model: "nn.Module", device: str) -> dict[str, float]:
        from nasplat.latency.measuring import measure_latency

        under = self.latency
        found = measure_latency(
            model, self.io, batch=under.batch, threads=under.threads, device=device, engine=under.engine
        )
        return dict(zip(LATENCY, (found.median_ms, found.iqr_ms, found.batch, found.threads), strict=True))

    def _trained(self, measurement: Measurement, artifacts: Artifacts) -> "nn.Module":
        from nasplat.nn.counting import built
        from nasplat.training.seeding import seeded

        with seeded(measurement.task.seed):
            model = built(self.space, measurement.architecture, self.io)
        model.load_state_dict(self.state_dict(measurement, artifacts=artifacts))
        return model

    def _splits(self, device: str) -> Splits:
        """The data set on a device. It is read once."""
        if device not in self._loaded:
            self._loaded[device] = (self._loaded.get("cpu") or self._dataset.load()).to(device)
        return self._loaded[device]
