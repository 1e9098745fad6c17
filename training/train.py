#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains a bundled video model within a time limit, samples it, measures it, writes its folder.

usage: training/train.py --out DIR [--world flows] [--seconds 560] (see training/README.md)
"""
import command  # first: its clock is that of the whole program

import argparse
import dataclasses
import pathlib
import types
import typing

import detector
import evaluate
import export
import flows_detector
from flows import FlowsWorld
from model import CONFIG, TextTable, VideoTransformer, initialise, usable_attention
from sample import Sampler
from trainer import Denoising, Trainer
from world import FRAMES, ShapesWorld


@dataclasses.dataclass(frozen=True)
class Kind:
    """A world, and the model that learns it."""

    world: typing.Callable  # of the device and the frame's size
    size: tuple[int, ...]
    tiny_size: tuple[int, ...]
    detector: types.ModuleType
    config: dict


WORLDS = {
    "shapes": Kind(ShapesWorld, (64,), (16,), detector, CONFIG),
    "flows": Kind(
        FlowsWorld,
        (48, 80),
        (12, 20),
        flows_detector,
        CONFIG
        | {"num_attention_heads": 2, "attention_head_dim": 128, "num_layers": 6, "ffn_dim": 512},
    ),
}
TINY_CONFIG = {"num_attention_heads": 2, "num_layers": 2, "ffn_dim": 128}
TINY = {"rows": 32, "captions": 8, "log_every": 10}
FULL = {"rows": 128, "captions": 50, "log_every": 50}
LAST_SECONDS = 12.0  # kept for the recorded attention, the pictures and the files


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    phases = [(1, 0.2), (4, 0.25), (8, 0.2), (16, 0.35)]
    command.add_arguments(add, seconds=560, reserve=100, phases=phases)
    add("--world", choices=WORLDS, default="shapes", help="what the clips show")
    add("--init", type=pathlib.Path, help="folder of an earlier run to go on from")
    add("--samplers", nargs="+", type=command.parts_of((float, int, float)),
        metavar="GUIDANCE:STEPS:SHIFT", help="to be tried, in this order, as time allows",
        default=[(1, 30, 8), (1, 20, 8), (1.5, 30, 8)])
    add("--record", nargs="*", type=command.parts_of((int, int)), metavar="LAYER:STEP",
        default=[(4, 15)], help="attention inputs to write, 12.6 MB each (flows: 23.6)")
    add("--no-compile", action="store_true")
    options = parser.parse_args()
    command.check_arguments(parser, options, (TINY if options.tiny else FULL)["rows"])
    return options


def build_model(options, config, world):
    model, text_table = VideoTransformer(config), TextTable(len(world.vocab))
    initialise(model)
    if options.init:
        export.load_weights(options.init, model, text_table)
    model.to(world.device)
    text_table.to(world.device)
    if world.device.type == "cuda" and not options.no_compile:
        model.compile_blocks()
    return model, text_table


def measure(options, captions, backends, config, world, record):
    """Adds figures of the exported model to the record; writes pictures and recorded attention."""
    found_by = WORLDS[options.world].detector
    model, text_table = export.load_model(options.out, config, len(world.vocab), world.device)
    model.attention_backends = backends
    record["detector_on_rendered_clips"] = evaluate.detector_ceiling(world, found_by)
    print("detector on rendered clips", record["detector_on_rendered_clips"], flush=True)
    record["loss_by_noise_level"] = evaluate.loss_by_level(model, text_table, world)
    print("loss by noise level", record["loss_by_noise_level"], flush=True)
    export.write_json(options.out / "results.json", record)
    samplers = [Sampler(*values) for values in options.samplers]
    captions = world.grammar.fixed_captions(captions)

    def seconds_left():
        return options.seconds - LAST_SECONDS - command.elapsed()

    record["samplers"], best, clips = evaluate.evaluate_samplers(
        model, text_table, world, found_by, samplers, captions, seconds_left
    )
    if best is None:
        return
    record["best_sampler"] = vars(best)
    export.write_configuration(options.out, config, world.vocab, best.shift)
    evaluate.write_contact_sheet(options.out / "contact_sheet.png", clips, world, captions)
    export.write_json(options.out / "results.json", record)
    record["attention"] = evaluate.record_attention(
        options.out, model, text_table, world, best, captions[0], set(options.record)
    )


def main():
    options = arguments()
    device, record = command.prepare(options)
    kind, amounts = WORLDS[options.world], TINY if options.tiny else FULL
    config = kind.config | (TINY_CONFIG if options.tiny else {})
    world = kind.world(device, *(kind.tiny_size if options.tiny else kind.size))
    model, text_table = build_model(options, config, world)
    tokens = (world.height // model.patch) * (world.width // model.patch)  # of a frame
    lengths = [frames * tokens for frames in (*(frames for frames, _ in options.phases), FRAMES)]
    model.attention_backends = backends = usable_attention(
        device, lengths, config["num_attention_heads"], config["attention_head_dim"]
    )
    settings = command.settings_of(options, amounts["rows"], amounts["log_every"])
    parameters = export.named_parameters(model, text_table)
    trainer = Trainer(Denoising(model, text_table, world), parameters, device, settings)
    export.write_configuration(options.out, config, world.vocab, options.samplers[0][2])
    record["training"] = command.train(
        options, trainer, lambda values: export.write_weights(options.out, values)
    )
    export.write_json(options.out / "results.json", record)
    del trainer, model, text_table
    measure(options, amounts["captions"], backends, config, world, record)
    command.close_record(record)
    export.write_json(options.out / "results.json", record)
    print(f"done after {record['seconds']} s, best: {best_line(record)}", flush=True)


def best_line(record):
    return next(
        (
            {**entry["sampler"], **entry["figures"]}
            for entry in record["samplers"]
            if entry["sampler"] == record["best_sampler"]
        ),
        "no sampler",
    )


if __name__ == "__main__":
    main()
