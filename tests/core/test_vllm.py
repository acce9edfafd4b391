"""A real vLLM server with the embedded model and random adapters: set WHET_VLLM to an environment that has vLLM."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from whet.core import (
    Budget,
    Message,
    ModelCall,
    ModelError,
    Policy,
    RefusedError,
    Sampling,
    Step,
    Task,
    UserError,
)
from whet.core.adapters import AdapterCard, adapter_version, pack, unpack
from whet.core.models import Budgeted, Limited, adaptable, load_model
from whet.core.models.testing import Failure, OpenAIServer, random_adapter
from whet.core.models.tiny.model import WEIGHTS, TinyModel
from whet.core.models.vllm import VLLMEndpoint, VLLMModel, VLLMServer

ASK = [
    Message(role="system", content="# Lessons\ndef zorp(x): return x[::-1]"),
    Message(role="user", content="Write solve(x): zorp."),
]
GREEDY = Sampling(temperature=0, max_tokens=24, logprobs=True)
LONG = Sampling(temperature=1, seed=1, max_tokens=400, stop=("no such text",))
ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
CPU = {"args": ("--dtype", "float32", "--enforce-eager"), "context": 512}

needs_vllm = pytest.mark.skipif(
    "WHET_VLLM" not in os.environ, reason="no vLLM: set WHET_VLLM to a virtual environment that has it"
)


@pytest.fixture(scope="module")
def server() -> Iterator[VLLMServer]:
    """A server in developer's mode, in which one without a GPU sleeps as well, though it frees nothing by that."""
    env = {**ENV, "VLLM_SERVER_DEV_MODE": "1"}
    started = VLLMServer(WEIGHTS, command=os.environ["WHET_VLLM"], max_loras=2, max_lora_rank=8, env=env, **CPU)  # type: ignore[arg-type]
    yield started
    asyncio.run(started.stop())


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [random_adapter(WEIGHTS, folder / str(seed), seed=seed) for seed in range(3)]


async def _busy(server: VLLMEndpoint) -> None:
    """Returns when a request is in flight."""
    async with asyncio.timeout(60):
        while not server.in_flight:  # noqa: ASYNC110  # seen from outside, as by a person
            await asyncio.sleep(0.01)


