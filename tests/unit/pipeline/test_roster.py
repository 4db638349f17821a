"""Models come, go and change places under load: nothing is lost, each request sees one artifact, what fails changes
nothing."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from server.backends.fake import FakeBackend, FakeOptions
from server.engine import Engine, EngineLimits
from server.engine.admission import Admission, AdmissionLimits
from server.engine.quotas import ModelLimits
from server.errors import (
    ConflictError,
    InvalidOptionError,
    ModelRefusedError,
    NotReadyError,
    UnknownModelError,
)
from server.observability.metrics import Metrics
from server.pipeline.models import Models, open_model
from server.pipeline.pipeline import Pipeline, PipelineLimits
from server.pipeline.pool import HostPool
from server.pipeline.request import SegmentOptions, SegmentRequest, SegmentResult
from server.pipeline.roster import Place, Roster
from tests.support.backends import DeviceScript, fake_artifact_with_self_test, turn_loop
from tests.support.clients import marked_png, until

FREE = {0, 240, 241, 242, 243}
"""Marks of the self-tests of the artifacts below."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    for number, name in enumerate(("first", "second", "third"), 240):
        fake_artifact_with_self_test(tmp_path / "models" / name, number)
    fake_artifact_with_self_test(tmp_path / "models" / "wrong", 243, offset=0.5)
    fake_artifact_with_self_test(tmp_path / "models" / "changed", 243)
    (tmp_path / "models" / "changed" / "self_test.npz").write_bytes(b"other")
    fake_artifact_with_self_test(tmp_path / "outside")
    (tmp_path / "models" / "link").symlink_to(tmp_path / "outside")
    return tmp_path / "models"


class Rig:
    """A pipeline and a roster on a scripted device that begin with `main`, the first artifact."""

    def __init__(self, folder: Path, script: DeviceScript) -> None:
        self.script, self.metrics = script, Metrics()
        self.unready: str | None = None
        self.needed: dict[str, str] = {}
        options = FakeOptions(max_batch=1)  # a warm-up of few slices
        self.engine = Engine([lambda: FakeBackend(options, before_run=script)], EngineLimits(), self.metrics)
        self.models = Models([open_model("main", folder / "first")])
        self.pool = HostPool(2, self.metrics.host)
        admission = Admission(AdmissionLimits(max_requests=1000), self.metrics)
        self.pipeline = Pipeline(self.engine, admission, self.models, self.pool, self.metrics, PipelineLimits())
        place = Place(folder, lambda: self.unready, self.needed.get)
        self.roster = Roster(self.engine, self.models, self.pipeline.quotas, place)

    async def segment(self, mark: int, model: str | None = None) -> SegmentResult:
        return await self.pipeline.segment(SegmentRequest(marked_png(mark), SegmentOptions(model=model)))

    def states(self) -> list[tuple[str, str]]:
        return [(row["name"], row["state"]) for row in self.roster.listing()]

    def loaded(self) -> set[str]:
        """Artifacts that the engine runs now."""
        return set(self.engine.precisions)


@asynccontextmanager
async def rig(folder: Path, *, gated: bool = False) -> AsyncIterator[Rig]:
    script = DeviceScript(gated=gated, free=FREE)
    found = Rig(folder, script)
    await found.engine.start(found.models.artifacts)
    script.armed = True
    try:
        yield found
    finally:
        script.open()
        await found.roster.close()
        await found.engine.close()
        found.pool.close()


async def test_nothing_is_warm_before_the_engine_is(folder):
    server = Rig(folder, DeviceScript(free=FREE))
    assert server.states() == [("main", "loading")]
    await server.engine.start(server.models.artifacts)
    assert server.states() == [("main", "warm")]
    await server.engine.close()
    server.pool.close()


async def test_a_model_is_added_warm_and_answers(folder):
    async with rig(folder) as server:
        done = await server.roster.put("extra", "second", ModelLimits(max_requests=3))
        result = await server.segment(7, "extra")
        states = server.states()
    assert done["done"] == "added"
    assert done["model"]["state"] == "warm"
    assert done["model"]["limits"]["max_requests"] == 3
    assert (result.model, result.artifact) == ("extra", done["model"]["artifact"])
    assert states == [("main", "warm"), ("extra", "warm")]


