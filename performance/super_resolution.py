"""Super-resolution: bicubic by the protocol beside the published figures, and training one network to beat it.

    python performance/super_resolution.py bicubic
    python performance/super_resolution.py train --space esrn/small --code CODE --dataset bsds500 --minutes 5 --out FILE

A CODE is, for one, S_4_16_16,S_4_16_16,S_4_16_16, three shrink blocks.
Sets to test with are measured if they are in the data folder: Set5 (whose small pictures are for a check of shrinking),
Set14, BSD100, Urban100. Training is that of the benchmark. It leaves its state in FILE at least once a minute and goes
on from it when it is run again with the same options, as it was planned; how many steps there are in so many minutes is
tried out before.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from nasplat.architecture import Architecture
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.config import Workload
from nasplat.data.location import data_folder
from nasplat.data.picture_sets import Picture, picture_set, read_picture
from nasplat.data.resolution import PROTOCOL, as_tensor, bicubic_agreement, compared, luma, shrunk, upscaled, whole
from nasplat.errors import InputError, TrialFailed
from nasplat.storage.files import write_atomically
from nasplat.training.seeding import seeded
from nasplat.training.states import ARCHITECTURE, named
from nasplat.training.super_resolution import Pair, SuperResolutionTraining, evaluate

TESTS = "set5", "set14", "bsd100", "urban100"
PUBLISHED = {
    ("set5", 2): (33.66, 0.9299),
    ("set5", 3): (30.39, 0.8682),
    ("set5", 4): (28.42, 0.8104),
    ("set14", 2): (30.24, 0.8688),
    ("set14", 3): (27.55, 0.7742),
    ("set14", 4): (26.00, 0.7027),
    ("bsd100", 2): (29.56, 0.8431),
    ("bsd100", 3): (27.21, 0.7385),
    ("bsd100", 4): (25.96, 0.6675),
    ("urban100", 2): (26.88, 0.8403),
    ("urban100", 3): (24.46, 0.7349),
    ("urban100", 4): (23.14, 0.6577),
}
"""Bicubic's PSNR and SSIM as the literature has them (for one, Lim et al., 2017, "EDSR")."""
EPOCH = 20
"""Steps after which training looks at the clock."""
SAVED_EVERY_S = 45.0


def present() -> Iterator[tuple[str, tuple[Picture, ...]]]:
    """The sets to test with that are in the data folder."""
    for name in TESTS:
        try:
            yield name, picture_set(name).test
        except InputError:
            print(f"{name}: not in the data folder")


def bicubic() -> None:
    """Print bicubic's figures beside the published ones, and how shrinking agrees with Set5's small pictures."""
    for name, pictures in present():
        for scale in (2, 3, 4):
            rows = [bicubic_figures(each, scale) for each in pictures]
            found = [float(np.mean([row[metric] for row in rows])) for metric in ("psnr_db", "ssim")]
            psnr_db, ssim = PUBLISHED[name, scale]
            print(
                f"{name:8} x{scale}: {found[0]:.3f} dB/{found[1]:.4f}, published {psnr_db:.2f}/{ssim:.4f}, "
                f"difference {found[0] - psnr_db:+.3f} dB/{found[1] - ssim:+.4f}"
            )
    for scale in (2, 3, 4):
        given_small(scale)
    print(f"Protocol: {PROTOCOL.format(scale='the scale')}")


def bicubic_figures(picture: Picture, scale: int) -> dict[str, float]:
    """Bicubic's PSNR and SSIM on a picture."""
    original, grey = as_tensor(picture.read())
    return bicubic_agreement(whole(original, scale), scale, grey=grey)


def given_small(scale: int) -> None:
    """Compare with the small pictures that are handed on with Set5, if they are there."""
    for place in (data_folder() / "images/sr/Set5", data_folder() / "Set5"):
        folder = place / f"LR_bicubic_X{scale}"
        if folder.is_dir():
            break
    else:
        print(f"Set5 x{scale}: no LR_bicubic_X{scale} in the data folder")
        return
    differences, figures = [], []
    for picture in picture_set("set5").test:
        large = whole(as_tensor(picture.read())[0], scale)
        small, _ = as_tensor(read_picture(folder / f"{Path(picture.name).stem}x{scale}.png"))
        rounded = shrunk(large, scale).round().clamp(0, 255)
        differences.append(float((rounded - small).abs().mean()))
        result = upscaled(small, scale).round().clamp(0, 255).to(torch.uint8)
        figures.append(compared(luma(result), luma(large), scale))
    psnr_db, ssim = (float(np.mean([each[metric] for each in figures])) for metric in ("psnr_db", "ssim"))
    print(
        f"Set5 x{scale}, given small pictures: bicubic {psnr_db:.3f} dB/{ssim:.4f}; they differ from what is "
        f"shrunk here by {np.mean(differences):.3f} grey levels on average"
    )