async def _listed(server: VLLMEndpoint) -> set[str]:
    """Returns the names that the server itself says it serves."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {server.api_key}"}) as client:
        listed = (await client.get(f"{server.url}/v1/models")).json()
    return {each["id"] for each in listed["data"]}


# --- answers --------------------------------------------------------------------------------------------------------


@needs_vllm
@pytest.mark.asyncio
async def test_the_base_answers_as_it_does_in_this_process(server: VLLMServer) -> None:
    model = VLLMModel(server)
    first = await asyncio.gather(*(model.complete(ASK, sampling=GREEDY) for _ in range(3)))  # one start for all
    assert len({answer.text for answer in first}) == 1
    theirs, ours = await model.complete(ASK, sampling=GREEDY), TinyModel().answer(ASK, GREEDY)
    assert (theirs.text, theirs.model) == (ours.text, f"vllm:{WEIGHTS}")
    assert (theirs.prompt_token_ids, theirs.token_ids) == (ours.prompt_token_ids, ours.token_ids)
    assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-3)
    without = await model.complete(ASK, sampling=Sampling(temperature=0, max_tokens=24))
    assert (without.text, without.token_ids, without.logprobs) == (ours.text, None, None)


@needs_vllm
@pytest.mark.asyncio
async def test_an_adapter_answers_as_it_does_in_this_process(server: VLLMServer, adapters: list[Path]) -> None:
    model = VLLMModel(server)
    adapted = await model.adapted(adapters[0])
    theirs, ours = await adapted.complete(ASK, sampling=GREEDY), TinyModel(adapters[0]).answer(ASK, GREEDY)
    assert theirs.token_ids == ours.token_ids
    assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-3)
    assert theirs.text != TinyModel().answer(ASK, GREEDY).text
    assert theirs.model == adapted.name == f"vllm:{WEIGHTS}+{adapter_version(adapters[0])[:12]}"
    both = await asyncio.gather(*(each.complete(ASK, sampling=GREEDY) for each in (model, adapted) * 3))
    assert len({answer.token_ids for answer in both[::2]}) == len({answer.token_ids for answer in both[1::2]}) == 1
    assert both[1].token_ids == ours.token_ids != both[0].token_ids


@needs_vllm
@pytest.mark.asyncio
async def test_its_logprobs_are_those_of_transformers(server: VLLMServer, adapters: list[Path]) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=3, max_tokens=16, logprobs=True)
    said = await (await VLLMModel(server).adapted(adapters[1])).complete(ASK, sampling=sampling)
    assert said.prompt_token_ids
    assert said.token_ids
    base = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS)
    reference = peft.PeftModel.from_pretrained(base, str(adapters[1])).eval()
    with torch.no_grad():
        logits = reference(torch.tensor([said.prompt_token_ids + said.token_ids])).logits[0]
    rows = torch.log_softmax(logits[len(said.prompt_token_ids) - 1 : -1].float(), -1)
    expected = rows[range(len(said.token_ids)), list(said.token_ids)].tolist()
    assert said.logprobs == pytest.approx(expected, abs=1e-3)  # of the model itself, whatever the sampling was


@needs_vllm
@pytest.mark.asyncio
async def test_what_is_around_it_takes_its_adapters(server: VLLMServer, adapters: list[Path]) -> None:
    budget = Budget(calls=2, micro_dollars=0)
    model = Budgeted(Limited(VLLMModel(server), 2), budget)
    assert adaptable(model) is model
    assert model.base == str(WEIGHTS)
    answers = [await each.complete(ASK, sampling=GREEDY) for each in (model, await model.adapted(adapters[0]))]
    assert answers[0].token_ids != answers[1].token_ids
    assert budget.spent.calls == 2


# --- coming and going -----------------------------------------------------------------------------------------------


@needs_vllm
@pytest.mark.asyncio
async def test_more_adapters_than_there_is_room_for_take_turns(server: VLLMServer, adapters: list[Path]) -> None:
    models = [await VLLMModel(server).adapted(each) for each in adapters]
    names = [f"whet-{adapter_version(each)[:12]}" for each in adapters]
    assert server.slots.names == names[1:]
    assert await _listed(server) == {"base", *names[1:]}
    alone = [TinyModel(each).answer(ASK, GREEDY).token_ids for each in adapters]
    together = await asyncio.gather(*(models[number % 3].complete(ASK, sampling=GREEDY) for number in range(12)))
    assert [answer.token_ids for answer in together] == alone * 4
    assert len(await _listed(server)) == 3


@needs_vllm
@pytest.mark.asyncio
async def test_unloading_waits_for_the_request_in_flight(server: VLLMServer, adapters: list[Path]) -> None:
    name = await server.load(adapters[0])
    asked = asyncio.create_task((await VLLMModel(server).adapted(adapters[0])).complete(ASK, sampling=LONG))
    await _busy(server)
    unloaded = asyncio.create_task(server.unload(name))
    await asyncio.sleep(0.05)
    assert name in await _listed(server)
    assert not unloaded.done()
    answer = await asked
    await unloaded
    assert answer.model.endswith(name.removeprefix("whet-"))
    assert name not in await _listed(server)
    assert name not in server.slots.names
    await server.unload(name)  # which is not there any more


@needs_vllm
@pytest.mark.asyncio
async def test_what_somebody_else_unloaded_is_loaded_again(server: VLLMServer, adapters: list[Path]) -> None:
    model = await VLLMModel(server).adapted(adapters[1])
    before = await model.complete(ASK, sampling=GREEDY)
    other = VLLMEndpoint(WEIGHTS, base_url=f"{server.url}/v1", api_key=server.api_key)
    name = await other.load(adapters[1])  # which the server has already
    await other.unload(name)
    assert name not in await _listed(server)
    assert (await model.complete(ASK, sampling=GREEDY)).token_ids == before.token_ids


@needs_vllm
@pytest.mark.asyncio
async def test_adapters_that_do_not_fit_are_refused(server: VLLMServer, adapters: list[Path], tmp_path: Path) -> None:
    model, before = VLLMModel(server), await _listed(server)
    other = unpack(pack(adapters[0], AdapterCard(base="llama", base_digest="f" * 64)), tmp_path / "other")
    with pytest.raises(UserError, match="was trained on 'llama'"):
        await model.adapted(other)
    with pytest.raises(UserError, match="has rank 12, above the server's 8; start it with max_lora_rank=12"):
        await model.adapted(random_adapter(WEIGHTS, tmp_path / "big", rank=12))
    attached = VLLMEndpoint(WEIGHTS, base_url=server.url, api_key=server.api_key)
    with pytest.raises(UserError, match=r"cannot load adapter.*LoRA rank 12 is greater than max_lora_rank 8"):
        await attached.load(tmp_path / "big")
    assert await _listed(server) == before


@needs_vllm
@pytest.mark.asyncio
async def test_agents_run_under_the_adapters_of_their_policies(
    server: VLLMServer, adapters: list[Path], tmp_path: Path
) -> None:
    agents, memories = pytest.importorskip("whet.agents"), pytest.importorskip("whet.memory")
    task = Task(id="zorp", messages=tuple(ASK))
    async with await memories.Memory.open(tmp_path / ".whet") as memory:
        blobs = [await memory.put_blob(pack(each, AdapterCard(base="tiny"))) for each in adapters[:2]]
        settings = {"settings.toml": "temperature = 0\nmax_tokens = 24\n"}
        policies = [Policy.of({**settings, "adapter": blob}) for blob in blobs]
        async with agents.Agent("refine", Limited(VLLMModel(server), 4), memory=memory) as agent:
            jobs = (agent.arun(task, seed=seed, policy=policies[seed % 2]) for seed in range(6))
            results = await asyncio.gather(*jobs)
        expected = [TinyModel(each).answer(ASK, GREEDY).text for each in adapters[:2]]
        assert [result.answer for result in results] == expected * 3
        assert {result.run.model for result in results} == {f"vllm:{WEIGHTS}"}
        steps = [await memory.find(Step, where={"run_id": result.run.id}) for result in results]
        calls = [step.body.completion for run in steps for step in run if isinstance(step.body, ModelCall)]
        assert {call.model for call in calls if call} == {f"vllm:{WEIGHTS}+{blob[:12]}" for blob in blobs}
        assert all(call and call.token_ids and call.prompt_token_ids and call.logprobs for call in calls)


# --- attached -------------------------------------------------------------------------------------------------------


@needs_vllm
@pytest.mark.asyncio
async def test_a_server_that_runs_is_asked_by_its_url(server: VLLMServer, adapters: list[Path], tmp_path: Path) -> None:
    model = load_model(f"vllm:{WEIGHTS}", base_url=f"{server.url}/v1", api_key=server.api_key, max_loras=2)
    assert (await model.complete(ASK, sampling=GREEDY)).text == TinyModel().answer(ASK, GREEDY).text
    with pytest.raises(ModelError, match="wants another API key") as refused:
        await load_model(f"vllm:{WEIGHTS}", base_url=server.url, api_key="wrong").complete(ASK)
    assert refused.value.failure == "auth"
    folder = tmp_path / "another"
    folder.mkdir()
    for path in WEIGHTS.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = (folder / "config.json").read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05')
    (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"serves .*weights.*, not .*another"):
        await load_model(f"vllm:{folder}", base_url=server.url, api_key=server.api_key).complete(ASK)


@needs_vllm
@pytest.mark.asyncio
async def test_it_sleeps_once_it_is_idle_and_keeps_its_adapters(server: VLLMServer, adapters: list[Path]) -> None:
    model = await VLLMModel(server).adapted(adapters[0])
    before = await model.complete(ASK, sampling=GREEDY)
    asked = asyncio.create_task(model.complete(ASK, sampling=LONG))
    await _busy(server)
    sleeping = asyncio.create_task(server.sleep())
    await asyncio.sleep(0.05)
    assert not sleeping.done()
    with pytest.raises(ModelError, match=r"sleeps; await server\.wake\(\) first"):
        await model.complete(ASK)
    await asyncio.gather(asked, sleeping)
    await server.wake()
    await server.wake()
    assert (await model.complete(ASK, sampling=GREEDY)).token_ids == before.token_ids


@pytest.mark.asyncio
async def test_what_is_no_vllm_server_is_refused(adapters: list[Path]) -> None:
    with OpenAIServer([]) as other, pytest.raises(UserError, match="is no vLLM server; ask it as openai:NAME"):
        await load_model(f"vllm:{WEIGHTS}", base_url=other.url).complete(ASK)
    with pytest.raises(ModelError, match="failed \\(unavailable\\)"):
        await load_model(f"vllm:{WEIGHTS}", base_url="http://127.0.0.1:9/v1").complete(ASK)
    absent = Failure(status=404, body=b'{"detail": "Not Found"}')
    with OpenAIServer([absent, absent], owned_by="vllm") as closed:
        server = VLLMEndpoint(WEIGHTS, base_url=closed.url)
        with pytest.raises(RefusedError, match="lets no adapters be loaded; start it with --enable-lora"):
            await VLLMModel(server).adapted(adapters[0])
        with pytest.raises(RefusedError, match="does not sleep; start it with sleep=True"):
            await server.sleep()


def test_what_cannot_be_started_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no vLLM at '/nowhere'; install it"):
        load_model(f"vllm:{WEIGHTS}", command="/nowhere")
    with pytest.raises(UserError, match="no base model in"):
        load_model(f"vllm:{tmp_path}")
    with pytest.raises(UserError, match=r"'size'.*options are .*max_loras"):
        load_model(f"vllm:{WEIGHTS}", size=3)
    with pytest.raises(UserError, match=r"'command'.*options are base_url, api_key, max_loras"):
        load_model(f"vllm:{WEIGHTS}", base_url="http://host", command="vllm")
    with pytest.raises(UserError, match="makes its own API key"):
        load_model(f"vllm:{WEIGHTS}", api_key="key")
    with pytest.raises(UserError, match="max_lora_rank is 1 to 512"):
        VLLMServer(WEIGHTS, max_lora_rank=1000)


# --- ending ---------------------------------------------------------------------------------------------------------


@needs_vllm
@pytest.mark.asyncio
async def test_a_server_that_dies_says_how_and_can_be_started_again(server: VLLMServer, adapters: list[Path]) -> None:
    model = await VLLMModel(server).adapted(adapters[0])
    before = await model.complete(ASK, sampling=GREEDY)
    mine = psutil.Process().children(recursive=True)
    family = [each for each in mine if server.log and each.environ().get("VLLM_API_KEY") == server.api_key]
    asked = asyncio.create_task(model.complete(ASK, sampling=LONG))
    await _busy(server)
    (main,) = (each for each in family if "serve" in each.cmdline() and "sh" not in each.cmdline())
    main.send_signal(signal.SIGKILL)
    with pytest.raises(ModelError, match=r"the vLLM server of .* ended with code 137; the end of its log") as said:
        await asked
    assert said.value.failure == "unavailable"
    with pytest.raises(ModelError, match=r"await server\.start\(\) starts it again"):
        await model.complete(ASK)
    await server.start()
    assert (await model.complete(ASK, sampling=GREEDY)).token_ids == before.token_ids
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


@needs_vllm
@pytest.mark.asyncio
async def test_a_start_that_fails_shows_the_end_of_the_log() -> None:
    server = VLLMServer(WEIGHTS, command=os.environ["WHET_VLLM"], args=("--no-such-flag",))
    with pytest.raises(ModelError, match=r"ended with code 2; the end of its log .*no-such-flag"):
        await VLLMModel(server).complete(ASK)
    with pytest.raises(ModelError, match=r"no-such-flag.*; await server\.start\(\)"):
        await VLLMModel(server).complete(ASK)
    assert not server.running
    assert server.log is not None
    server.log.unlink()