async def test_a_replacement_in_the_midst_of_requests_loses_none_and_lets_traffic_through(folder):
    async with rig(folder, gated=True) as server:
        old = server.models.default.artifact_id
        early = [asyncio.create_task(server.segment(mark)) for mark in range(1, 9)]
        await until(lambda: server.metrics.queue_depth == 7)
        replacing = asyncio.create_task(server.roster.put("main", "second"))
        await until(lambda: ("main", "loading") in server.states())
        while not replacing.done():
            assert server.engine.ready, "readiness stays on"
            server.script.let_pass()
            await server.script.arrival()
            await turn_loop()
        done = await replacing
        assert sum(task.done() for task in early) < len(early), "requests are left for the old one"
        assert ("main", "draining") in server.states()
        late = [asyncio.create_task(server.segment(mark)) for mark in range(11, 15)]
        await turn_loop()
        server.script.open()
        before, after = await asyncio.gather(*early), await asyncio.gather(*late)
        await until(lambda: server.states() == [("main", "warm")])
        await until(lambda: server.loaded() == {done["model"]["artifact"]})
        ran_on = {
            batch[0]: artifact for batch, artifact in zip(server.script.batches, server.script.artifacts, strict=True)
        }
    assert done["done"] == "replaced"
    assert [result.artifact for result in before] == [old] * 8
    assert [result.artifact for result in after] == [done["model"]["artifact"]] * 4
    assert old != done["model"]["artifact"]
    expected = dict.fromkeys(range(1, 9), old) | dict.fromkeys(range(11, 15), done["model"]["artifact"])
    assert ran_on == expected, "the answer names the artifact that made it"


async def test_the_same_artifact_again_changes_nothing_but_its_limits(folder):
    async with rig(folder) as server:
        before = server.models.default
        assert (await server.roster.put("main", "first"))["done"] == "unchanged"
        assert server.models.default == before
        assert (await server.roster.put("main", "first", ModelLimits(timeout_s=5)))["done"] == "limited"
        assert (await server.roster.put("main", "first"))["done"] == "unchanged", "limits of the name are kept"
        assert server.models.default.limits == ModelLimits(timeout_s=5)
        assert (await server.roster.put("main", "second"))["done"] == "replaced"
        assert server.models.default.limits == ModelLimits(timeout_s=5)


async def test_another_largest_batch_needs_another_warm_up(folder):
    async with rig(folder) as server:
        done = await server.roster.put("main", "first", ModelLimits(max_batch=1))
        assert done["done"] == "replaced"
        assert done["model"]["artifact"].endswith(".2"), "the same artifact beside itself has an id of its own"
        await until(lambda: server.loaded() == {done["model"]["artifact"]})
        assert (await server.segment(5)).artifact == done["model"]["artifact"]


async def test_back_to_the_former_artifact_while_it_still_answers(folder):
    async with rig(folder, gated=True) as server:
        old = server.models.default.artifact_id
        tasks = [asyncio.create_task(server.segment(mark)) for mark in range(1, 13)]
        await until(lambda: server.metrics.queue_depth == 11)
        for directory in ("second", "first"):
            change = asyncio.create_task(server.roster.put("main", directory))
            while not change.done():
                server.script.let_pass()
                await server.script.arrival()
                await turn_loop()
        assert change.result()["model"]["artifact"] == f"{old}.2"
        server.script.open()
        assert {result.artifact for result in await asyncio.gather(*tasks)} == {old}
        assert (await server.segment(20)).artifact == f"{old}.2"
        await until(lambda: server.loaded() == {f"{old}.2"})


REFUSALS: dict[str, tuple[type[Exception], str]] = {
    "wrong": (ModelRefusedError, "self-test of main"),
    "changed": (ModelRefusedError, "changed/self_test.npz: expected SHA-256"),
    "absent": (ModelRefusedError, "absent: expected an artifact directory"),
}


@pytest.mark.parametrize("directory", REFUSALS)
async def test_what_cannot_be_served_changes_nothing_and_says_why(folder, directory):
    kind, reason = REFUSALS[directory]
    async with rig(folder) as server:
        before = server.models.default
        with pytest.raises(kind, match=reason) as caught:
            await server.roster.put("main", directory)
        assert str(folder) not in str(caught.value), "the place of the folder is nobody's business"
        assert server.models.default == before
        assert (await server.segment(3)).artifact == before.artifact_id
        assert server.loaded() == {before.artifact_id}
        (failed,) = [row for row in server.roster.listing() if row["state"] == "failed"]
        assert (failed["name"], failed["directory"]) == ("main", directory)
        assert reason in failed["reason"]
        await server.roster.put("main", "second")
        assert server.states()[0] == ("main", "warm")
        assert "failed" not in dict(server.states()).values()


@pytest.mark.parametrize("directory", ["../outside", "/etc", ".", "", "link", "first/../../outside", "a\0b", "~"])
async def test_nothing_is_read_outside_of_the_folder(folder, directory):
    async with rig(folder) as server:
        with pytest.raises((InvalidOptionError, ModelRefusedError)) as caught:
            await server.roster.put("extra", directory)
        assert (directory == "~") == isinstance(caught.value, ModelRefusedError), "that is a name like any other"
        assert server.states()[0] == ("main", "warm")


async def test_names_that_cannot_travel_in_a_header(folder):
    async with rig(folder) as server:
        with pytest.raises(InvalidOptionError, match="expected a model name"):
            await server.roster.put("a b", "second")


