#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the bundled video model within a time limit, samples it, measures it, writes its folder.

usage: training/train.py --out DIR [--seconds 560] [--init DIR] (see training/README.md)
"""
import time

STARTED = time.monotonic()  # before torch is loaded: the limit is one of the whole program

import argparse  # noqa: E402
import pathlib  # noqa: E402

import torch  # noqa: E402

import evaluate  # noqa: E402
import export  # noqa: E402
import grammar  # noqa: E402
import world as world_module  # noqa: E402
from model import CONFIG, TextTable, VideoTransformer, initialise  # noqa: E402
from optimiser import MuonAdamW, RunningMean  # noqa: E402
from sample import Sampler  # noqa: E402
from trainer import Phase, Settings, Trainer  # noqa: E402

TINY_CONFIG = CONFIG | {"num_attention_heads": 2, "num_layers": 2, "ffn_dim": 128}
TINY = {"pixels": 16, "rows": 32, "captions": 8, "log_every": 10}
FULL = {"pixels": world_module.PIXELS, "rows": 128, "captions": 50, "log_every": 50}
LAST_SECONDS = 12.0  # kept for the recorded attention, the pictures and the files


def pairs_of(kinds):
    """Reads `a:b` or `a:b:c` with the given types, one per part."""

    def read(text):
        parts = text.split(":")
        if len(parts) != len(kinds):
            raise argparse.ArgumentTypeError(f"'{text}' is not {len(kinds)} values with ':'")
        return tuple(kind(part) for kind, part in zip(kinds, parts))

    return read


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="the model's folder")
    add("--seconds", type=float, default=560, help="limit of the whole program")
    add("--reserve", type=float, default=100, help="seconds of it for sampling and figures")
    add("--init", type=pathlib.Path, help="folder of an earlier run to go on from")
    add("--phases", nargs="+", type=pairs_of((int, float)), metavar="FRAMES:SHARE",
        default=[(1, 0.2), (4, 0.25), (8, 0.2), (16, 0.35)])
    add("--muon-rate", type=float, default=1e-2)
    add("--adam-rate", type=float, default=2e-3)
    add("--decay-from", type=float, default=0.6, help="share of the time")
    add("--mean-decay", type=float, default=0.998, help="of the running mean of weights")
    add("--samplers", nargs="+", type=pairs_of((float, int, float)),
        metavar="GUIDANCE:STEPS:SHIFT", help="to be tried, in this order, as time allows",
        default=[(1, 30, 8), (1, 20, 8), (1.5, 30, 8)])
    add("--record", nargs="*", type=pairs_of((int, int)), metavar="LAYER:STEP",
        default=[(4, 15)], help="attention inputs to write, 12.6 MB each")
    add("--seed", type=int, default=1)
    add("--no-compile", action="store_true")
    add("--no-graph", action="store_true", help="no CUDA graphs")
    add("--tiny", action="store_true", help="small enough for a CPU; checks the program only")
    options = parser.parse_args()
    rows = (TINY if options.tiny else FULL)["rows"]
    if any(frames < 1 or rows % frames for frames, _ in options.phases):
        parser.error(f"--phases: frames per clip must divide the {rows} frames of a step")
    if abs(sum(share for _, share in options.phases) - 1) > 1e-6:
        parser.error("--phases: shares must add up to 1")
    return options


def prepare_device():
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    return torch.device("cuda")


def build_trainer(options, sizes, config, world):
    torch.manual_seed(options.seed)
    model, text_table = VideoTransformer(config), TextTable(len(world.vocab))
    initialise(model)
    if options.init:
        export.load_weights(options.init, model, text_table)
    model.to(world.device)
    text_table.to(world.device)
    if world.device.type == "cuda" and not options.no_compile:
        model.compile_blocks()
    parameters = list(export.named_parameters(model, text_table))
    settings = Settings(
        phases=tuple(Phase(*phase) for phase in options.phases),
        rows=sizes["rows"],
        muon_rate=options.muon_rate,
        adam_rate=options.adam_rate,
        decay_from=options.decay_from,
        graph=not options.no_graph,
        log_every=sizes["log_every"],
    )
    mean = RunningMean(parameters, options.mean_decay)
    return Trainer(model, text_table, world, MuonAdamW(parameters), mean, settings)


def train(options, trainer, config):
    """Trains, leaving a checkpoint of the running mean after each phase."""
    world = trainer.world
    shift = options.samplers[0][2]
    export.write_configuration(options.out, config, world.vocab, shift)

    def checkpoint(phase):
        export.write_weights(options.out, trainer.mean.values())
        print(f"checkpoint after {phase} at {time.monotonic() - STARTED:.0f} s", flush=True)

    trainer.run(STARTED + options.seconds - options.reserve, checkpoint)
    return {
        "steps": trainer.steps,
        "clips": trainer.clips,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "log": trainer.log,
    }


def measure(options, sizes, config, world, results):
    """Adds figures of the exported model to `results`; writes pictures and recorded attention."""
    model, text_table = export.load_model(options.out, config, len(world.vocab), world.device)
    captions = grammar.fixed_captions(sizes["captions"])
    results["detector_on_rendered_clips"] = evaluate.detector_ceiling(world)
    print("detector on rendered clips", results["detector_on_rendered_clips"], flush=True)
    results["loss_by_noise_level"] = evaluate.loss_by_level(model, text_table, world)
    print("loss by noise level", results["loss_by_noise_level"], flush=True)
    samplers = [Sampler(*values) for values in options.samplers]

    def seconds_left():
        return STARTED + options.seconds - LAST_SECONDS - time.monotonic()

    results["samplers"], best, clips = evaluate.evaluate_samplers(
        model, text_table, world, samplers, captions, seconds_left
    )
    results["best_sampler"] = vars(best)
    export.write_configuration(options.out, config, world.vocab, best.shift)
    evaluate.write_contact_sheet(options.out / "contact_sheet.png", clips, world, captions)
    results["attention"] = evaluate.record_attention(
        options.out, model, text_table, world, best, captions[0], set(options.record)
    )


def main():
    options = arguments()
    sizes, config = (TINY, TINY_CONFIG) if options.tiny else (FULL, CONFIG)
    options.out.mkdir(parents=True, exist_ok=True)
    device = prepare_device()
    world = world_module.World(device, sizes["pixels"])
    trainer = build_trainer(options, sizes, config, world)
    results = {
        "arguments": {name: str(value) for name, value in vars(options).items()},
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    results["training"] = train(options, trainer, config)
    export.write_json(options.out / "results.json", results)
    del trainer
    measure(options, sizes, config, world, results)
    results["seconds"] = round(time.monotonic() - STARTED, 1)
    if device.type == "cuda":
        results["peak_gpu_mib"] = torch.cuda.max_memory_allocated() >> 20
    export.write_json(options.out / "results.json", results)
    print(f"done after {results['seconds']} s, best: {best_line(results)}", flush=True)


def best_line(results):
    return next(
        {**entry["sampler"], **entry["figures"]}
        for entry in results["samplers"]
        if entry["sampler"] == results["best_sampler"]
    )


if __name__ == "__main__":
    main()