def train(arguments: argparse.Namespace) -> None:
    """Train one architecture until it is done, and measure it."""
    tests = dict(present())
    options = {"dataset": arguments.dataset, "scale": arguments.scale, "tests": list(tests), "steps": EPOCH}
    options |= {
        name: value
        for name in ("batch_size", "patch", "learning_rate", "schedule")
        if (value := getattr(arguments, name)) is not None
    }
    benchmark, architecture = opened(arguments, options)
    state = _state(arguments.out, architecture)
    if state is None:
        epochs = planned(benchmark, architecture, arguments)
        print(f"{architecture}: {epochs * EPOCH} steps are planned")
    else:
        epochs = int(state["plan"][0])
        print(f"{architecture}: goes on after {int(state['epochs']) * EPOCH} of {epochs * EPOCH} steps")
    benchmark.epochs = epochs
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with seeded(arguments.seed, arguments.device):
        training = benchmark.training(architecture, device=arguments.device, seed=arguments.seed)
        if state is not None:
            training.restore(state)
        run(training, architecture, arguments.out)
    report(training, benchmark, tests, arguments)


def opened(arguments: argparse.Namespace, options: dict[str, object]) -> tuple[SuperResolution, Architecture]:
    """The benchmark, ready, and the architecture; a random one if none is named."""
    benchmark = Workload(arguments.space, "super_resolution", {}, options).make()
    assert isinstance(benchmark, SuperResolution)
    benchmark.check()
    space = benchmark.space
    rng = np.random.default_rng(arguments.seed)
    architecture = space.sample(rng) if arguments.code is None else space.parse(arguments.code)
    space.check_io(benchmark.io)
    cost = space.cost(architecture, benchmark.io)
    print(f"{architecture}: {cost.params:,} parameters, {cost.macs / 1e9:.2f} GMACs for {benchmark.io.output_shape}")
    benchmark.prepare()
    return benchmark, architecture


def planned(benchmark: SuperResolution, architecture: Architecture, arguments: argparse.Namespace) -> int:
    """How many epochs there are in the steps or minutes asked for."""
    if arguments.steps is not None:
        return -(-int(arguments.steps) // EPOCH)
    benchmark.epochs = 2
    with seeded(arguments.seed, arguments.device):
        training = benchmark.training(architecture, device=arguments.device, seed=arguments.seed)
        training.until(1)
        begun = time.perf_counter()
        training.until(2)
    wanted_s: float = 60 * arguments.minutes
    return max(1, int(wanted_s / (time.perf_counter() - begun)))


def run(training: SuperResolutionTraining, architecture: Architecture, out: Path) -> None:
    """Train to the end, leaving the state now and then."""
    begun = saved = time.monotonic()
    while training.done < training.epochs:
        training.until(training.done + 1)
        if time.monotonic() - saved > SAVED_EVERY_S or training.done == training.epochs:
            write_atomically(out, save(named(training.state(), str(architecture))))
            saved = time.monotonic()
            print(
                f"step {training.done * EPOCH} of {training.epochs * EPOCH}, {saved - begun:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    print(f"trained for {time.monotonic() - begun:.0f} s in this call")


def report(
    training: SuperResolutionTraining,
    benchmark: SuperResolution,
    tests: dict[str, tuple[Picture, ...]],
    arguments: argparse.Namespace,
) -> None:
    """Print what the network gains over bicubic; on validation pictures alone if it is still to be changed."""
    scale = arguments.scale
    sets: list[tuple[str, list[Pair]]] = [(f"{arguments.dataset} (validation)", benchmark.validation)]
    if not arguments.validate:
        sets += [(name, [Pair.of(each, scale) for each in pictures]) for name, pictures in tests.items()]
    for name, pairs in sets:
        found = evaluate(training.network, pairs, scale, arguments.device)
        psnr_db, gain_db = found["psnr_db"], found["gain_db"]
        print(
            f"{name} x{scale}: {psnr_db:.3f} dB/{found['ssim']:.4f}, bicubic {psnr_db - gain_db:.3f} dB, "
            f"gain {gain_db:+.3f} dB"
        )
    print(benchmark.protocol)


def _state(path: Path, architecture: Architecture) -> dict[str, torch.Tensor] | None:
    """What an earlier call left, if it did."""
    if not path.exists():
        return None
    try:
        state = load(path.read_bytes())
        of = bytes(state.pop(ARCHITECTURE).tolist()).decode(errors="replace")
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} is no state of a training: {error}; choose another --out") from error
    if of != str(architecture):
        raise InputError(f"{path} is of {of}, not of {architecture}; choose another --out")
    return state


def main() -> None:
    """Print bicubic's figures, or train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("bicubic", help="bicubic's figures on the sets that are there")
    command = commands.add_parser("train", help="train one architecture and measure it")
    command.add_argument("--space", default="esrn/small")
    command.add_argument("--code", help="of the architecture; by default one is drawn by the seed")
    command.add_argument("--dataset", default="bsds500")
    command.add_argument("--scale", type=int, default=2)
    command.add_argument("--out", type=Path, required=True, help="where the state is kept, a safetensors file")
    length = command.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", type=int)
    command.add_argument("--batch-size", type=int)
    command.add_argument("--patch", type=int)
    command.add_argument("--learning-rate", type=float)
    command.add_argument("--schedule", choices=("one_cycle", "cosine", "halving"))
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="cpu")
    command.add_argument("--validate", action="store_true", help="leave the test sets alone, while settings are sought")
    arguments = parser.parse_args()
    try:
        bicubic() if arguments.command == "bicubic" else train(arguments)
    except (InputError, TrialFailed) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