async def test_a_second_change_of_a_name_is_refused_while_the_first_is_under_way(folder):
    async with rig(folder, gated=True) as server:
        held = asyncio.create_task(server.segment(1))
        await server.script.arrival()
        first = asyncio.create_task(server.roster.put("extra", "second"))
        await turn_loop()
        other = asyncio.create_task(server.roster.put("other", "third"))
        await turn_loop()
        with pytest.raises(ConflictError, match="extra is being changed"):
            await server.roster.put("extra", "third")
        with pytest.raises(UnknownModelError):
            server.roster.remove("extra")
        server.script.open()
        assert [(await task)["done"] for task in (first, other)] == ["added", "added"]
        await held
        assert server.states() == [("main", "warm"), ("extra", "warm"), ("other", "warm")]


async def test_what_is_removed_answers_what_it_has_taken_in(folder):
    async with rig(folder, gated=True) as server:
        adding = asyncio.create_task(server.roster.put("extra", "second"))
        done = await adding
        waiting = [asyncio.create_task(server.segment(mark, "extra")) for mark in (1, 2, 3)]
        await until(lambda: server.metrics.queue_depth == 2)
        row = server.roster.remove("extra")
        assert (row["state"], row["in_use"]) == ("draining", 3)
        with pytest.raises(UnknownModelError, match="expected one of the models main"):
            await server.segment(4, "extra")
        with pytest.raises(UnknownModelError):
            server.roster.remove("extra")
        server.script.open()
        assert [result.artifact for result in await asyncio.gather(*waiting)] == [done["model"]["artifact"]] * 3
        await until(lambda: server.loaded() == {server.models.default.artifact_id})
        assert server.states() == [("main", "warm")]


async def test_the_default_and_what_is_needed_stay(folder):
    async with rig(folder) as server:
        await server.roster.put("extra", "second")
        with pytest.raises(ConflictError, match="main is the default model: make another one the default first"):
            server.roster.remove("main")
        server.roster.make_default("extra")
        server.roster.make_default("extra")
        assert (await server.segment(1)).model == "extra"
        server.needed["main"] = "something"
        with pytest.raises(ConflictError, match="main is needed by something"):
            server.roster.remove("main")
        server.needed.clear()
        server.roster.remove("main")
        with pytest.raises(UnknownModelError):
            server.roster.make_default("main")
        await until(lambda: server.states() == [("extra", "warm")])


async def test_who_asked_for_a_change_may_leave(folder):
    async with rig(folder) as server:
        asking = asyncio.create_task(server.roster.put("extra", "second"))
        await turn_loop(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: ("extra", "warm") in server.states())
        assert (await server.segment(1, "extra")).model == "extra"


async def test_no_change_while_starting_or_shutting_down(folder):
    async with rig(folder) as server:
        server.unready = "the server is shutting down"
        for change in (lambda: server.roster.remove("main"), lambda: server.roster.make_default("main")):
            with pytest.raises(NotReadyError):
                change()
        with pytest.raises(NotReadyError):
            await server.roster.put("extra", "second")


async def test_a_change_that_is_broken_off_leaves_nothing_behind(folder):
    async with rig(folder, gated=True) as server:
        held = asyncio.create_task(server.segment(1))
        await server.script.arrival()
        change = asyncio.create_task(server.roster.put("extra", "second"))
        await turn_loop()
        await server.roster.close()
        assert (await asyncio.gather(change, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        server.script.open()
        await held
        assert server.states() == [("main", "warm")]
        assert server.loaded() == {server.models.default.artifact_id}


class Walk:
    """Requests and changes at random."""

    def __init__(self, server: Rig, seed: int) -> None:
        self.server, self.rng, self.found, self.answered = server, random.Random(seed), 0, 0  # noqa: S311
        self.names = ("main", "b", "c")

    async def request(self, mark: int) -> None:
        name = self.rng.choice([*self.names, None])
        try:
            expected = self.server.models.find(name).artifact_id
        except UnknownModelError:
            return
        self.found += 1
        assert (await self.server.segment(mark, name)).artifact == expected
        self.answered += 1

    async def change(self) -> None:
        name, dice = self.rng.choice(self.names), self.rng.random()
        with suppress(ConflictError, ModelRefusedError, UnknownModelError):
            if dice < 0.5:
                await self.server.roster.put(name, self.rng.choice(("first", "second", "third", "wrong")))
            elif dice < 0.85:
                self.server.roster.remove(name)
            else:
                self.server.roster.make_default(name)


@pytest.mark.parametrize("seed", range(6))
async def test_a_random_walk_loses_nothing_and_every_answer_is_of_the_artifact_found_at_its_beginning(folder, seed):
    async with rig(folder) as server:
        walk = Walk(server, seed)
        tasks: list[asyncio.Task[None]] = []
        for step in range(150):
            does = walk.request(step + 1) if walk.rng.random() < 0.7 else walk.change()
            tasks.append(asyncio.create_task(does))
            await turn_loop(walk.rng.randrange(4))
        assert await asyncio.gather(*tasks, return_exceptions=True) == [None] * 150
        assert walk.answered == walk.found > 10
        await until(lambda: server.loaded() == {model.artifact_id for model in server.models})
        assert {state for _, state in server.states()} <= {"warm", "failed"}
        for model in server.models:
            assert (await server.segment(9, model.name)).artifact == model.artifact_id
            assert server.models.borrowed(model.artifact_id) == 0
