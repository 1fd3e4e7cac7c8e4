"""Fuzzing with fixed seeds: unexpected bytes end no reader, no gateway and no service."""

import asyncio
import os
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from towpath.testkit.system import System

from .bounds import HUNDREDS
from .fuzz_envelopes import Findings, try_one
from .program import Program
from .trial import Trial


@pytest.mark.parametrize(
    "count",
    [pytest.param(30_000, marks=pytest.mark.abuse_short, id="short"), pytest.param(1_000_000, id="long")],
)
@pytest.mark.timeout(900)
async def test_both_decoders_agree_on_every_envelope(trial: Trial, count: int) -> None:
    async with trial.counted(f"{count:,} envelopes through both readers") as line, AsyncExitStack() as stack:
        share = count // (workers := os.cpu_count() or 1)
        programs = []
        for number in range(workers):
            plan = {"seed": f"{trial.seed} {number}", "count": share}
            programs.append(await stack.enter_async_context(Program.start("fuzz_envelopes", plan)))
        for program in programs:
            program.go()
        found = await asyncio.gather(*(program.result(timeout=800) for program in programs))
        accepted, refused = sum(one["accepted"] for one in found), sum(one["refused"] for one in found)
        deep = sum(one["deep"] for one in found)
        line.got_in = (
            f"{accepted:,} accepted, {refused:,} refused, {deep:,} of them only as they nest too deep"
        )
        wrong = Counter[str]()
        for one in found:
            wrong.update(one["wrong"])
        line.failures += [f"{kind}: {number:,}" for kind, number in wrong.items()]
        for one in found:
            print("\n".join(one["examples"]))  # noqa: T201  # pytest shows it when the test fails
        if not accepted > count / 20 or not refused > count / 20:
            line.failures.append("most of them were of one kind")


@pytest.mark.abuse_short
@pytest.mark.parametrize("innermost", ["1e400", '"]]]"'])
def test_the_trial_counts_nesting_of_any_content(innermost: str) -> None:
    nested = "[" * 200 + innermost + "]" * 200
    text = f'{{"msg_id":"m","timestamp":1,"action":"chat.send","data":{{"a":{nested}}},"version":"1.0"}}'
    findings = Findings()
    try_one(text.encode(), findings)
    assert (findings.deep, findings.refused, dict(findings.wrong)) == (1, 1, {})


@pytest.mark.timeout(900)
async def test_hostile_frames_end_their_connection_at_most(fresh_system: System, trial: Trial) -> None:
    count = 100_000
    async with trial.of(f"{count:,} hostile frames", fresh_system, HUNDREDS) as ground:
        port = int(fresh_system.gateways[0].settings["TOWPATH_PORT"])
        plan = {"seed": trial.seed, "port": port, "count": count}
        async with Program.start("fuzz_frames", plan) as program:
            ground.hold(program)
            ground.begin()
            program.go()
            found = await program.result(timeout=600)
            ground.end()
        codes = ", ".join(f"{code} × {number:,}" for code, number in Counter(found["codes"]).most_common(8))
        ground.got_in(f"{found['sent']:,} frames on {found['connections']:,} connections")
        ground.note(f"connections ended: {codes}")
        ground.expect(found["sent"] >= count, f"only {found['sent']:,} frames were sent")
        ground.expect(
            "1011" not in found["codes"], "the gateway closed with 1011: something unexpected was raised"
        )
        traces = fresh_system.gateways[0].output.count("Traceback")
        ground.expect(not traces, f"{traces} tracebacks in the gateway's log")
