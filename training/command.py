# SPDX-License-Identifier: Apache-2.0
"""What the training programs have in common: their arguments, their clock, their device."""
import time

STARTED = time.monotonic()  # before torch is loaded: the limit is one of the whole program

import argparse  # noqa: E402
import pathlib  # noqa: E402
import signal  # noqa: E402

import torch  # noqa: E402

from trainer import Phase, Settings  # noqa: E402


def elapsed():
    """Seconds since the program began."""
    return time.monotonic() - STARTED


def parts_of(kinds):
    """Reads `a:b` or `a:b:c` with the given types, one per part."""

    def read(text):
        parts = text.split(":")
        if len(parts) != len(kinds):
            raise argparse.ArgumentTypeError(f"'{text}' is not {len(kinds)} values with ':'")
        return tuple(kind(part) for kind, part in zip(kinds, parts))

    return read


def add_arguments(add, seconds, reserve, phases):
    """Adds what every training takes; `add` is add_argument of a parser."""
    add("--out", type=pathlib.Path, required=True, help="the model's folder")
    add("--seconds", type=float, default=seconds, help="limit of the whole program")
    add("--reserve", type=float, default=reserve, help="seconds of it for what follows training")
    add("--phases", nargs="+", type=parts_of((int, float)), metavar="FRAMES:SHARE", default=phases)
    add("--muon-rate", type=float, default=1e-2)
    add("--adam-rate", type=float, default=2e-3)
    add("--decay-from", type=float, default=0.6, help="share of the time")
    add("--mean-decay", type=float, default=0.998, help="of the running mean of weights")
    add("--seed", type=int, default=1)
    add("--no-graph", action="store_true", help="no CUDA graphs")
    add("--tiny", action="store_true", help="small enough for a CPU; checks the program only")


def check_arguments(parser, options, rows, least_clips=1):
    """Ends the program if the phases do not fit steps of `rows` frames or all the time."""
    if any(frames < 1 or rows % (frames * least_clips) for frames, _ in options.phases):
        parser.error(f"--phases: frames per clip must divide {rows // least_clips}")
    if abs(sum(share for _, share in options.phases) - 1) > 1e-6:
        parser.error("--phases: shares must add up to 1")


def settings_of(options, rows, log_every):
    return Settings(
        phases=tuple(Phase(*phase) for phase in options.phases),
        rows=rows,
        muon_rate=options.muon_rate,
        adam_rate=options.adam_rate,
        mean_decay=options.mean_decay,
        decay_from=options.decay_from,
        graph=not options.no_graph,
        log_every=log_every,
    )


def train(options, trainer, write_weights):
    """Trains until `reserve` seconds are left; writes the running mean after each phase.

    Also before the first, so that what keeps it from writing shows at once. Returns what the record
    says of the training.
    """

    def checkpoint(phase):
        write_weights(trainer.mean.values())
        print(f"checkpoint after {phase} at {elapsed():.0f} s", flush=True)

    write_weights(trainer.mean.values())
    trainer.run(STARTED + options.seconds - options.reserve, checkpoint)
    return {
        "steps": trainer.steps,
        "clips": trainer.clips,
        "parameters": sum(parameter.numel() for parameter in trainer.parameters),
        "log": trainer.log,
    }


def prepare(options):
    """Makes the folder and sets the limit; returns the device and the head of the record.

    The alarm ends the process at the limit, whatever it does then: every file is written whole.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    signal.setitimer(signal.ITIMER_REAL, max(options.seconds - elapsed(), 1))
    torch.manual_seed(options.seed)
    record = {
        "arguments": {name: str(value) for name, value in vars(options).items()},
        "torch": torch.__version__,
        "device": "cpu",
    }
    if not torch.cuda.is_available():
        return torch.device("cpu"), record
    torch.set_float32_matmul_precision("high")
    record["device"] = torch.cuda.get_device_name()
    print(record["device"], torch.__version__, flush=True)
    return torch.device("cuda"), record


def close_record(record):
    """Adds the time and the GPU memory of the whole program."""
    record["seconds"] = round(elapsed(), 1)
    if torch.cuda.is_available():
        record["peak_gpu_mib"] = torch.cuda.max_memory_allocated() >> 20
